"""Losses on maps channel by channel: correlations of channels, and class activation maps, one channel a class."""

import math

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_variant
from jaxkd.losses._maps import (
    check_many_positions,
    check_map,
    check_positions_mask,
    check_same_maps,
    flattened,
    mask_of,
    products,
    selected,
    spatial_axes,
    spatial_shape,
)
from jaxkd.losses._numerics import l2_normalize


def inter_channel_correlation(
    student: ArrayLike, teacher: ArrayLike, *, variant: str = "cifar", axis: int = -1, where: Where = None
) -> jax.Array:
    """The loss of ICKD: the channels of student and teacher correlate alike.

    L = 1/C sum_ij (G_ij / |G_i| - M_ij / |M_i|)^2, where G_ij is the sum over positions of student channel i times
    channel j, M the same of the teacher, C the number of channels, |G_i| the norm of row i.

    Variants:
      * ``"cifar"``: the above; its mean over the batch is the loss of the paper's CIFAR code.
        Published weight: 2.5, beside CE with 1, alone or with ``soft_label_kl(temperature=4)`` at 1.
      * ``"imagenet"``: divided by the size of the batch once more, as in the paper's ImageNet code and torchdistill.
        Published weights: 1 beside CE with 1 in the paper's repository, 500 in torchdistill, at 256 examples a batch.

    Args:
      student: maps [batch, *spatial, channels], through a linear connector (1x1 convolution and batch normalization).
      teacher: maps with as many channels; their spatial size may differ.
      variant: ``"cifar"`` or ``"imagenet"``.
      axis: the axis of the channels (1 for channels-first).
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part. It has to
        fit both maps.

    Returns:
      The loss of each example, [batch], at least float32, in [0, 4]. 0 where all is masked.

    Raises:
      ValueError: if batches or channels differ or there is one channel, ``axis`` or ``where`` does not fit, or the
        variant is unknown.

    References:
      Liu et al., "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation", 2021,
      https://arxiv.org/abs/2202.03680
    """
    check_variant(variant, ("cifar", "imagenet"))
    for what, x in (("student map", student), ("teacher map", teacher)):
        check_map(what, x, axis)
        check_positions_mask(x, axis, where)
    batch, channels = jnp.shape(student)[0], jnp.shape(student)[axis]
    if jnp.shape(teacher)[0] != batch or jnp.shape(teacher)[axis] != channels:
        raise ValueError(
            f"student map {shape_of(student)}, teacher map {shape_of(teacher)}: they have to have one batch and as "
            "many channels; a 1x1 convolution brings the student's to the teacher's"
        )
    if channels < 2:
        raise ValueError(f"student map {shape_of(student)} has one channel on axis {axis}: it takes two to correlate")
    grams = [_normalized_gram(x, axis, where) for x in at_least_float32(student, teacher)]
    return jnp.sum(jnp.square(grams[0] - grams[1]), (1, 2)) / (channels * (batch if variant == "imagenet" else 1))


def class_activation(
    student: ArrayLike, teacher: ArrayLike, *, variant: str = "normalized", axis: int = -1, where: Where = None
) -> jax.Array:
    """The loss of CAT-KD: the mean squared difference of the class activation maps.

    L = mean over classes and positions of (s' - t')^2. The maps are those of the classifier applied at every position,
    before pooling. The published weights belong to maps averaged down to 2x2 or 4x4 cells first, as noted.

    Variants:
      * ``"normalized"``: x' = x / max(|x|, 1e-12) with the norm over the positions, of each class by itself: the
        paper's formula.
        Published weights beside CE with 1, CIFAR-100: 2x2: VGG-13/MobileNetV2 15, ResNet-50/MobileNetV2 40; 4x4:
        WRN-40-2/ShuffleNetV1 80, ResNet-32x4/ShuffleNetV1 and V2 600. ImageNet, 2x2: ResNet-50/MobileNet 10.
      * ``"raw"``: x' = x, what the paper's code does for students of the teacher's own kind.
        Published weights beside CE with 1, CIFAR-100, 2x2: ResNet-56/20 0.7, WRN-40-2/40-1 1.5, ResNet-110/32 1.8,
        VGG-13/8 4.5, WRN-40-2/16-2 12, ResNet-32x4/8x4 15. ImageNet, 4x4: ResNet-34/18 0.5.

    Args:
      student: class activation maps [batch, *spatial, classes].
      teacher: maps of the same shape.
      variant: ``"normalized"`` or ``"raw"``.
      axis: the axis of the classes (1 for channels-first).
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part, in norm
        and mean.

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf), ``"normalized"`` in [0, 4]. 0 where all is
      masked. Its mean over the batch is the published loss.

    Raises:
      ValueError: if the shapes differ, ``axis`` or ``where`` does not fit, or the variant is unknown; and if normalized
        maps have one position only: all would be 1 or -1.

    References:
      Guo et al., "Class Attention Transfer Based Knowledge Distillation", 2023, https://arxiv.org/abs/2304.12777
    """
    check_variant(variant, ("normalized", "raw"))
    check_same_maps(student, teacher, axis, where)
    if variant == "normalized":
        check_many_positions(student, teacher, axis)
    student, teacher = at_least_float32(student, teacher)
    positions = spatial_axes(student, axis)
    count: ArrayLike = math.prod(spatial_shape(student, axis))
    mask = mask_of(where, student, axis)
    maps = selected(mask, student, teacher)
    if mask is not None:
        count = jnp.maximum(jnp.sum(mask, (*positions, axis), dtype=student.dtype), 1)
    if variant == "normalized":
        maps = [l2_normalize(x, positions) for x in maps]
    return jnp.sum(jnp.square(maps[0] - maps[1]), (*positions, axis)) / (student.shape[axis] * count)


def _normalized_gram(x: jax.Array, axis: int, where: Where) -> jax.Array:
    """[batch, channels, channels]: products of channels summed over the positions, with rows of norm 1."""
    (x,) = selected(mask_of(where, x, axis), x)
    x, positions = flattened(x, axis)
    return l2_normalize(products(x, x, positions), -1)
