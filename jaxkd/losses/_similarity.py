"""Relations kept as matrices: similarities, correlations and probabilities of the examples of a batch."""

import operator

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where, check_same_shape, check_variant
from jaxkd.losses._batch import global_batch, gram, pairs_of
from jaxkd.losses._maps import check_positive_scalar
from jaxkd.losses._numerics import l2_normalize, masked_mean, masked_sum, safe_norm, safe_sqrt


def similarity_preserving(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "l2_rows",
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The similarity-preserving loss: examples that are similar to the teacher are similar to the student.

    L = 1/N^2 |G_t / rows - G_s / rows|_F^2, with G = F F^T [N, N], F the flattened features, and each row of G divided
    by its norm.

    Variants: ``"l2_rows"``, the paper: rows have L2 norm 1. ``"l1_rows"``: rows have L1 norm 1, as torchdistill has
    it, whose weight is 1; values are smaller by about N.

    Published weight: 3000, beside a cross-entropy with 1 (CIFAR-100, ``"l2_rows"``).

    Args:
      student: features [batch, ...], flattened.
      teacher: features [batch, ...] of the same examples; the width may differ.
      variant: ``"l2_rows"`` or ``"l1_rows"``.
      where: bool [batch], the examples that take part.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, in [0, 4/N]. 0 where no example takes part.

    Raises:
      ValueError: if the batches differ or have one example, the variant is unknown, or ``where`` does not fit.

    References:
      Tung, Mori, "Similarity-Preserving Knowledge Distillation", 2019, https://arxiv.org/abs/1907.09682
    """
    check_variant(variant, ("l2_rows", "l1_rows"))
    batch = [("student features", student), ("teacher features", teacher)]
    arrays, _, count = global_batch(batch, where, axis_name)

    def rows(x: jax.Array) -> jax.Array:
        similarities = gram(x)
        if variant == "l2_rows":
            return l2_normalize(similarities, 1)
        return similarities / jnp.maximum(jnp.sum(jnp.abs(similarities), 1, keepdims=True), 1e-12)

    # Masked examples are zeros by now, and so are their rows and columns.
    student, teacher = map(rows, arrays)
    return jnp.sum(jnp.square(student - teacher)) / count**2


def correlation_congruence(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "adjacent",
    gamma: ArrayLike = 0.4,
    order: int = 2,
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The correlation congruence loss (CC), on embeddings of both.

    Variants:
      * ``"adjacent"``: mean over n < N of sum_d delta_n,d delta_n+1,d, delta = |student - teacher|. What the authors'
        code, and RepDistiller's tables, have in the place of a kernel. It depends on the order of the examples.
      * ``"kernel"``, the paper's formula: 1/N^2 |K_s - K_t|_F^2, K_ij = sum_p exp(-2 gamma) (2 gamma)^p / p!
        (e_i . e_j)^p, p = 0 ... order: for embeddings of length 1 the Taylor series of exp(-gamma |e_i - e_j|^2).
        Nothing is normalised here.
      * ``"kernel_norm"``, as torchdistill has it: 1/N^2 |K_s - K_t|_F, not squared. Where both agree its gradient is
        given as 0.

    Published weights: 0.02 of ``"adjacent"``, beside a cross-entropy with 1 (CIFAR-100, linear embeddings of 128);
    0.003 of ``"kernel_norm"``, gamma 0.4, order 2.

    Args:
      student: embeddings [batch, ...], flattened.
      teacher: embeddings [batch, ...], the same shape; for the kernels the width may differ.
      variant: ``"adjacent"``, ``"kernel"`` or ``"kernel_norm"``.
      gamma: of the kernels, a scalar above 0.
      order: of the kernels, the highest power, at least 1.
      where: bool [batch], the examples that take part; those on both sides of a masked one become adjacent.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, in [0, inf). 0 where no example takes part, or for ``"adjacent"`` one.

    Raises:
      ValueError: if shapes differ or the batch has one example, the variant is unknown, gamma or order is out of range,
        or ``where`` does not fit.

    References:
      Peng et al., "Correlation Congruence for Knowledge Distillation", 2019, https://arxiv.org/abs/1904.01802
    """
    check_variant(variant, ("adjacent", "kernel", "kernel_norm"))
    check_positive_scalar("gamma", gamma)
    order = _whole_order(order)
    if variant == "adjacent":
        check_same_shape("embeddings", student, teacher, "embed both in one space first")
    batch = [("student embeddings", student), ("teacher embeddings", teacher)]
    arrays, where, count = global_batch(batch, where, axis_name)
    if variant == "adjacent":
        delta = jnp.abs(arrays[0] - arrays[1])
        neighbours = None
        if where is not None:
            # Those that take part first, in their order.
            first = jnp.argsort(~where, stable=True)
            delta, neighbours = delta[first], where[first][1:]
        return masked_mean(jnp.sum(delta[:-1] * delta[1:], 1), neighbours, 0)

    # Between masked examples, and theirs and all others, products are 0 and kernels the same.
    of_student, of_teacher = (_kernel(gram(x), gamma, order) for x in arrays)
    squared = jnp.sum(jnp.square(of_student - of_teacher))
    return (squared if variant == "kernel" else safe_sqrt(squared)) / count**2


def _whole_order(order: int) -> int:
    try:
        whole = operator.index(order)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"order is {order}: it has to be a whole number, 1 or more")
    return whole


