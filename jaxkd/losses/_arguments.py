"""What the losses take: types, and checks that raise before anything is compiled."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd._checks import check_number, shape_of

Axis = int | Sequence[int]
Where = jax.Array | np.ndarray | None
ArrayLike = jax.typing.ArrayLike


def at_least_float32(*arrays: ArrayLike) -> list[jax.Array]:
    """The arrays as floats of at least 32 bits: bfloat16 is raised to float32, float64 stays."""
    return [jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32)) for x in arrays]


def number(
    name: str,
    value: ArrayLike,
    logits: jax.Array,
    axis: int | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
) -> jax.Array:
    """A parameter in the type of the logits: a scalar or, given the ``axis`` of the classes, also one an example.

    Raises ValueError if it has another shape, numbers of examples are integers, or known ones are out of range.
    """
    # Before their range, which labels in their place may miss as well.
    if getattr(value, "ndim", 0) > 0:
        _check_numbers_of_examples(name, value, jnp.shape(logits), axis)
    check_number(name, value, above=above, below=below, within=within)
    return jnp.asarray(value).astype(logits.dtype)


def _check_numbers_of_examples(name: str, value: ArrayLike, shape: tuple[int, ...], axis: int | None) -> None:
    if axis is None:
        raise ValueError(f"{name} {shape_of(value)}: it has to be a scalar, one for all examples")
    if jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise ValueError(
            f"{name} {shape_of(value)} is {jnp.result_type(value)}: numbers of examples have to be floating-point; "
            "labels have no place here, and numbers that are meant take .astype(float)"
        )
    examples = tuple(np.delete(shape, axis).tolist())
    if jnp.shape(value) != examples:
        raise ValueError(
            f"{name} {shape_of(value)}, examples {_printed(examples)}: give a scalar, or one number for each example"
        )


def sequence(name: str, values: Any) -> tuple[Any, ...]:
    """The values as a tuple; raises ValueError if it is one value, or none."""
    try:
        values = tuple(values)
    except TypeError:
        raise ValueError(f"{name} is {values}: it has to be a sequence, ({values},) for one") from None
    if not values:
        raise ValueError(f"{name} is empty: give one or more")
    return values


def check_array(what: str, x: Any) -> None:
    """Raises TypeError for what is no array, a list for one: as ``jax.numpy`` does, but without its contents."""
    if not hasattr(x, "dtype") and not isinstance(x, bool | int | float | complex):
        raise TypeError(f"{what}: a {type(x).__name__} is no array; give one, as jnp.asarray makes it")


def check_same_shape(what: str, student: ArrayLike, teacher: ArrayLike, cure: str) -> None:
    """Raises ValueError unless both have one shape. Where only their batches differ, ``cure`` would not help."""
    if jnp.shape(student) != jnp.shape(teacher):
        if jnp.ndim(student) > 1 and jnp.shape(student)[1:] == jnp.shape(teacher)[1:]:
            cure = "they have to have one shape, of the same examples in the same order"
        raise ValueError(f"student {what} {shape_of(student)}, teacher {what} {shape_of(teacher)}: {cure}")


def check_floating(what: str, *arrays: ArrayLike) -> None:
    """Raises ValueError unless all are real floating-point arrays: integers are labels or ids, passed by mistake."""
    for x in arrays:
        check_array(what, x)
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise ValueError(f"{what} {shape_of(x)} are {jnp.result_type(x)}: they have to be floating-point numbers")


def check_axis(what: str, x: ArrayLike, axis: int) -> None:
    """Raises ValueError unless it is one axis that the array has."""
    try:
        number_of_axis = operator.index(axis)
    except TypeError:
        raise ValueError(f"axis of {what} {shape_of(x)} is {axis!r}: it has to be one whole number") from None
    if not -jnp.ndim(x) <= number_of_axis < jnp.ndim(x):
        raise ValueError(f"axis {axis} of {what} {shape_of(x)}: there is no such axis, give one in range as axis=")


def check_axes(what: str, x: ArrayLike, axes: Axis) -> None:
    """Raises ValueError unless the array has the axis, or all of several."""
    for axis in axes if isinstance(axes, Sequence) else (axes,):
        check_axis(what, x, axis)


def check_where(where: Where, shape: Sequence[int], over: str) -> None:
    """Raises ValueError unless the mask is boolean and broadcasts to ``shape``, that of what ``over`` names."""
    if where is None:
        return
    check_array("where", where)
    if jnp.result_type(where) != jnp.bool_:
        raise ValueError(f"where {shape_of(where)} is {jnp.result_type(where)}: it has to be boolean")
    # Without a message of NumPy's own, which names neither the mask nor what it is for.
    mask = jnp.shape(where)
    if len(mask) > len(shape) or any(
        m not in (1, n) for m, n in zip(reversed(mask), reversed(list(shape)), strict=False)
    ):
        raise ValueError(
            f"where {shape_of(where)} does not broadcast to {over} {_printed(shape)}: give one flag for each"
        )


def check_variant(variant: str, known: Sequence[str]) -> None:
    """Raises ValueError unless the loss has this variant."""
    if variant not in known:
        raise ValueError(f"variant {variant!r} is unknown: there is {', '.join(map(repr, known))}")


def check_labels(labels: ArrayLike, shape: Sequence[int], classes: int) -> None:
    """Raises ValueError unless labels are integers of this shape; if they are known now, also below ``classes``."""
    check_array("labels", labels)
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(
            f"labels {shape_of(labels)} are {jnp.result_type(labels)}: they have to be integers {_printed(shape)} "
            "(of one-hot labels their argmax; for soft ones see optax.losses)"
        )
    if jnp.shape(labels) != tuple(shape):
        raise ValueError(f"labels {shape_of(labels)}, examples {_printed(shape)}: one label for each example")
    if not isinstance(labels, jax.core.Tracer) and np.any(np.asarray(labels) >= classes):
        largest = np.max(np.asarray(labels))
        raise ValueError(
            f"labels go up to {largest}, of {classes} classes: they lie in [0, classes), or below 0 for none"
        )


def check_logits(student: ArrayLike, teacher: ArrayLike, axis: int, where: Where) -> None:
    """Raises ValueError unless both are floating-point logits of one shape that has ``axis`` and fits ``where``."""
    check_floating("student logits", student)
    check_floating("teacher logits", teacher)
    cure = "they have to have one shape; a teacher of other classes needs its logits mapped to the student's first"
    check_same_shape("logits", student, teacher, cure)
    check_axis("logits", student, axis)
    check_where(where, jnp.shape(student), "logits")


def _printed(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


def check_directions(whose: str, x: ArrayLike, axis: int) -> None:
    """Raises ValueError for features of width 1: their direction is a sign, and has no gradient."""
    if jnp.shape(x)[axis] == 1:
        raise ValueError(f"{whose} {shape_of(x)} have one feature on axis {axis}: a direction takes two or more")
