"""The hierarchical context loss: maps compared at several resolutions."""

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32
from jaxkd.losses._maps import adaptive_average_pool, check_same_maps, mask_of, selected, spatial_axes, spatial_shape
from jaxkd.losses._numerics import masked_mean


def hierarchical_context(student: ArrayLike, teacher: ArrayLike, *, axis: int = -1, where: Where = None) -> jax.Array:
    """The hierarchical context loss of ReviewKD, for one level of its pyramid of maps.

    L = (mse + mse_4 / 2 + mse_2 / 4 + mse_1 / 8) / (1 + 1/2 + 1/4 + 1/8), the mean squared difference of the maps
    and of the maps averaged to 4x4, 2x2 and 1x1 positions by torch's adaptive average pooling. An l x l of which l
    is not below the first spatial size has no part: the weights of what is left are 1, 1/2 and so on, over their sum.
    The sum over the levels of the mean over the batch is the authors' loss. Published weights beside a cross-entropy
    of weight 1: on CIFAR-100, raised linearly over the first 20 epochs, 5 for most pairs, and the authors' 0.6 for
    ResNet-56 to 20, 1 for ResNet-110 to 32, 8 for ResNet-32x4 to ShuffleNetV2; on ImageNet, raised over the first epoch
    (mdistiller), 1 for ResNet-34 to ResNet-18, 8 for ResNet-50 to MobileNet.

    Args:
      student: the fused map of the student, [batch, *spatial, channels].
      teacher: the teacher's map, of the same shape.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part, in the
        averages too. An average of none has no part. An example without any gives 0.

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, ``where`` or ``axis`` does not fit, or the maps are no floats.

    References:
      Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021, https://arxiv.org/abs/2104.09044
    """
    check_same_maps(student, teacher, axis, where)
    student, teacher = at_least_float32(student, teacher)
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)
    # Pooling is linear: of the difference it is done once.
    difference = student - teacher
    axes, shape = spatial_axes(difference, axis), spatial_shape(difference, axis)
    elements = tuple(range(1, difference.ndim))
    losses, weight, weights = masked_mean(jnp.square(difference), mask, elements), 1.0, 1.0
    share = None if mask is None else mask.astype(difference.dtype)
    for size in (4, 2, 1):
        if not shape or size >= shape[0]:
            continue
        weight /= 2
        weights += weight
        pooled, some = adaptive_average_pool(difference, axes, (size,) * len(axes)), None
        if share is not None:
            # Of what takes part: the average, over the share of it in the bin.
            shares = adaptive_average_pool(share, axes, (size,) * len(axes))
            some = shares > 0
            pooled = pooled / jnp.where(some, shares, 1)
        losses += weight * masked_mean(jnp.square(pooled), some, elements)
    return losses / weights
