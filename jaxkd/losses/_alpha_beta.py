"""Response distillation: the alpha-beta divergence of ABKD, with its limits."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where, check_variant, number
from jaxkd.losses._kl import softmax_and_logarithm
from jaxkd.losses._numerics import log_softmax, with_axis
from jaxkd.losses._pairs import logit_pair, polynomial, static_number, without_excluded

SMALLEST_POSITIVE = 1 / 16
"""From here on differences of powers may be divided by alpha and beta: what they are rounded by does not matter."""


def alpha_beta_divergence(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    temperature: ArrayLike = 1.0,
    variant: str = "continuous",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The alpha-beta divergence of ABKD: alpha and beta choose which errors of the student weigh more.

    D(p || q) = -1/(a b) sum_c [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)], a = alpha, b = beta, p = softmax(t / T),
    q = softmax(s / T). Where that divides by 0 its limits hold:
      * b = 0: 1/a^2 sum [p^a log(p^a / q^a) - p^a + q^a]; a = 1, b = 0 is KL(p || q);
      * a = 0: the same with a and b, p and q exchanged; a = 0, b = 1 is KL(q || p);
      * a + b = 0: 1/a^2 sum [log(q^a / p^a) + p^a / q^a - 1];
      * a = b = 0: half of sum (log p - log q)^2.
    ``variant="code"`` has the authors' branches, which have 1/a or 1/b instead of the squares and therefore jump.
    There is no T^2. Published for language models: a = b = 0.5 at T = 1, the mean over valid tokens, as
    (1 - w) LM + w D; the classification code has T and takes the mean over examples. Classes that the teacher
    excludes (a logit of -inf) take no part: many of these would be infinite.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      alpha: a static number. Negative exponents saturate, at the square root of the largest number at most.
      beta: a static number.
      temperature: T > 0, a scalar, or one for each example: [...].
      variant: "continuous" or "code".
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf); with "code" and a negative exponent below 0.

    Raises:
      ValueError: if the shapes differ, there is one class, ``alpha`` or ``beta`` is traced, ``temperature`` is known
        and not above 0, or ``variant`` is not known.

    References:
      Wang et al., "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via
      alpha-beta-Divergence", 2025, https://arxiv.org/abs/2505.04560
    """
    alpha, beta = static_number("alpha", alpha), static_number("beta", beta)
    check_variant(variant, ("continuous", "code"))
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    divisor = with_axis(axis, number("temperature", temperature, student, axis, above=0))
    student, teacher = (
        without_excluded(student / divisor, teacher / divisor),
        without_excluded(teacher / divisor, teacher),
    )
    if min(alpha, beta) >= SMALLEST_POSITIVE:
        return _of_positive(teacher, student, where, alpha, beta, axis)
    # Of what takes no part both are the same huge negative number, and the terms below are 0.
    log_p, log_q = (log_softmax(x, axis, where) for x in (teacher, student))
    if alpha == 0 == beta:
        return 0.5 * jnp.sum(jnp.square(log_p - log_q), axis)
    if beta == 0:
        terms, exponent = _kl_of_powers(log_p, log_q, alpha), alpha
    elif alpha == 0:
        terms, exponent = _kl_of_powers(log_q, log_p, beta), beta
    elif alpha + beta == 0:
        log_ratio = alpha * (log_p - log_q)
        terms, exponent = jnp.expm1(_capped(log_ratio)) - log_ratio, alpha
    else:
        return jnp.sum(_general(log_p, log_q, alpha, beta), axis)
    return jnp.sum(terms, axis) / (exponent if variant == "code" else exponent**2)


def _kl_of_powers(log_p: jax.Array, log_q: jax.Array, exponent: float) -> jax.Array:
    """P log(P / Q) - P + Q of the powers P = p^exponent and Q of q: none negative, from the larger of the two."""
    d = exponent * (log_p - log_q)
    below = -jnp.abs(d)
    fall = jnp.expm1(below)
    # P is the larger: P (d - 1 + e^-d); or Q is: Q (1 + e^d (d - 1)).
    factor = jnp.where(d >= 0, fall - below, below * (fall + 1) - fall)
    return _power(log_p, log_q, exponent) * factor


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def _of_positive(
    teacher: jax.Array, student: jax.Array, where: Where, alpha: float, beta: float, axis: int
) -> jax.Array:
    """The divergence for positive alpha and beta, of which no power grows without bound. Its gradients are given."""
    return _of_positive_and_gradients(teacher, student, where, alpha, beta, axis)[0]


