"""The Kullback-Leibler divergence of two softmaxes, precise at every temperature."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import Where
from jaxkd.losses._numerics import selected_logits
from jaxkd.losses._pairs import polynomial, without_excluded


def kl_of_logits(
    teacher: jax.Array, student: jax.Array, axis: int, where: Where, *, excluding: bool = False
) -> jax.Array:
    """KL(p || q) of p = softmax(teacher), q = softmax(student) over ``axis``, precise also where they all but agree.

    ``excluding``: classes without q, of logit -inf, take no part in p either; else KL is infinite if they have p.

    Its gradients are given, not derived: p (d - KL) with respect to the teacher's logits, d = log p - log q, and q - p
    with respect to the student's. 0 log 0 = 0, also where log p is -inf.
    """
    return _kl_of_logits(teacher, student, where, axis, excluding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _kl_of_logits(teacher: jax.Array, student: jax.Array, where: Where, axis: int, excluding: bool) -> jax.Array:
    return _kl_and_gradients(teacher, student, where, axis, excluding)[0]


@_kl_of_logits.defjvp
def _kl_of_logits_jvp(axis: int, excluding: bool, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    teacher, student, where = primals
    value, of_teacher, of_student = _kl_and_gradients(teacher, student, where, axis, excluding)
    return value, jnp.sum(of_teacher * tangents[0] + of_student * tangents[1], axis)


def _kl_and_gradients(
    teacher: jax.Array, student: jax.Array, where: Where, axis: int, excluding: bool
) -> tuple[jax.Array, ...]:
    """The divergence, and its gradients with respect to the logits of teacher and student.

    The terms of KL = sum p d, d = log p - log q, cancel: all of them, as temperature grows, and what is left is the
    error of a logarithm near -log(classes). As p and q both add up to 1, KL is also the sum of p d + q - p, of which
    no term is negative; where d is small, q - p is p (exp(-d) - 1), by a series. The normalisers' error e is in all d
    alike. As sum (q - p) = 0 it is known, e = sum p (1 - exp(-d)), and what it does is undone: to first order in
    q - p and in d, to second order in KL, where there is no first one.
    """
    if excluding:
        teacher = without_excluded(teacher, student)
    (p, from_max, log_total), (q, student_from_max, student_log_total) = (
        _softmax(x, axis, where) for x in (teacher, student)
    )
    # A class without p, by -inf or under ``where``, adds its q, whatever d is, as long as it is finite and not small.
    d = jnp.where(p > 0, (from_max - student_from_max) - (log_total - student_log_total), 1)
    small = jnp.abs(d) < 0.5
    beyond = _exp_beyond_linear(d)
    difference = jnp.where(small, p * (beyond - d), q - p)
    error = -jnp.sum(difference, axis, keepdims=True)
    value = jnp.sum(jnp.where(small, p * beyond, p * d + difference), axis, keepdims=True)
    value = jnp.maximum(value - 0.5 * jnp.square(error), 0)
    of_teacher = p * (d - error - value)
    of_student = difference + error * q
    return jnp.squeeze(value, axis), of_teacher, of_student


def softmax_and_logarithm(logits: jax.Array, axis: int, where: Where) -> tuple[jax.Array, jax.Array]:
    """The softmax, 0 where ``where`` does not hold, and its logarithm, a huge negative number there."""
    softmax, from_max, log_total = _softmax(logits, axis, where)
    return softmax, from_max - log_total


def _softmax(logits: jax.Array, axis: int, where: Where) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The softmax, 0 where ``where`` does not hold, and the two of which log-softmax is the difference.

    These are the logits less their maximum, and the logarithm of the sum of the exponentials of that.
    """
    logits = selected_logits(logits, where)
    from_max = logits - jnp.max(logits, axis, keepdims=True)
    exps = jnp.exp(from_max)
    total = jnp.sum(exps, axis, keepdims=True)
    softmax = exps / total
    return softmax if where is None else jnp.where(where, softmax, 0), from_max, jnp.log(total)


def _exp_beyond_linear(x: jax.Array) -> jax.Array:
    """exp(-x) - 1 + x for |x| < 1/2: x^2 (1/2! - x/3! + x^2/4! ...), to the last bits of its type."""
    terms = 15 if x.dtype == jnp.float64 else 7
    return jnp.square(x) * polynomial([(-1) ** k / math.factorial(k + 2) for k in range(terms)], x)
