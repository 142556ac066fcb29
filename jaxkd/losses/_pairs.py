"""What the losses on two sets of logits share: their checks, and arithmetic of distributions."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_logits


def logit_pair(student: ArrayLike, teacher: ArrayLike, axis: int, where: Where) -> list[jax.Array]:
    """The logits as floats of at least 32 bits; raises ValueError unless they are of one shape and fit the rest."""
    check_logits(student, teacher, axis, where)
    check_several("class", student, axis)
    return at_least_float32(student, teacher)


def check_several(what: str, x: ArrayLike, axis: int) -> None:
    """Raises ValueError if there is one class or candidate: a softmax over it is 1, and says nothing."""
    if jnp.shape(x)[axis] < 2:
        raise ValueError(f"{shape_of(x)} has one {what} on axis {axis}: it takes two or more to compare")


def check_share(name: str, value: ArrayLike) -> None:
    """Raises ValueError if a number known now is not strictly between 0 and 1."""
    if not isinstance(value, jax.core.Tracer) and not np.all((np.asarray(value) > 0) & (np.asarray(value) < 1)):
        raise ValueError(f"{name} is {value}: it has to lie between 0 and 1, both excluded")


def static_number(name: str, value: Any) -> float:
    """The number, of those that choose between formulas; raises ValueError if it is traced or not finite."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} is traced: it chooses the formula, so it has to be a number known beforehand")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: it has to be finite")
    return float(value)


def without_excluded(logits: jax.Array, other: jax.Array) -> jax.Array:
    """The logits such that classes which the other side excludes, by a logit of -inf, have no part in the softmax."""
    return jnp.where(jnp.isneginf(other), jnp.finfo(logits.dtype).min, logits)


def probabilities(logits: jax.Array, axis: int, where: Where) -> jax.Array:
    """The softmax over the elements where ``where`` holds, and 0 elsewhere."""
    if where is None:
        return jax.nn.softmax(logits, axis)
    return jnp.where(where, jax.nn.softmax(jnp.where(where, logits, jnp.finfo(logits.dtype).min), axis), 0)


def cross_entropy_of(p: jax.Array, log_q: jax.Array, axis: int) -> jax.Array:
    """Computes -sum p log q, with 0 log 0 = 0: also its gradient is finite where both have no mass."""
    return -jnp.sum(p * jnp.where(p > 0, log_q, 0), axis)


def polynomial(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    """The sum of coefficients[k] x^k, by Horner's rule."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value
