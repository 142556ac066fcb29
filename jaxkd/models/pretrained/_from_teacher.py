"""A student's start from its teacher's layers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of

_NUMBERED = re.compile(r"(.*\D)(\d+)")


def init_from_teacher(
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
    layers: Sequence[int] | None = None,
    keep: Sequence[str] = (),
) -> dict[str, Any]:
    """Copies a teacher's layers into a student of the same family with fewer of them.

    Modules that differ in their number only (``"block1"``, ``"block2"`` ...) are layers of a stack. Of a stack of m in
    the teacher, layer i of the student's n (from 0) is layer round(i (m - 1) / (n - 1)): the first, the last, and those
    evenly between; 0, 2, 4, 7, 9, 11 for 6 of 12. Stages are a stack of equally many, so that blocks are copied
    within matching stages. What has no number is copied by its name.

    Args:
      student: the student's variables. Their values are not used, but where ``keep`` says so.
      teacher: the teacher's variables.
      layers: which layer of the teacher, from 0, each of the student's is, for the outermost stack (a transformer's
        blocks) instead of evenly spread ones. Published: 0, 2, 4, 7, 9, 11 for DistilBERT of BERT base.
      keep: paths of modules that stay as they are in the student, without their collection: ``"classifier"`` where the
        classes are others.

    Returns:
      The student's variables, copied from the teacher's in the student's dtypes.

    Raises:
      ValueError: if ``layers`` or ``keep`` do not fit, or the teacher lacks a variable or has it in another shape; the
        error lists them.

    References:
      Sanh et al., "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", 2019,
      arXiv:1910.01108.
    """
    if layers is not None and not any(map(_NUMBERED.fullmatch, student.get("params", {}))):
        raise ValueError("layers are given, but the student has no numbered layers at its top")
    problems: list[str] = []
    unused = set(keep)

    def copy(mine: Any, theirs: Any, path: str) -> Any:
        if path in keep:
            unused.discard(path)
            return mine
        if isinstance(mine, Mapping):
            if not isinstance(theirs, Mapping):
                problems.append(f"{path} (not in the teacher)")
                return mine
            partners = _partners(mine, theirs, layers if path == "" else None)
            prefix = f"{path}/" if path else ""
            return {name: copy(mine[name], theirs.get(partners[name]), prefix + name) for name in mine}
        if theirs is None:
            problems.append(f"{path} (not in the teacher)")
        elif jnp.shape(mine) != jnp.shape(theirs):
            problems.append(f"{path} ({shape_of(mine)}, teacher {shape_of(theirs)})")
        else:
            # A copy: a donated student must not take the teacher's buffers with it.
            return jnp.array(theirs, dtype=jax.dtypes.result_type(mine), copy=True)
        return mine

    copied = {name: copy(tree, teacher.get(name, {}), "") for name, tree in student.items()}
    if unused:
        raise ValueError(f"keep names {', '.join(sorted(unused))}, which the student has not")
    if problems:
        listed = ", ".join(problems[:10]) + (f" ... and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ValueError(f"not to be copied from the teacher: {listed}; what shall stay as it is, name in keep=(...)")
    return copied


def _partners(mine: Mapping[str, Any], theirs: Mapping[str, Any], layers: Sequence[int] | None) -> dict[str, str]:
    """Returns the teacher's name for each of the student's."""
    partners = {name: name for name in mine}
    stacks: dict[str, list[int]] = {}
    for name in mine:
        if match := _NUMBERED.fullmatch(name):
            stacks.setdefault(match[1], []).append(int(match[2]))
    for stem, numbers in stacks.items():
        numbers.sort()
        available = sorted(int(m[2]) for name in theirs if (m := _NUMBERED.fullmatch(name)) and m[1] == stem)
        if not available or (layers is None and len(numbers) == len(available)):
            continue
        chosen = _evenly(len(numbers), len(available)) if layers is None else list(layers)
        if len(chosen) != len(numbers) or not all(0 <= i < len(available) for i in chosen):
            raise ValueError(
                f"layers are {chosen}: they have to be {len(numbers)}, one for each {stem} of the student, each one of "
                f"the teacher's 0 to {len(available) - 1}"
            )
        partners |= {f"{stem}{n}": f"{stem}{available[i]}" for n, i in zip(numbers, chosen, strict=True)}
    return partners


def _evenly(count: int, total: int) -> list[int]:
    """0, the last of ``total``, and those evenly between; the middle ones rounded."""
    if count > total:
        raise ValueError(f"the student has {count} layers of a stack, the teacher {total}: it has too few to copy")
    return [0] if count == 1 else [round(i * (total - 1) / (count - 1)) for i in range(count)]
