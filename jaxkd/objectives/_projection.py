"""A projector that cannot do the student's work for it: an orthogonal one."""

import jax
import jax.numpy as jnp
import optax

from jaxkd.networks import Variables
from jaxkd.objectives._common import mean_over_examples
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps, pooled, valid_taps


def orthogonal_projection(student: str, teacher: str) -> Objective:
    """VkD: the student's features, through a trained orthogonal projection, have to be the teacher's, standardized.

    L = mean over examples and features of smooth_l1(z_s P - z'_t), smooth_l1(d) = d^2 / 2 for |d| < 1 and |d| - 1/2
    elsewhere. z_s and z_t are averaged over positions or tokens; z'_t = (z_t - mean) / sqrt(var + 1e-5) of each
    example's features (LayerNorm without scale and shift); P [student's width, teacher's width] has orthonormal rows,
    or orthonormal columns where the student is wider, and there is no bias: P keeps all distances (of what it does not
    drop), so that it cannot shape the student's features itself.

    With n the larger and k the smaller width, P is the first k columns of exp(A - A^T), n x n, or their transpose; the
    lower triangle A [n, k] is what is trained, from N(0, 1/n). A weight decay pulls P to the identity, not to zero.

    Published weights: 1, beside a cross-entropy of weight 1 and soft labels at T = 1 of weight 1 on a head of their own
    (DeiT students of a RegNetY-16GF on ImageNet).

    Args:
      student: a tap of the student, [batch, ..., features].
      teacher: a tap of the teacher, [batch, ..., features]; what is averaged over may differ.

    Raises:
      ValueError: in ``init``, if a tap has no features or the batches differ.

    References:
      Miles, Elezi, Deng, "VkD: Improving Knowledge Distillation using Orthogonal Projections", 2024,
      https://arxiv.org/abs/2403.06213
    """

    def cure(of_student: tuple[int, ...], of_teacher: tuple[int, ...]) -> str | None:
        if min(len(of_student), len(of_teacher)) < 2 or of_student[0] != of_teacher[0]:
            return "tap features [batch, ..., features] of the same examples"
        return None

    def init(key: jax.Array, signals: Signals) -> Variables:
        shapes = check_taps(signals, student, teacher, cure)
        n, k = sorted((shape[-1] for shape in shapes), reverse=True)
        return {"params": {"triangle": jnp.tril(jax.random.normal(key, (n, k)) / n**0.5, -1)}}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        of_student, of_teacher = map(pooled, valid_taps(signals, student, teacher))
        columns = _orthonormal(variables["params"]["triangle"])
        projection = columns if of_student.shape[-1] >= of_teacher.shape[-1] else columns.T
        # With the variance of jnp.var: standardize's own can come out negative.
        variance = jnp.var(of_teacher, -1, keepdims=True)
        standardized = jax.nn.standardize(of_teacher, variance=variance, epsilon=1e-5)
        values = jnp.mean(optax.losses.huber_loss(of_student @ projection, standardized), -1)
        return {"orthogonal_projection": mean_over_examples(values, signals.batch)}, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)


def _orthonormal(triangle: jax.Array) -> jax.Array:
    """The first k columns of the rotation that the strict lower triangle [n, k] is the generator of."""
    n, k = triangle.shape
    lower = jnp.tril(triangle, -1)
    if n <= 4 * k:
        generator = jnp.pad(lower, ((0, 0), (0, n - k)))
        return jax.scipy.linalg.expm(generator - generator.T)[:, :k]
    # The generator L E' - E L', E the first k columns of the identity, is of rank 2 k: a product U V' of [n, 2 k], of
    # which exp(U V') = 1 + U f(V' U) V' with f(M) = (exp(M) - 1) / M, the corner of exp([[M, 1], [0, 0]]).
    identity = jnp.eye(k, dtype=triangle.dtype)
    first, upper = jnp.eye(n, k, dtype=triangle.dtype), lower[:k]
    left = jnp.concatenate([lower, -first], 1)
    product = jnp.block([[upper, -identity], [lower.T @ lower, -upper.T]])
    corner = jnp.block([[product, jnp.eye(2 * k, dtype=triangle.dtype)], [jnp.zeros((2 * k, 4 * k), triangle.dtype)]])
    return first + left @ jax.scipy.linalg.expm(corner)[: 2 * k, 2 * k :] @ jnp.concatenate([identity, upper.T])
