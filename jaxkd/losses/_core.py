"""What the losses share: precision, checks, and softmaxes that stay finite under masks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Axis = int | Sequence[int]
Where = jax.Array | np.ndarray | None
ArrayLike = jax.typing.ArrayLike


def at_least_float32(*arrays: ArrayLike) -> list[jax.Array]:
    """The arrays as floats of at least 32 bits: bfloat16 is raised to float32, float64 stays."""
    return [jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32)) for x in arrays]


def shape_of(x: Any) -> str:
    """The shape of an array (or of a ``jax.ShapeDtypeStruct``) as the error messages print it: ``[64,10]``."""
    return "[" + ",".join(map(str, x.shape if hasattr(x, "shape") else np.shape(x))) + "]"


def check_same_shape(what: str, student: ArrayLike, teacher: ArrayLike, cure: str) -> None:
    """Raises ValueError unless both have one shape."""
    if jnp.shape(student) != jnp.shape(teacher):
        raise ValueError(f"student {what} {shape_of(student)}, teacher {what} {shape_of(teacher)}: {cure}")


def check_number(
    name: str, value: Any, *, above: float | None = None, within: tuple[float, float] | None = None
) -> None:
    """Raises ValueError if a number known now is out of its range; traced values and schedules pass unseen."""
    if not isinstance(value, int | float | np.ndarray | np.generic):
        return
    if above is not None and not np.all(np.asarray(value) > above):
        raise ValueError(f"{name} is {value}: it has to be above {above}")
    if within is not None and not np.all((np.asarray(value) >= within[0]) & (np.asarray(value) <= within[1])):
        raise ValueError(f"{name} is {value}: it has to lie in [{within[0]}, {within[1]}]")


def log_softmax(logits: jax.Array, axis: int, where: Where) -> jax.Array:
    """Log-softmax over the elements where ``where`` holds.

    The others come out as a huge negative number rather than -inf, and a row with nothing valid as a constant: finite,
    so that no gradient turns into NaN; whoever sums has to leave them out.
    """
    if where is not None:
        logits = jnp.where(where, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.log_softmax(logits, axis)


def kl_of_log_probabilities(log_p: jax.Array, log_q: jax.Array, axis: int, where: Where) -> jax.Array:
    """KL(p || q) = sum p (log p - log q) over ``axis``, with 0 log 0 = 0 also where log p is -inf."""
    valid = log_p > -jnp.inf
    if where is not None:
        valid &= where
    # Selected before and after: the untaken branch must be finite too, or its gradient is NaN.
    log_p, log_q = jnp.where(valid, log_p, 0), jnp.where(valid, log_q, 0)
    return jnp.sum(jnp.where(valid, jnp.exp(log_p) * (log_p - log_q), 0), axis)


def over(axis: int, value: ArrayLike) -> ArrayLike:
    """A scalar as it is; a per-example array with ``axis`` put back, so that it broadcasts against the logits."""
    return value if jnp.ndim(value) == 0 else jnp.expand_dims(value, axis)
