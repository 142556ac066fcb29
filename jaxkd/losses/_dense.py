"""Distillation of dense detectors: their class scores, and their features on objects and beside them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd._checks import check_number, shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_variant
from jaxkd.losses._locations import absolute, check_cells, check_shares, check_weights, over_locations
from jaxkd.losses._maps import check_same_maps, mask_of, of_examples, selected, spatial_shape
from jaxkd.losses._numerics import gathered


def class_response(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    beta: ArrayLike = 1.0,
    weights: ArrayLike | None = None,
    normalizer: ArrayLike | None = None,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Class scores of a detector of sigmoids: binary cross-entropies, weighted by how far the scores are apart.

    L = sum over locations of weight sum_c |sigmoid(t_c) - sigmoid(s_c)|^beta BCE(s_c, sigmoid(t_c)) / normaliser. The
    classes of such a detector are independent: a softmax over them has no meaning. The factor takes part in the
    gradient, and makes both value and gradient 0 at equality.

    Published: ``beta`` 1 (BCKD, weight 1, beside ``box_distillation`` "giou" with weight 4 and the detector's own
    terms), over all locations with weight 1, normalised by the number of positives; ``beta`` 2 is the quality focal
    form (Dense Teacher). For the mean over the batch to be the code's value, ``normalizer`` is the positives of the
    whole batch, on all levels of the pyramid and at least 1, / its images; the code leaves out levels without any.

    Args:
      student: logits [batch, *locations, classes].
      teacher: logits of the same shape.
      beta: at least 1, a scalar.
      weights: [batch, *locations], at least 0; 1 where not given. No gradient goes through them.
      normalizer: a number, or one an image, above 0: what the sum is divided by. By default the sum of the weights.
      axis: the axis of the classes.
      where: bool, of as many axes as [batch, *locations] and broadcastable to it: the locations that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). 0 where nothing takes part, or the weights' sum
      is 0.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``weights``, ``normalizer`` or ``where`` does not fit, logits are no
        floats, or a number is known and out of its range.

    References:
      Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", 2023,
      https://arxiv.org/abs/2308.14286
      Zhou et al., "Dense Teacher: Dense Pseudo-Labels for Semi-supervised Object Detection", 2022,
      https://arxiv.org/abs/2207.02541
    """
    check_number("beta", beta, within=(1, float("inf")))
    if jnp.ndim(beta) != 0:
        raise ValueError(f"beta {shape_of(beta)}: it has to be a scalar, one for all images")
    cure = "both have to score the same classes at the same locations"
    check_same_maps(student, teacher, axis, where, "logits", cure)
    check_weights(weights, normalizer, (jnp.shape(student)[0], *spatial_shape(student, axis)))
    student, teacher = at_least_float32(student, teacher)
    student, teacher = selected(mask_of(where, student, axis), student, teacher)
    target = jax.nn.sigmoid(teacher)
    apart = absolute(target - jax.nn.sigmoid(student))
    # A power of 1 takes time.
    plain = not isinstance(beta, jax.core.Tracer) and bool(np.asarray(beta) == 1)
    factor = apart if plain else apart ** jnp.asarray(beta, apart.dtype)
    entropies = jnp.maximum(student, 0) - student * target + jnp.log1p(jnp.exp(-absolute(student)))
    return over_locations(jnp.sum(factor * entropies, axis), weights, normalizer, where)


