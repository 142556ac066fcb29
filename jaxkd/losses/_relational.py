"""Relational distillation: distances and angles between the examples of a batch.

Notation: s_i, t_i are the features of example i of student and teacher, N is how many examples take part.
"""

import jax
import jax.numpy as jnp
import optax

from jaxkd.losses._angles import sum_over_triplets
from jaxkd.losses._arguments import ArrayLike, Where, check_directions, check_variant
from jaxkd.losses._batch import global_batch, gram, pairs_of
from jaxkd.losses._numerics import masked_mean, safe_sqrt


def relational_distance(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "positive_pairs",
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The distance-wise loss of RKD: both batches have the same distances between examples, up to one scale each.

    L = 1/N^2 sum_ij huber(|s_i - s_j| / mu_s - |t_i - t_j| / mu_t), huber(x) = x^2/2 up to |x| = 1, |x| - 1/2 beyond,
    where mu is the mean distance. The paper has the sum over pairs; its code, and with it the published weights, the
    mean over all N^2 entries, zeros of i = j included.

    Variants:
      * ``"positive_pairs"``: mu is the mean of the distances above 0, as in the paper's code. Duplicates have
        distance 0, no part in mu, and no gradient. (The code takes distances below 1e-6 for 1e-6, and so counts
        duplicates; other batches give the same.)
      * ``"all_pairs"``: mu is the mean of all N^2 distances, those of i = j included, as PaddleClas has it: distances
        come out larger by N / (N - 1), and a duplicate makes the others larger still.

    Published weight: 25, beside ``relational_angle`` with 50 and a cross-entropy with 1 (CIFAR-100).

    Args:
      student: features [batch, ...], flattened.
      teacher: features [batch, ...] of the same examples; the width may differ.
      variant: ``"positive_pairs"`` or ``"all_pairs"``.
      where: bool [batch], the examples that take part.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, in [0, inf). 0 where fewer than three examples take part: of two, the one
      distance is its own mean. Distances below what the features' precision resolves (1e-3 of the batch's spread in
      float32) count as 0.

    Raises:
      ValueError: if the batches differ or have fewer than three examples, the variant is unknown, or ``where`` does not
        fit.

    References:
      Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, https://arxiv.org/abs/1904.05068
    """
    check_variant(variant, ("positive_pairs", "all_pairs"))
    batch = [("student features", student), ("teacher features", teacher)]
    arrays, where, _ = global_batch(batch, where, axis_name, least=3)
    pairs = pairs_of(where)
    student, teacher = (_over_mean(_distances(x, where), pairs, variant) for x in arrays)
    return masked_mean(optax.losses.huber_loss(student, teacher, delta=1.0), pairs, (0, 1))


def _distances(x: jax.Array, where: jax.Array | None) -> jax.Array:
    """The distances of all pairs of rows, 0 with gradient 0 where they are equal up to rounding."""
    # Distances do not change when all is moved, and products round to a part of the norms: small norms, small error.
    x = x - masked_mean(x, None if where is None else where[:, None], 0, keepdims=True)
    if where is not None:
        x = jnp.where(where[:, None], x, 0)
    squares = jnp.sum(jnp.square(x), 1)
    sums = squares[:, None] + squares[None]
    squared = sums - 2 * gram(x)
    resolution = jnp.finfo(x.dtype).eps * max(8.0, x.shape[1] ** 0.5)
    return safe_sqrt(jnp.where((squared > resolution * sums) & ~jnp.eye(len(x), dtype=bool), squared, 0))


def _over_mean(distances: jax.Array, pairs: jax.Array | None, variant: str) -> jax.Array:
    # Masked examples lie at the mean of the others, whose distances from there are not 0.
    counted = pairs
    if variant == "positive_pairs":
        counted = distances > 0 if pairs is None else pairs & (distances > 0)
    mean = masked_mean(distances, counted, (0, 1))
    return distances / jnp.where(mean > 0, mean, 1)


def relational_angle(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The angle-wise loss of RKD: both batches have the same angles between the examples of every triplet.

    L = 1/N^3 sum_ijk huber(cos(s_j - s_i, s_k - s_i) - cos(t_j - t_i, t_k - t_i)), huber(x) = x^2/2 up to |x| = 1,
    |x| - 1/2 beyond. The paper has the sum over triplets; its code, and with it the published weights, the mean over
    all N^3, of which those with equal indices are 0. Where two examples are the same (below a distance of 1e-12), the
    difference counts as a zero vector, with gradient 0.

    Exact, over all triplets, without ever holding N^3 numbers: memory grows with N^2 and with N times the width.
    Value and gradient are computed in one pass.

    Published weight: 50, beside ``relational_distance`` with 25 and a cross-entropy with 1 (CIFAR-100).

    Args:
      student: features [batch, ...], flattened.
      teacher: features [batch, ...] of the same examples; the width may differ.
      where: bool [batch], the examples that take part.
      axis_name: of a mapped axis, whose devices then share one batch (each computes all of it).

    Returns:
      The loss, a scalar, at least float32, in [0, 1.5]. 0 where fewer than three examples take part: there are no
      angles.

    Raises:
      ValueError: if the batches differ or have fewer than three examples, features are of width 1, or ``where`` does
        not fit.

    References:
      Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, https://arxiv.org/abs/1904.05068
    """
    batch = [("student features", student), ("teacher features", teacher)]
    (student, teacher), where, count = global_batch(batch, where, axis_name, least=3)
    for whose, x in (("student features", student), ("teacher features", teacher)):
        check_directions(whose, x, -1)
    # As a float: 1291^3 is more than an int32 holds.
    return sum_over_triplets(student, teacher, where) / jnp.asarray(count, student.dtype) ** 3
