"""Distillation of a detector's boxes: their coordinates, and distributions of their sides."""

import jax
import jax.numpy as jnp
import numpy as np
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
)
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._locations import absolute, check_weights, over_locations
from jaxkd.losses._maps import (
    check_mask,
    check_positive_scalar,
    check_same_maps,
    mask_of,
    selected,
    spatial_shape,
)

EPS = 1e-18
"""The least share of the hull's area that anything is divided by. Its square is a normal float32, for the gradient."""


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
    probability, lets confident boxes count. Zero, with gradient zero, at equal boxes; for "iou" and "giou" of positive
    area, whatever unit it is in.

    Variants, d:
      * "giou" (default): 1 - IoU + (area of the hull - area of the union) / area of the hull; in [0, 2] but for
        rounding.
      * "iou": 1 - IoU, in [0, 1], without a gradient where the boxes are apart.
      * "l1": sum over the four coordinates of |s - t|.
      * "smooth_l1": sum over them of (s - t)^2 / 2 where |s - t| < 1, of |s - t| - 1/2 elsewhere.

    Published (BCKD): "giou" with weight 4, location weights max over classes of |sigmoid(t) - sigmoid(s)|, normalised
    by the number of positives, beside its ``class_response`` with weight 1 and the detector's own terms. For the mean
    over the batch to be that code's value, ``normalizer`` is the positives of the whole batch, on all levels of the
    pyramid and at least 1, / its images; the code leaves out levels without any.

    Args:
      student: boxes [batch, *locations, 4]. For "iou" and "giou" corners (x1, y1, x2, y2), x1 <= x2, y1 <= y2; what is
        traced and has them the other way round counts as without area.
      teacher: boxes of the same shape.
      variant: "giou", "iou", "l1" or "smooth_l1".
      weights: [batch, *locations], at least 0; 1 where not given. No gradient goes through them, as in the code.
      normalizer: a number, or one an image, above 0: what the sum is divided by. By default the sum of the weights.
      axis: the axis of the coordinates.
      where: bool, of as many axes as [batch, *locations] and broadcastable to it: the locations that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf), and in d's range without a ``normalizer``. 0 where
      nothing takes part, or the weights' sum is 0.

    Raises:
      ValueError: if the shapes differ, the axis has not four coordinates, ``weights``, ``normalizer``, ``where`` or
        ``variant`` does not fit, boxes are no floats, a weight or a normaliser is known and out of its range, or the
        corners of "iou" and "giou" are known and out of order.

    References:
      Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", 2023,
      https://arxiv.org/abs/2308.14286
      Rezatofighi et al., "Generalized Intersection over Union: A Metric and A Loss for Bounding Box Regression", 2019,
      https://arxiv.org/abs/1902.09630
    """
    check_variant(variant, ("giou", "iou", "l1", "smooth_l1"))
    check_same_maps(student, teacher, axis, where, "boxes", "match them first, one box of each for a location")
    if jnp.shape(student)[axis] != 4:
        raise ValueError(f"boxes {shape_of(student)}: axis {axis} has to hold four coordinates, give it as axis=")
    check_weights(weights, normalizer, (jnp.shape(student)[0], *spatial_shape(student, axis)))
    if variant in ("iou", "giou"):
        for whose, boxes in (("student", student), ("teacher", teacher)):
            _check_corners(whose, boxes, axis, where)
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
        number of positives. The published weights go with it, 0.5 for the mean over the images: the code has 0.25 and
        their sum, of 2 images on a device, and the mean over devices.

    The code's weights are max over classes of sigmoid(student's class logit) at the positives, ``where``. Its second
    term, on valuable regions, has the location's IoU as weight and a 4 times smaller weight of the term, 0.125 (0.0625
    of the sum). Both are added over levels, beside the detector's own terms with their weights. For "normalized" no
    weight was published; what 0.5 is for "code" is 0.5 / bins times the sum of an image's weights for it, which
    changes with the number of positives.

    Args:
      student: logits [batch, *locations, 4, bins], of the 4 sides; reshape a head's [..., 4 * bins] to that.
      teacher: logits of the same shape.
      temperature: T > 0.
      weights: [batch, *locations], at least 0; 1 where not given. No gradient goes through them, as in the code.
      variant: "normalized" or "code".
      axis: the axis of the bins; the sides are on the last of the others.
      where: bool, of as many axes as [batch, *locations] and broadcastable to it: the locations that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). 0 where nothing takes part.

    Raises:
      ValueError: if the shapes differ, have fewer than three axes or not 4 sides, ``axis``, ``weights``, ``where`` or
        ``variant`` does not fit, logits are no floats, there is one bin, or ``temperature`` is no scalar or known and
        not above 0.

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
        raise ValueError(f"logits {shape_of(student)}: they have to be [batch, *locations, 4, bins]")
    bins = jnp.shape(student)[axis]
    if bins < 2:
        raise ValueError(f"logits {shape_of(student)}: one bin is no distribution, axis= says where the bins are")
    others = [n for i, n in enumerate(jnp.shape(student)) if i != axis]
    if others[-1] != 4:
        raise ValueError(
            f"logits {shape_of(student)} with bins on axis {axis} are of {others[-1]} sides: they have to be "
            "[batch, *locations, 4, bins], reshape a head's [..., 4 * bins] to [..., 4, bins]"
        )
    check_mask(where, others[:-1], "locations")
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
    # In the unit of the hull, for each axis of the image: neither value depends on it, nor do their gradients.
    unit = jax.lax.stop_gradient(most_last - least_first)
    unit = jnp.where(unit > jnp.finfo(unit.dtype).tiny, unit, 1)
    shared = _area(jnp.concatenate([most_first, least_last], axis), axis, unit)
    union = _at_least_eps(_area(student, axis, unit) + _area(teacher, axis, unit) - shared)
    if not generalized:
        return 1 - shared / union
    hull = _at_least_eps(_area(jnp.concatenate([least_first, most_last], axis), axis, unit))
    return 2 - shared / union - union / hull


def _area(boxes: jax.Array, axis: int, unit: jax.Array) -> jax.Array:
    first, last = jnp.split(boxes, 2, axis)
    sides = jax.nn.relu(last - first) / unit
    width, height = (jax.lax.index_in_dim(sides, i, axis, keepdims=False) for i in (0, 1))
    return width * height


def _at_least_eps(x: jax.Array) -> jax.Array:
    # Not jnp.maximum, whose gradient looks for ties.
    return jnp.where(x > EPS, x, EPS)


def _check_corners(whose: str, boxes: ArrayLike, axis: int, where: Where) -> None:
    """Raises ValueError if boxes that take part are known, and their first corner is not the smaller one."""
    if isinstance(boxes, jax.core.Tracer) or isinstance(where, jax.core.Tracer):
        return
    first, last = np.split(np.asarray(boxes), 2, axis)
    wrong = np.any(first > last, axis)
    if np.any(wrong if where is None else wrong & np.asarray(where)):
        raise ValueError(
            f"{whose} boxes {shape_of(boxes)} have corners out of order: they have to be (x1, y1, x2, y2), x1 <= x2, "
            "y1 <= y2, so convert what is (centre, size)"
        )
