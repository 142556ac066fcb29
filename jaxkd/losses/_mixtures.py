"""Mixtures of two softmaxes, and the divergence of one of the two from them."""

import functools

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where
from jaxkd.losses._pairs import probabilities


def log_mixture(share: ArrayLike, a: jax.Array, b: jax.Array, axis: int, where: Where) -> jax.Array:
    """The logarithm of share softmax(a) + (1 - share) softmax(b)."""
    p, q = (probabilities(x, axis, where) for x in (a, b))
    # A class that has no mass in the mixture has none in either: its logarithm is not seen, but must have a gradient.
    return jnp.log(jnp.maximum(share * p + (1 - share) * q, jnp.finfo(p.dtype).tiny))


def kl_to_mixture(share: ArrayLike, a: jax.Array, b: jax.Array, axis: int, where: Where) -> jax.Array:
    """KL(p || m) of p = softmax(a) and the mixture m = share p + (1 - share) softmax(b), precise also near 0.

    ``share`` is a scalar, or has ``axis`` with length 1. The gradients are given, not derived: those of the ratios of
    probabilities overflow on the way.
    """
    return _kl_to_mixture(jnp.asarray(share, jnp.result_type(a, b)), a, b, where, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _kl_to_mixture(share: jax.Array, a: jax.Array, b: jax.Array, where: Where, axis: int) -> jax.Array:
    return _value_and_gradients(share, a, b, where, axis)[0]


@_kl_to_mixture.defjvp
def _kl_to_mixture_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    share, a, b, where = primals
    value, *gradients = _value_and_gradients(share, a, b, where, axis)
    of_share, of_a, of_b = (g * t for g, t in zip(gradients, tangents[:3], strict=True))
    return value, jnp.sum(of_share + of_a + of_b, axis)


def _value_and_gradients(
    share: jax.Array, a: jax.Array, b: jax.Array, where: Where, axis: int
) -> tuple[jax.Array, ...]:
    """The divergence, and its gradients (of ``share``: its terms) with respect to the share and the logits.

    With x = m / p - 1 it is the sum of p (x - log(1 + x)), of which no term is negative, as p x = m - p adds up to 0.
    """
    p, q = (probabilities(x, axis, where) for x in (a, b))
    beyond = (1 - share) * (q - p)
    tiny = jnp.finfo(p.dtype).tiny
    x = beyond / jnp.maximum(p, tiny)
    log_ratio = jnp.log1p(x)
    # Of x alone, so that what it is rounded by cancels, too.
    value = jnp.maximum(jnp.sum(jnp.where(p > tiny, p * (x - log_ratio), beyond), axis), 0)
    p_of_m = 1 / (1 + x)
    by_p = share * x * p_of_m - log_ratio
    by_q = (1 - share) * x * p_of_m
    of_a = p * (by_p - jnp.sum(p * by_p, axis, keepdims=True))
    of_b = q * (by_q - jnp.sum(q * by_q, axis, keepdims=True))
    return value, p_of_m * (q - p), of_a, of_b
