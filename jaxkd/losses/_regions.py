"""Response distillation of the regions of an image, beside the whole."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_labels, number, sequence
from jaxkd.losses._decoupled import decoupled_kd
from jaxkd.losses._maps import adaptive_bins, check_map
from jaxkd.losses._own_class import NOT_NEGATIVE, OwnClass
from jaxkd.losses._pairs import logit_pair


def region_means(features: ArrayLike, grids: Sequence[int] = (1, 2, 4), *, axis: int = -1) -> jax.Array:
    """The mean of a feature map over each cell of each grid: 1 x 1 is the whole, 2 x 2 its quarters, and so on.

    Classify them, and these are the logits of the regions that ``scale_decoupled_kd`` takes:
    ``head(region_means(features))``. As a classifier is linear, the means of a map of logits are the same.
    The cells are those of the paper's code: of a grid of 4 x 4 (of the finest one, if it is finer) they are means of
    positions, rounded outwards where it does not divide the map (torch's adaptive pooling), and all grids' are means of
    those. So where 4 divides the map they are plain means, and of 7 x 7 positions some count more than others.

    Args:
      features: maps [batch, *spatial, channels], of any number >= 1 of spatial axes, none shorter than the finest grid.
      grids: cells along each spatial axis, of one grid after the other; the losses take 1 first. Static.
      axis: the axis of the channels.

    Returns:
      [batch, regions, channels], at least float32; 21 regions for grids (1, 2, 4) of images. Channels come last,
      wherever they were.

    Raises:
      ValueError: if the features are no floats, have no spatial axis, or are smaller than a grid; or if a grid is not
        1 at least.

    References:
      Wei, Luo, Luo, "Scale Decoupled Distillation", 2024, https://arxiv.org/abs/2403.13512
    """
    check_map("features", features, axis)
    if jnp.ndim(features) < 3:
        raise ValueError(f"features {shape_of(features)} have no spatial axis: give [batch, *spatial, channels]")
    grids = sequence("grids", grids)
    if min(grids) < 1:
        raise ValueError(f"grids are {grids}: of 1 cell along each axis, or more")
    (features,) = at_least_float32(features)
    features = jnp.moveaxis(features, axis, -1)
    batch, *spatial, channels = features.shape
    if min(spatial) < max(grids):
        raise ValueError(f"features {shape_of(features)} are smaller than the grid {max(grids)}: give smaller grids")
    finest = max(4, *grids)
    means = [functools.reduce(np.kron, [_cells(n, finest, grid) for n in spatial]) for grid in grids]
    return jnp.einsum(
        "rp,npc->nrc",
        jnp.asarray(np.concatenate(means), features.dtype),
        features.reshape(batch, -1, channels),
        precision=jax.lax.Precision.HIGHEST,
    )


def scale_decoupled_kd(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 4.0,
    *,
    alpha: ArrayLike = 1.0,
    beta: ArrayLike = 8.0,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Scale decoupled distillation (SDD, its SD-DKD): ``decoupled_kd`` of the whole image and of each region of it.

    L = mean over the regions r of w_r DKD_r. w_r is 2 where the teacher is right about the region and wrong about the
    whole, or the other way round (the region tells something else), and 1 elsewhere. Right means that the likeliest
    class is the label.

    The mean over the batch is the published loss. Published weights: those of ``decoupled_kd``, its growth included,
    beside a cross-entropy of weight 1; ImageNet, ResNet50 to MobileNetV2: beta 2 at T = 1. The regions are those of
    ``region_means``, at grids (1, 2, 4) or, by pair, (1, 2).

    Args:
      student_logits: [..., regions, classes], of which the first region is the whole; ``region_means`` makes regions.
        With another ``axis``, the regions are the last of the others.
      teacher_logits: of the same shape; the maps that they come from may differ in size.
      labels: integers [...] in [0, classes), one for all regions. Below 0: the example gives 0. At or above ``classes``
        is an error: it raises, or where the labels are traced gives NaN.
      temperature: T > 0, a scalar, or one for each example: [...].
      alpha: the weight of the labelled class, >= 0, a scalar, or one for each example.
      beta: the weight of the other classes, likewise.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A region whose own class does not gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if shapes do not fit, there is no axis of regions, there is one class, labels are no integers, or a
        known number is out of range.

    References:
      Wei, Luo, Luo, "Scale Decoupled Distillation", 2024, https://arxiv.org/abs/2403.13512
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    if student.ndim < 2:
        raise ValueError(f"logits {shape_of(student)} have no axis of regions: they have to be [..., regions, classes]")
    if where is not None:
        where = jnp.moveaxis(jnp.broadcast_to(where, student.shape), axis, -1)
    student, teacher = (jnp.moveaxis(x, axis, -1) for x in (student, teacher))
    check_labels(labels, student.shape[:-2], student.shape[-1])
    of_regions = jnp.broadcast_to(jnp.expand_dims(jnp.asarray(labels), -1), student.shape[:-1])
    # One number for all regions of an example.
    temperature, alpha, beta = (
        x if x.ndim == 0 else jnp.broadcast_to(x[..., None], of_regions.shape)
        for x in (
            number("temperature", temperature, student[..., 0, :], -1, above=0),
            number("alpha", alpha, student[..., 0, :], -1, within=NOT_NEGATIVE),
            number("beta", beta, student[..., 0, :], -1, within=NOT_NEGATIVE),
        )
    )
    losses = decoupled_kd(student, teacher, of_regions, temperature, alpha=alpha, beta=beta, where=where)
    right = OwnClass(of_regions, teacher, -1, where).leads(teacher)
    return jnp.mean(jnp.where(right == right[..., :1], 1, 2) * losses, -1)


def _cells(positions: int, finest: int, grid: int) -> np.ndarray:
    """[grid, positions]: the mean over each cell of a grid, as one of the cells of the finest grid."""
    return adaptive_bins(finest, grid) @ adaptive_bins(positions, finest)
