"""Correlation losses: what student and teacher features have in common over a batch, whatever their scale.

They relate the examples of a batch, and are functions of the global batch where ``axis_name`` is given.
"""

import math

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_same_shape,
    check_variant,
)
from jaxkd.losses._batch import global_batch, gram
from jaxkd.losses._embeddings import cosine_embedding
from jaxkd.losses._maps import check_same_maps, mask_of, of_examples, selected, spatial_axes
from jaxkd.losses._numerics import gathered, masked_mean, safe_sqrt


def pearson_feature(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    axis: int = -1,
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The feature loss of PKD: one minus the Pearson correlation of the activations of each channel.

    L = mean over channels, examples and positions of (s' - t')^2 / 2, x' = (x - mean) / (std + 1e-6), with mean and
    std of each channel over all examples and positions of the batch, std that of a sample (divided by n - 1).
    That is (1 - r) (n - 1) / n but for the 1e-6, r the mean over channels of Pearson's correlation.

    Published weights: 6, the sum over the levels of a feature pyramid, beside the detector's own losses; 10 where
    student and teacher are detectors of different kinds (MMRazor).

    Args:
      student: maps [batch, *spatial, channels], through a connector or resized where channels or sizes differ.
      teacher: maps of the same shape.
      axis: the axis of the channels (1 for channels-first).
      where: bool, [batch]: the examples, or of as many axes as [batch, *spatial] and broadcastable to it: the
        positions that take part, in statistics and mean alike.
      axis_name: of a mapped axis, whose devices then share one batch. Only sums over examples travel between them.

    Returns:
      The loss, a scalar, at least float32, in [0, 2]. 0 where nothing takes part.

    Raises:
      ValueError: if the shapes differ, ``axis`` or ``where`` does not fit, or there is one example of one position.

    References:
      Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient", 2022,
      https://arxiv.org/abs/2207.02039
    """
    check_same_maps(student, teacher, axis, None, cure="resize one, or add a connector, that they have one shape")
    where = of_examples(where, student, axis)
    student, teacher = at_least_float32(student, teacher)
    reduced = (0, *spatial_axes(student, axis))
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)

    def total(x: jax.Array) -> jax.Array:
        """Of the global batch. Gathered sums, and not a psum: their gradient is that of gathered features."""
        sums = jnp.sum(x, reduced, keepdims=True)
        return sums if axis_name is None else jnp.sum(gathered(axis_name, sums)[0], 0, keepdims=True)

    size = math.prod(student.shape[i] for i in reduced) * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    if size == 1:
        raise ValueError(f"map {shape_of(student)}: one example of one position has no correlation; give more")
    count: ArrayLike = size
    degrees: ArrayLike = size - 1
    if mask is not None:
        taking_part = total(mask.astype(student.dtype))
        degrees, count = jnp.maximum(taking_part - 1, 1), jnp.maximum(taking_part, 1)

    def standardized(x: jax.Array) -> jax.Array:
        (x,) = selected(mask, x - total(x) / count)
        return x / (safe_sqrt(total(jnp.square(x)) / degrees) + 1e-6)

    squares = total(jnp.square(standardized(student) - standardized(teacher)))
    return 0.5 * jnp.mean(squares / count)


def projected_log_error(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "difference",
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The loss of SRD: the logarithm of a sum of fourth powers of errors, of features standardized over the batch.

    s' and t' are the features with mean 0 and variance 1 over the batch, each by itself: (x - mean) / sqrt(var + e),
    a batch normalization without scale and shift; var is divided by N.

    Variants:
      * ``"difference"``: L = log(sum over examples and features of (s' - t')^4 + 1e-12), e = 1e-4. The paper's code
        for ResNets on ImageNet, which has no 1e-12, and is -inf at equality.
      * ``"correlation"``: L = log(sum over features of (1 - r)^4 + 1e-5), r = mean over examples of s' t', e = 0.
        The paper's code for DeiT.

    It is not 0 at equality, but the logarithm of that eps. It is a sum over the batch: what does not change with N is
    its gradient's scale, as a logarithm forgets factors.

    Published weight: 2 on pooled features of the last stage, with ``soft_label_kl(temperature=1)`` and cross-entropy
    at 1 each (``"difference"``, ImageNet ResNet-34 to 18).

    Args:
      student: features [batch, ...], flattened, after the trained linear projector; maps have to be pooled before.
      teacher: features of the same shape.
      variant: ``"difference"`` or ``"correlation"``.
      where: bool [batch], the examples that take part, in statistics and sum alike.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, in [log eps, inf). 0 where no example takes part.

    Raises:
      ValueError: if the shapes differ, the batch is of one example, the variant is unknown, or ``where`` does not fit.

    References:
      Miles, Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation", 2023,
      https://arxiv.org/abs/2303.11098
    """
    check_variant(variant, ("difference", "correlation"))
    check_same_shape("features", student, teacher, "project the student's to the teacher's width first")
    named = [("student features", student), ("teacher features", teacher)]
    arrays, where, count = global_batch(named, where, axis_name)
    rows = None if where is None else where[:, None]

    def standardized(x: jax.Array) -> jax.Array:
        x, mean = _centred(x, rows)
        variance = jnp.sum(jnp.square(x), 0) / count
        if variant == "difference":
            return x / jnp.sqrt(variance + 1e-4)
        # Without an eps, what is constant but for rounding would come out as noise of variance 1.
        constant = variance <= jnp.square(8 * jnp.finfo(x.dtype).eps * mean)
        return jnp.where(constant, 0, x / jnp.sqrt(jnp.where(constant, 1, variance)))

    student, teacher = map(standardized, arrays)
    if variant == "difference":
        errors, eps = student - teacher, 1e-12
    else:
        errors, eps = 1 - jnp.sum(student * teacher, 0) / count, 1e-5
    loss = jnp.log(jnp.sum(jnp.square(jnp.square(errors))) + eps)
    return loss if where is None else jnp.where(jnp.any(where), loss, 0)


def cka(student: ArrayLike, teacher: ArrayLike, *, where: Where = None, axis_name: str | None = None) -> jax.Array:
    """One minus linear CKA, the similarity of two representations up to rotation and scale.

    L = 1 - <K, M> / (|K| |M|), K = S S^T and M = T T^T of the centred features S and T of the batch: the cosine of
    their Gram matrices. In terms of features it is 1 - |S^T T|^2 / (|S^T S| |T^T T|) with Frobenius norms. It is
    computed as half the squared distance of the matrices of norm 1, which is exactly 0 at equality. The widths may
    differ: no connector is needed.

    It is a comparison of representations, made a loss; there is no one published weight. Some distillation code has
    the square root of this CKA. With few examples and wide features CKA is close to 1 for anything; with two it is 1.

    Args:
      student: features [batch, ...], flattened.
      teacher: features [batch, ...] of the same examples; the width may differ.
      where: bool [batch], the examples that take part.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, in [0, 1]: 1 where all examples of one side are equal, and 0 where no
      example takes part.

    Raises:
      ValueError: if the batches differ or have fewer than three examples, or ``where`` does not fit.

    References:
      Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", 2019,
      https://arxiv.org/abs/1905.00414
    """
    named = [("student features", student), ("teacher features", teacher)]
    arrays, where, count = global_batch(named, where, axis_name, least=3)
    grams = []
    for x in arrays:
        x, mean = _centred(x, None if where is None else where[:, None])
        # What is constant but for rounding would come out as noise of norm 1.
        square = jnp.sum(jnp.square(x))
        varies = square > count * jnp.sum(jnp.square(8 * jnp.finfo(x.dtype).eps * mean))
        # Fourth powers of large features would overflow. CKA knows no scale, and so this one has no gradient.
        scale = jnp.where(varies, jnp.sqrt(count / jnp.where(varies, square, 1)), 0)
        grams.append(jnp.ravel(gram(x * jax.lax.stop_gradient(scale))))
    loss = cosine_embedding(*grams)
    return loss if where is None else jnp.where(jnp.any(where), loss, 0)


def _centred(x: jax.Array, rows: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Less the mean over the rows that take part, 0 in the others; and the mean."""
    mean = masked_mean(x, rows, 0)
    return x - mean if rows is None else jnp.where(rows, x - mean, 0), mean
