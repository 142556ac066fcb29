"""What the losses share: precision, checks, and softmaxes that stay finite under masks."""

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


def log_softmax(logits: jax.Array, axis: int, where: Where) -> jax.Array:
    """Log-softmax over the elements where ``where`` holds.

    The others come out as a huge negative number rather than -inf, and a row with nothing valid as a constant: finite,
    so that no gradient turns into NaN; whoever sums has to leave them out.
    """
    if where is not None:
        logits = jnp.where(where, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.log_softmax(logits, axis)


def kl_of_logits(teacher: jax.Array, student: jax.Array, axis: int, where: Where) -> jax.Array:
    """KL(p || q) of p = softmax(teacher), q = softmax(student) over ``axis``, precise also where they all but agree.

    KL = sum p d with d = log p - log q, where positive and negative terms cancel: all of them, as temperature grows.
    As p and q both add up to 1 it is also sum (p d + q - p), of which no term is negative. 0 log 0 = 0, also where
    log p is -inf.
    """
    log_p, log_q = log_softmax(teacher, axis, where), log_softmax(student, axis, where)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    shift = teacher - student
    if where is not None:
        p, q, shift = (jnp.where(where, x, 0) for x in (p, q, shift))
    # Selected before and after, here and below: the untaken branch must be finite too, or its gradient is NaN.
    possible = log_p > -jnp.inf
    apart = jnp.where(possible, log_p, 0) - jnp.where(possible, log_q, 0)
    # Two logarithms near -log(classes) leave their difference the error of their own size. Of logits that are near it
    # is the shift, less a normaliser that is as small: log(sum exp(teacher) / sum exp(student)) = log E_q exp(shift).
    near = jnp.max(jnp.abs(shift), axis, keepdims=True) < 0.5
    shift = jnp.where(near, shift, 0)
    d = jnp.where(near, shift - jnp.log1p(jnp.sum(q * jnp.expm1(shift), axis, keepdims=True)), apart)
    small = possible & (jnp.abs(d) < 0.25)
    terms = jnp.where(small, p * _exp_beyond_linear(jnp.where(small, d, 0)), p * d + (q - p))
    return jnp.sum(terms if where is None else jnp.where(where, terms, 0), axis)


def _exp_beyond_linear(d: jax.Array) -> jax.Array:
    """exp(-d) - 1 + d for |d| < 1/4: d^2/2 (1 - d/3 (1 - d/4 (...))), to the last bits of its type; so its slope."""
    tail = jnp.ones_like(d)
    for k in range(13 if d.dtype == jnp.float64 else 7, 2, -1):
        tail = 1 - d * (1 / k) * tail
    return 0.5 * jnp.square(d) * tail


def over(axis: int, value: ArrayLike) -> ArrayLike:
    """A scalar as it is; a per-example array with ``axis`` put back, so that it broadcasts against the logits."""
    return value if jnp.ndim(value) == 0 else jnp.expand_dims(value, axis)