def fine_grained_imitation(
    student: ArrayLike,
    teacher: ArrayLike,
    foreground: ArrayLike,
    *,
    axis: int = -1,
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Fine-grained feature imitation (FGFI): squared differences of features near objects.

    L = sum over images, foreground positions and channels of (student - teacher)^2 / (2 N), N the number of those
    positions in all images of the batch. A position is foreground where some anchor there has, with some object, an IoU
    above half of the largest IoU that this object has with any anchor.

    This is the reduction of the paper's code; the paper has the formula for one image. For each image by itself,
    ``jax.vmap`` over batches of one. Published: weight 0.01, beside the detector's own terms.

    Args:
      student: features [batch, *spatial, channels], already passed through a connector where widths differ.
      teacher: features of the same shape.
      foreground: bool [batch, *spatial].
      axis: the axis of the channels.
      where: bool, [batch]: the images, or of as many axes as [batch, *spatial] and broadcastable to it: the positions
        that take part.
      axis_name: of a mapped axis, whose devices then share one batch. Only sums over images travel between them.

    Returns:
      The loss, a scalar, at least float32, in [0, inf). 0 without foreground.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``foreground`` or ``where`` does not fit, or features are no floats.

    References:
      Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", 2019,
      https://arxiv.org/abs/1906.03609
    """
    check_same_maps(student, teacher, axis, None)
    where = of_examples(where, student, axis)
    check_cells(foreground, student, axis)
    cells = jnp.asarray(foreground) if where is None else jnp.asarray(foreground) & where
    student, teacher = at_least_float32(student, teacher)
    difference = jnp.where(jnp.expand_dims(cells, axis % student.ndim), student - teacher, 0)
    total, count = _over_batch(axis_name, jnp.square(difference), cells.astype(difference.dtype))
    return total / (2 * jnp.maximum(count, 1))


def decoupled_feature(
    student: ArrayLike,
    teacher: ArrayLike,
    foreground: ArrayLike,
    *,
    foreground_weight: ArrayLike,
    background_weight: ArrayLike,
    variant: str = "code",
    axis: int = -1,
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Decoupled features (DeFeat): squared differences of features on objects and beside them, each normalised.

    L = a / (2 N_fg) sum over the foreground + b / (2 N_bg) sum over the background of sum_c (student - teacher)^2; a, b
    the two weights, the sums over all images of the batch. Foreground is what lies in a box of an object.

    Variants, N:
      * "code" (default): the numbers of positions of the batch, times the number of channels. Published weights go
        with it: 3 and 12 on the FPN of Faster R-CNN (VOC), mean over its levels, beside the detector's own terms and
        its class terms (KL on foreground and background proposals, 2 and 2).
      * "paper": the numbers of positions. Per batch, too, where the paper has the formula for one image.

    Args:
      student: features [batch, *spatial, channels], already passed through a connector where widths differ.
      teacher: features of the same shape.
      foreground: bool [batch, *spatial].
      foreground_weight: a, a number of at least 0.
      background_weight: b, likewise.
      variant: "code" or "paper".
      axis: the axis of the channels.
      where: bool, [batch]: the images, or of as many axes as [batch, *spatial] and broadcastable to it: the positions
        that take part.
      axis_name: of a mapped axis, whose devices then share one batch. Only sums over images travel between them.

    Returns:
      The loss, a scalar, at least float32, in [0, inf). Without foreground, or background, that term is 0.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``foreground``, ``where`` or ``variant`` does not fit, features are no
        floats, or a weight is no scalar or known and below 0.

    References:
      Guo et al., "Distilling Object Detectors via Decoupled Features", 2021, https://arxiv.org/abs/2103.14475
    """
    check_variant(variant, ("code", "paper"))
    check_shares(foreground_weight=foreground_weight, background_weight=background_weight)
    check_same_maps(student, teacher, axis, None)
    where = of_examples(where, student, axis)
    check_cells(foreground, student, axis)
    student, teacher = at_least_float32(student, teacher)
    student, teacher = selected(mask_of(where, student, axis), student, teacher)
    squares = jnp.sum(jnp.square(student - teacher), axis)
    inside = jnp.asarray(foreground)
    outside = ~inside
    if where is not None:
        inside, outside = inside & where, outside & where
    counts = _over_batch(axis_name, inside.astype(squares.dtype), outside.astype(squares.dtype))
    on_objects, beside = (
        jnp.asarray(weight, count.dtype) / jnp.maximum(count, 1)
        for weight, count in zip((foreground_weight, background_weight), counts, strict=True)
    )
    # What ``where`` leaves out is 0 already.
    (total,) = _over_batch(axis_name, squares * jnp.where(foreground, on_objects, beside))
    return total / (2 * jnp.shape(student)[axis] if variant == "code" else 2)


def _over_batch(axis_name: str | None, *values: jax.Array) -> list[jax.Array]:
    """The sums of arrays [batch, ...] over everything, the examples of all devices.

    Gathered sums, and not a psum: their gradient is that of gathered features.
    """
    sums = [jnp.sum(x, tuple(range(1, x.ndim))) for x in values]
    return [jnp.sum(x) for x in gathered(axis_name, *sums)]
