"""What the losses on two sets of logits share: their checks, and arithmetic of distributions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd._checks import check_number, shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_logits
from jaxkd.losses._numerics import selected_logits


def logit_pair(student: ArrayLike, teacher: ArrayLike, axis: int, where: Where) -> list[jax.Array]:
    """The logits in one type, floats of at least 32 bits.

    Raises ValueError unless they are of one shape, of two classes or more, and fit the rest.
    """
    check_logits(student, teacher, axis, where)
    check_several("class", "student logits", student, axis)
    student, teacher = at_least_float32(student, teacher)
    dtype = jnp.result_type(student, teacher)
    return [student.astype(dtype), teacher.astype(dtype)]


def check_several(what: str, whose: str, x: ArrayLike, axis: int) -> None:
    """Raises ValueError if there is at most one class or candidate: a softmax over it is 1, and says nothing."""
    if jnp.shape(x)[axis] < 2:
        count = "one" if jnp.shape(x)[axis] else "no"
        raise ValueError(f"{whose} {shape_of(x)} have {count} {what} on axis {axis}: it takes two or more to compare")


def static_number(name: str, value: Any) -> float:
    """The number, of those that choose between formulas; raises ValueError if it is traced or not finite."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} is traced: it chooses the formula, so it has to be a number known beforehand")
    check_number(name, value)
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} {shape_of(value)}: it has to be one number")
    return float(value)


def without_excluded(logits: jax.Array, other: jax.Array) -> jax.Array:
    """The logits such that classes which the other side excludes, by a logit of -inf, have no part in the softmax."""
    return jnp.where(jnp.isneginf(other), jnp.finfo(logits.dtype).min, logits)


def probabilities(logits: jax.Array, axis: int, where: Where) -> jax.Array:
    """The softmax over the elements where ``where`` holds, and 0 elsewhere."""
    softmax = jax.nn.softmax(selected_logits(logits, where), axis)
    return softmax if where is None else jnp.where(where, softmax, 0)


def cross_entropy_of(p: jax.Array, log_q: jax.Array, axis: int) -> jax.Array:
    """Computes -sum p log q, with 0 log 0 = 0: also its gradient is finite where both have no mass."""
    return -jnp.sum(p * jnp.where(p > 0, log_q, 0), axis)


def polynomial(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    """The sum of coefficients[k] x^k, by Horner's rule."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