@_of_positive.defjvp
def _of_positive_jvp(
    alpha: float, beta: float, axis: int, primals: tuple, tangents: tuple
) -> tuple[jax.Array, jax.Array]:
    teacher, student, where = primals
    value, of_teacher, of_student = _of_positive_and_gradients(teacher, student, where, alpha, beta, axis)
    return value, jnp.sum(of_teacher * tangents[0] + of_student * tangents[1], axis)


def _of_positive_and_gradients(
    teacher: jax.Array, student: jax.Array, where: Where, alpha: float, beta: float, axis: int
) -> tuple[jax.Array, ...]:
    """The divergence, and its gradients with respect to the logits.

    By log p its derivative is (p^(a+b) - p^a q^b) / b, by log q (q^(a+b) - p^a q^b) / a, and it is 1/(a+b) of the sum
    of both. All of that cancels where p and q are alike: series in d = log p - log q stand in there.
    """
    total = alpha + beta
    (p, log_p), (q, log_q) = (softmax_and_logarithm(x, axis, where) for x in (teacher, student))
    power_of_p, power_of_q = (x if total == 1 else jnp.exp(total * log_x) for x, log_x in ((p, log_p), (q, log_q)))
    of_both = jnp.exp(alpha * log_p + beta * log_q)
    d = log_p - log_q
    near = total * jnp.abs(d) < 0.5
    by_log_p = jnp.where(near, power_of_p * d * _exp_slope_near_0(-beta * d), (power_of_p - of_both) / beta)
    by_log_q = jnp.where(near, -power_of_q * d * _exp_slope_near_0(alpha * d), (power_of_q - of_both) / alpha)
    # d^(k+1), k = 1, 2 ...: of the terms by p^(a+b), the first order cancels, too.
    series = polynomial(
        [(-1) ** (k + 1) * (total**k - beta**k) / (alpha * math.factorial(k + 1)) for k in range(1, _terms(d) + 1)], d
    )
    terms = jnp.where(near, power_of_p * jnp.square(d) * series, (by_log_p + by_log_q) / total)
    of_teacher, of_student = (
        x - probabilities * jnp.sum(x, axis, keepdims=True) for x, probabilities in ((by_log_p, p), (by_log_q, q))
    )
    return jnp.sum(terms, axis), of_teacher, of_student


def _exp_slope_near_0(x: jax.Array) -> jax.Array:
    """(e^x - 1) / x for |x| < 1/2."""
    return polynomial([1 / math.factorial(k + 1) for k in range(_terms(x))], x)


def _terms(x: jax.Array) -> int:
    """How many terms a series of the exponential takes for |x| < 1/2, to the last bits of its type."""
    return 15 if x.dtype == jnp.float64 else 8


def _general(log_p: jax.Array, log_q: jax.Array, alpha: float, beta: float) -> jax.Array:
    """The terms of the divergence, by the larger of p^(a+b) and q^(a+b).

    If it is p's: p^(a+b) b [((q/p)^(a+b) - 1) / (a+b) - ((q/p)^b - 1) / b] / (a b), and the same with a and b
    exchanged if it is q's. So nothing grows without bound that is multiplied by what vanishes, and all cancels where
    p = q.
    """
    total = alpha + beta
    below = -math.copysign(1, total) * jnp.abs(log_p - log_q)
    other = jnp.where((log_p >= log_q) == (total > 0), beta, alpha).astype(below.dtype)
    factor = other * (_exp_slope(total, below) - _exp_slope(other, below))
    return _power(log_p, log_q, total) * factor / (alpha * beta)


@jax.custom_jvp
def _exp_slope(k: jax.Array | float, x: jax.Array) -> jax.Array:
    """Computes (e^(k x) - 1) / k. By x it has the derivative e^(k x) to the last bit: those of two k cancel at 0."""
    return jnp.expm1(_capped(jnp.asarray(k * x))) / k


@_exp_slope.defjvp
def _exp_slope_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    k, x = primals
    beyond_one = jnp.expm1(_capped(jnp.asarray(k * x)))
    return beyond_one / k, (beyond_one + 1) * tangents[1]


def _power(log_p: jax.Array, log_q: jax.Array, exponent: float) -> jax.Array:
    """The larger of p^exponent and q^exponent."""
    if exponent > 0:
        return jnp.exp(exponent * jnp.maximum(log_p, log_q))
    return jnp.exp(_capped(exponent * jnp.minimum(log_p, log_q)))


def _capped(exponent: jax.Array) -> jax.Array:
    """An exponent such that products of two of its exponentials, and their gradients, stay finite."""
    return jnp.minimum(exponent, math.log(float(jnp.finfo(exponent.dtype).max)) / 4)
