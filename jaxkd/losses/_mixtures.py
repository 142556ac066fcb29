"""Mixtures of two softmaxes, and the divergences of the two from them."""

import functools

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where
from jaxkd.losses._pairs import polynomial, probabilities


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


def kls_to_mixture(share: float, a: jax.Array, b: jax.Array, axis: int, where: Where) -> jax.Array:
    """The sum share KL(p || m) + (1 - share) KL(q || m) of p = softmax(a), q = softmax(b), m = share p + (1 - share) q.

    Its gradients have no part that comes through m, as what changes there adds up to 0.
    """
    return _kls_to_mixture(a, b, where, share, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _kl_to_mixture(share: jax.Array, a: jax.Array, b: jax.Array, where: Where, axis: int) -> jax.Array:
    return _value_and_gradients(share, a, b, where, axis)[0]


@_kl_to_mixture.defjvp
def _kl_to_mixture_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    share, a, b, where = primals
    value, *gradients = _value_and_gradients(share, a, b, where, axis)
    of_share, of_a, of_b = (g * t for g, t in zip(gradients, tangents[:3], strict=True))
    return value, jnp.sum(of_share + of_a + of_b, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _kls_to_mixture(a: jax.Array, b: jax.Array, where: Where, share: float, axis: int) -> jax.Array:
    return _sum_and_gradients(a, b, where, share, axis)[0]


@_kls_to_mixture.defjvp
def _kls_to_mixture_jvp(share: float, axis: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    a, b, where = primals
    value, of_a, of_b = _sum_and_gradients(a, b, where, share, axis)
    return value, jnp.sum(of_a * tangents[0] + of_b * tangents[1], axis)


def _value_and_gradients(
    share: jax.Array, a: jax.Array, b: jax.Array, where: Where, axis: int
) -> tuple[jax.Array, ...]:
    """The divergence, and its gradients (of ``share``: its terms) with respect to the share and the logits."""
    p, q, m = _mixture(share, a, b, axis, where)
    difference = q - p
    beyond = (1 - share) * difference
    y = beyond / m
    terms = _terms(y, p, m, beyond)
    value = jnp.sum(terms, axis, keepdims=True)
    # The sums of p y and q y, weighted by their shares, cancel, as m y adds up to 0.
    through_m = share * jnp.sum(p * y, axis, keepdims=True)
    of_a = terms - beyond + share * p * y - p * (value + through_m)
    of_b = q * ((1 - share) * y + through_m)
    return jnp.squeeze(jnp.maximum(value, 0), axis), (1 - y) * difference, of_a, of_b


def _sum_and_gradients(a: jax.Array, b: jax.Array, where: Where, share: float, axis: int) -> tuple[jax.Array, ...]:
    """The weighted sum of the two divergences, and its gradients with respect to the logits."""
    p, q, m = _mixture(share, a, b, axis, where)
    ratio = (q - p) / m
    value, gradients = jnp.zeros((), p.dtype), []
    for weight, other, of in ((share, 1 - share, p), (1 - share, -share, q)):
        beyond = other * (q - p)
        terms = _terms(other * ratio, of, m, beyond)
        divergence = jnp.sum(terms, axis, keepdims=True)
        value += weight * divergence
        gradients.append(weight * (terms - beyond - of * divergence))
    return jnp.squeeze(jnp.maximum(value, 0), axis), *gradients


def _mixture(share: ArrayLike, a: jax.Array, b: jax.Array, axis: int, where: Where) -> tuple[jax.Array, ...]:
    """Computes p = softmax(a), q = softmax(b) and share p + (1 - share) q."""
    p, q = (probabilities(x, axis, where) for x in (a, b))
    # Where the mixture has no mass neither of the two has, and nothing is added, but nothing is divided by 0.
    return p, q, jnp.maximum(share * p + (1 - share) * q, jnp.finfo(p.dtype).tiny)


def _terms(y: jax.Array, p: jax.Array, m: jax.Array, beyond: jax.Array) -> jax.Array:
    """Terms of KL(p || m), none negative: p log(p / m) + m - p, where ``beyond`` is m - p, and y that over m.

    With p = m (1 - y) this is m ((1 - y) log(1 - y) + y) = m y^2 (1/2 + y/6 + y^2/12 + ...), which is used near 0,
    where the two cancel.
    """
    terms = 24 if y.dtype == jnp.float64 else 11
    near = m * jnp.square(y) * polynomial([1 / ((k + 1) * (k + 2)) for k in range(terms)], y)
    # Below eps, 1 - y is nothing but rounded, and so is what p adds.
    far = p * jnp.log(jnp.maximum(1 - y, jnp.finfo(y.dtype).eps)) + beyond
    return jnp.where(jnp.abs(y) < 0.25, near, far)