def _kernel(products: jax.Array, gamma: ArrayLike, order: int) -> jax.Array:
    """The series of the Gaussian kernel of vectors of length 1, given their products, by Horner's rule."""
    gamma = jnp.asarray(gamma, products.dtype)
    series = jnp.ones_like(products)
    for p in range(order, 0, -1):
        series = 1 + 2 * gamma / p * products * series
    return jnp.exp(-2 * gamma) * series


def probabilistic_transfer(
    student: ArrayLike, teacher: ArrayLike, *, where: Where = None, axis_name: str | None = None
) -> jax.Array:
    """Probabilistic knowledge transfer (PKT): the probability of examples to be neighbours is the teacher's.

    L = 1/N^2 sum_ij p_ij log((p_ij + e) / (q_ij + e)), e = 1e-7, with p of the teacher and q of the student: cosine
    similarities of the examples, (cos + 1) / 2, divided by the sum of their row. cos has the norms plus e as the
    divisor. The paper sums over i and j and leaves i = j out; its code, and with it the published weight, takes the
    mean over all N^2 entries, i = j included.

    Published weight: 30000, beside a cross-entropy with 1 (CIFAR-100).

    Args:
      student: features [batch, ...], flattened.
      teacher: features [batch, ...] of the same examples; the width may differ.
      where: bool [batch], the examples that take part.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, 0 where both have the same cosines, and above it (but for what e does)
      elsewhere. 0 where no example takes part.

    Raises:
      ValueError: if the batches differ or have one example, or ``where`` does not fit.

    References:
      Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", 2018,
      https://arxiv.org/abs/1803.10837
    """
    batch = [("student features", student), ("teacher features", teacher)]
    arrays, where, _ = global_batch(batch, where, axis_name)
    pairs, eps = pairs_of(where), 1e-7

    def probabilities(x: jax.Array) -> jax.Array:
        x = x / (safe_norm(x, 1, keepdims=True) + eps)
        similarities = (gram(x) + 1) / 2
        # Rounding may take opposites below 0, and the logarithm with them.
        similarities = jnp.where(similarities < 0, 0, similarities)
        totals = masked_sum(similarities, pairs, 1, keepdims=True)
        if pairs is not None:
            totals = jnp.where(totals > 0, totals, 1)
        return similarities / totals

    student, teacher = map(probabilities, arrays)
    return masked_mean(teacher * jnp.log((teacher + eps) / (student + eps)), pairs, (0, 1))
