"""Distillation of a detector's boxes: their coordinates, and distributions of their sides."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_axis,
    check_floating,
    check_same_shape,
    check_variant,
    check_where,
)
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._locations import absolute, check_weights, over_locations
from jaxkd.losses._maps import check_positive_scalar, check_same_maps, mask_of, selected, spatial_shape

EPS = 1e-6
"""The least area that anything is divided by."""


def box_distillation(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    variant: str = "giou",
    weights: ArrayLike | None = None,
    normalizer: ArrayLike | None = None,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Boxes of the student against those of the teacher, at the same locations or matched.

    L = sum over locations of weight d(student, teacher) / normaliser. A weight, such as the teacher's largest class
    probability, lets confident boxes count. Zero, with gradient zero, at equal boxes of positive area.

    Variants, d:
      * "giou" (default): 1 - IoU + (area of the hull - area of the union) / area of the hull; in [0, 2].
      * "iou": 1 - IoU, in [0, 1], without a gradient where the boxes are apart.
      * "l1": sum over the four coordinates of |s - t|.
      * "smooth_l1": sum over them of (s - t)^2 / 2 where |s - t| < 1, of |s - t| - 1/2 elsewhere.

    Published (BCKD): "giou" with weight 4, location weights max over classes of |sigmoid(t) - sigmoid(s)|, normalised
    by the number of positives, beside its ``class_response`` with weight 1 and the detector's own terms. For the mean
    over the batch to be that code's value, ``normalizer`` is the positives of the whole batch, on all levels of the
    pyramid and at least 1, / its images; the code leaves out levels without any.

    Args:
      student: boxes [batch, *locations, 4]. For "iou" and "giou" corners (x1, y1, x2, y2), x1 <= x2, y1 <= y2.
      teacher: boxes of the same shape.
      variant: "giou", "iou", "l1" or "smooth_l1".
      weights: [batch, *locations], at least 0; 1 where not given. No gradient goes through them, as in the code.
      normalizer: a number, or one an image, above 0: what the sum is divided by. By default the sum of the weights.
      axis: the axis of the coordinates.
      where: bool, broadcastable to [batch, *locations]: the locations that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). 0 where nothing takes part, or the weights' sum
      is 0.

    Raises:
      ValueError: if the shapes differ, the axis has not four coordinates, ``weights``, ``normalizer``, ``where`` or
        ``variant`` does not fit, boxes are no floats, or a weight or a normaliser is known and out of its range.

    References:
      Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", 2023,
      https://arxiv.org/abs/2308.14286
      Rezatofighi et al., "Generalized Intersection over Union: A Metric and A Loss for Bounding Box Regression", 2019,
      https://arxiv.org/abs/1902.09630
    """
    check_variant(variant, ("giou", "iou", "l1", "smooth_l1"))
    check_same_maps(student, teacher, axis, where)
    if jnp.shape(student)[axis] != 4:
        raise ValueError(f"boxes {shape_of(student)}: axis {axis} has to hold four coordinates, give it as axis=")
    check_weights(weights, normalizer, (jnp.shape(student)[0], *spatial_shape(student, axis)))
    student, teacher = at_least_float32(student, teacher)
    student, teacher = selected(mask_of(where, student, axis), student, teacher)
    if variant == "l1":
        distances = jnp.sum(absolute(student - teacher), axis)
    elif variant == "smooth_l1":
        distances = jnp.sum(optax.losses.huber_loss(student, teacher, delta=1.0), axis)
    else:
        distances = _overlap_distance(student, teacher, axis, generalized=variant == "giou")
    return over_locations(distances, weights, normalizer, where)


