"""What the losses take: types, and checks that raise before anything is compiled."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd._checks import shape_of

Axis = int | Sequence[int]
Where = jax.Array | np.ndarray | None
ArrayLike = jax.typing.ArrayLike


def at_least_float32(*arrays: ArrayLike) -> list[jax.Array]:
    """The arrays as floats of at least 32 bits: bfloat16 is raised to float32, float64 stays."""
    return [jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32)) for x in arrays]


def check_same_shape(what: str, student: ArrayLike, teacher: ArrayLike, cure: str) -> None:
    """Raises ValueError unless both have one shape."""
    if jnp.shape(student) != jnp.shape(teacher):
        raise ValueError(f"student {what} {shape_of(student)}, teacher {what} {shape_of(teacher)}: {cure}")


def check_floating(what: str, *arrays: ArrayLike) -> None:
    """Raises ValueError unless all are real floating-point arrays: integers are labels or ids, passed by mistake."""
    for x in arrays:
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise ValueError(f"{what} {shape_of(x)} are {jnp.result_type(x)}: they have to be floating-point numbers")


def check_axis(what: str, x: ArrayLike, axis: Axis) -> None:
    """Raises ValueError if the array has no such axis."""
    for one in (axis,) if isinstance(axis, int) else axis:
        if not -jnp.ndim(x) <= one < jnp.ndim(x):
            raise ValueError(f"axis {one} of {what} {shape_of(x)}: there is no such axis, give one in range as axis=")


def check_where(where: Where, shape: Sequence[int], over: str) -> None:
    """Raises ValueError unless the mask is boolean and broadcasts to ``shape``, that of what ``over`` names."""
    if where is None:
        return
    if jnp.result_type(where) != jnp.bool_:
        raise ValueError(f"where {shape_of(where)} is {jnp.result_type(where)}: it has to be boolean")
    # Without a message of NumPy's own, which names neither the mask nor what it is for.
    mask = jnp.shape(where)
    if len(mask) > len(shape) or any(
        m not in (1, n) for m, n in zip(reversed(mask), reversed(list(shape)), strict=False)
    ):
        printed = "[" + ",".join(map(str, shape)) + "]"
        raise ValueError(f"where {shape_of(where)} does not broadcast to {over} {printed}: give one flag for each")


def check_variant(variant: str, known: Sequence[str]) -> None:
    """Raises ValueError unless the loss has this variant."""
    if variant not in known:
        raise ValueError(f"variant {variant!r} is unknown: there is {', '.join(map(repr, known))}")


def check_labels(labels: ArrayLike, shape: Sequence[int], classes: int) -> None:
    """Raises ValueError unless labels are integers of this shape; if they are known now, also below ``classes``."""
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(f"labels are {jnp.result_type(labels)}: they have to be integers (soft labels: optax.losses)")
    if jnp.shape(labels) != tuple(shape):
        printed = "[" + ",".join(map(str, shape)) + "]"
        raise ValueError(f"labels {shape_of(labels)}, examples {printed}: one label for each example")
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
