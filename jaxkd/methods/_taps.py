"""Which features a method matches: those that a network's roles name, unless the user names taps."""

from collections.abc import Sequence

from jaxkd.networks import Network

Given = str | Sequence[str] | None
"""Taps that the user names, or None: the method's own, by role."""


def taps(method: str, side: str, network: Network, role: str, given: Given) -> tuple[str, ...]:
    """The taps of one side, at least one: those given, or all of a role, in the names that roles give them.

    Raises:
      ValueError: if nothing is given and the network has no such role.
    """
    if given is not None:
        named = (given,) if isinstance(given, str) else tuple(given)
        if not named:
            raise ValueError(f"method {method}: {side}_taps is empty: name at least one tap")
        return named
    paths = network.roles.get(role, ())
    if not paths:
        there = ", ".join(f'"{name}"' for name, of_role in network.roles.items() if of_role) or "none"
        raise ValueError(
            f'method {method} takes the role "{role}" of the {side}, which has no such role (its roles: {there}): take '
            f"a model that has it, or name taps by {side}_taps"
        )
    return (role,) if len(paths) == 1 else tuple(f"{role}[{i}]" for i in range(len(paths)))


def one_pair(
    method: str,
    student: Network,
    teacher: Network,
    role: str,
    student_taps: Given,
    teacher_taps: Given,
    *,
    of_role: str = "last",
) -> tuple[str, str]:
    """One tap of each side: the ``"last"`` of the role's, or the ``"middle"`` one.

    Raises:
      ValueError: if a side has no such role, or more than one tap is given.
    """
    chosen = []
    for side, network, given in (("student", student, student_taps), ("teacher", teacher, teacher_taps)):
        names = taps(method, side, network, role, given)
        if given is not None and len(names) > 1:
            raise ValueError(f"method {method} takes one tap of the {side}, and {side}_taps has {len(names)}")
        chosen.append(names[-1] if of_role == "last" else names[len(names) // 2])
    return chosen[0], chosen[1]


def pairs(
    method: str,
    student: Network,
    teacher: Network,
    role: str,
    student_taps: Given,
    teacher_taps: Given,
    *,
    least: int = 1,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """As many taps of both sides, from first to last.

    Raises:
      ValueError: if a side has no such role, both do not have as many, or they have fewer than ``least``.
    """
    of_student = taps(method, "student", student, role, student_taps)
    of_teacher = taps(method, "teacher", teacher, role, teacher_taps)
    if len(of_student) != len(of_teacher):
        raise ValueError(
            f"method {method} compares pairs of layers: {len(of_student)} of the student "
            f"({', '.join(of_student)}), {len(of_teacher)} of the teacher ({', '.join(of_teacher)}): name as many of "
            "both by student_taps and teacher_taps"
        )
    if len(of_student) < least:
        raise ValueError(
            f"method {method} needs {least} layers at least, and has {', '.join(of_student)}: name more by "
            "student_taps and teacher_taps, or take a model of more stages"
        )
    return of_student, of_teacher