def localization_kl(
    student: ArrayLike,
    teacher: ArrayLike,
    temperature: ArrayLike = 10.0,
    *,
    weights: ArrayLike | None = None,
    variant: str = "normalized",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Localization distillation (LD): the divergence of the distributions of a box's sides over bins.

    At each location, T^2 KL(softmax(t / T) || softmax(s / T)) over the bins, mean over the sides; then

    Variants:
      * "normalized" (default): sum of weight x that over the locations / sum of the weights.
      * "code": the mean over the bins instead of the sum, and no division by the weights: the value grows with the
        number of positives. The published weight is 0.25, and its *sum* over the batch is the code's value. That has 2
        images on a device and the mean over devices: with the mean over images the weight is 0.5.

    The code's weights are max over classes of sigmoid(student's class logit) at the positives, ``where``. Its second
    term, on valuable regions, has the location's IoU as weight and a 4 times smaller weight of the term, 0.0625. Both
    are added over levels, beside the detector's own terms with their weights.

    Args:
      student: logits [batch, *locations, sides, bins], 4 sides.
      teacher: logits of the same shape.
      temperature: T > 0.
      weights: [batch, *locations], at least 0; 1 where not given. No gradient goes through them, as in the code.
      variant: "normalized" or "code".
      axis: the axis of the bins; the sides are on the last of the others.
      where: bool, broadcastable to [batch, *locations]: the locations that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). 0 where nothing takes part.

    Raises:
      ValueError: if the shapes differ or have fewer than three axes, ``axis``, ``weights``, ``where`` or ``variant``
        does not fit, logits are no floats, there is one bin, or ``temperature`` is no scalar or known and not above 0.

    References:
      Zheng et al., "Localization Distillation for Dense Object Detection", 2021, https://arxiv.org/abs/2102.12252
    """
    check_variant(variant, ("normalized", "code"))
    check_positive_scalar("temperature", temperature)
    check_floating("student logits", student)
    check_floating("teacher logits", teacher)
    check_same_shape("logits", student, teacher, "both have to predict the same bins at the same locations")
    check_axis("logits", student, axis)
    axis = axis % jnp.ndim(student)
    if jnp.ndim(student) < 3 or axis == 0:
        raise ValueError(f"logits {shape_of(student)}: they have to be [batch, *locations, sides, bins]")
    bins = jnp.shape(student)[axis]
    if bins < 2:
        raise ValueError(f"logits {shape_of(student)}: one bin is no distribution, axis= says where the bins are")
    others = [n for i, n in enumerate(jnp.shape(student)) if i != axis]
    check_where(where, others[:-1], "images and locations")
    check_weights(weights, None, others[:-1])
    student, teacher = at_least_float32(student, teacher)
    if where is not None:
        where = jnp.broadcast_to(where, others[:-1])
        student, teacher = selected(jnp.expand_dims(where[..., None], axis), student, teacher)
    temperature = jnp.asarray(temperature, jnp.result_type(student, teacher))
    divergences = jnp.mean(kl_of_logits(teacher / temperature, student / temperature, axis, None), -1)
    values = over_locations(divergences, weights, 1 if variant == "code" else None, where)
    return values * jnp.square(temperature) * (1 / bins if variant == "code" else 1)


def _overlap_distance(student: jax.Array, teacher: jax.Array, axis: int, generalized: bool) -> jax.Array:
    """1 - IoU, or 1 - GIoU, of boxes of corners."""
    # Put together to boxes again, corners take a fraction of the time of single coordinates.
    (least_first, least_last), (most_first, most_last) = (
        jnp.split(extreme(student, teacher), 2, axis) for extreme in (jnp.minimum, jnp.maximum)
    )
    shared = _area(jnp.concatenate([most_first, least_last], axis), axis, jax.nn.relu)
    union = _at_least_eps(_area(student, axis) + _area(teacher, axis) - shared)
    if not generalized:
        return 1 - shared / union
    hull = _at_least_eps(_area(jnp.concatenate([least_first, most_last], axis), axis))
    return 2 - shared / union - union / hull


def _area(boxes: jax.Array, axis: int, of_sides: Callable[[jax.Array], jax.Array] = lambda sides: sides) -> jax.Array:
    first, last = jnp.split(boxes, 2, axis)
    sides = of_sides(last - first)
    width, height = (jax.lax.index_in_dim(sides, i, axis, keepdims=False) for i in (0, 1))
    return width * height


def _at_least_eps(x: jax.Array) -> jax.Array:
    # Not jnp.maximum, whose gradient looks for ties.
    return jnp.where(x > EPS, x, EPS)
