"""Distillation of dense detectors: their class scores, and their features on objects and beside them."""

import jax
import jax.numpy as jnp
import optax

from jaxkd._checks import check_number
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_variant
from jaxkd.losses._locations import absolute, check_cells, check_weights, over_locations
from jaxkd.losses._maps import check_same_maps, mask_of, selected, spatial_shape


def class_response(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    beta: float = 1.0,
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
    whole batch / its images.

    Args:
      student: logits [batch, *locations, classes].
      teacher: logits of the same shape.
      beta: at least 1.
      weights: [batch, *locations], at least 0; 1 where not given. No gradient goes through them.
      normalizer: a number, or one an image, above 0: what the sum is divided by. By default the sum of the weights.
      axis: the axis of the classes.
      where: bool, broadcastable to [batch, *locations]: the locations that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). 0 where nothing takes part, or the weights' sum
      is 0.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``weights``, ``normalizer`` or ``where`` does not fit, logits are no
        floats, or ``beta`` is below 1.

    References:
      Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", 2023,
      https://arxiv.org/abs/2308.14286
      Zhou et al., "Dense Teacher: Dense Pseudo-Labels for Semi-supervised Object Detection", 2022,
      https://arxiv.org/abs/2207.02541
    """
    check_number("beta", beta, within=(1, float("inf")))
    check_same_maps(student, teacher, axis, where)
    check_weights(weights, normalizer, (jnp.shape(student)[0], *spatial_shape(student, axis)))
    student, teacher = at_least_float32(student, teacher)
    student, teacher = selected(mask_of(where, student, axis), student, teacher)
    target = jax.nn.sigmoid(teacher)
    apart = absolute(target - jax.nn.sigmoid(student))
    factor = apart if beta == 1 else apart**beta
    losses = jnp.sum(factor * optax.losses.sigmoid_binary_cross_entropy(student, target), axis)
    return over_locations(losses, weights, normalizer, where)


def fine_grained_imitation(
    student: ArrayLike,
    teacher: ArrayLike,
    foreground: ArrayLike,
    *,
    variant: str = "paper",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Fine-grained feature imitation (FGFI): squared differences of features near objects.

    L = sum over foreground positions and channels of (student - teacher)^2 / (2 N), N the number of those positions.
    A position is foreground where some anchor there has, with some object, an IoU above half of the largest IoU that
    this object has with any anchor. Published: weight 0.01, beside the detector's own terms.

    Variants, N:
      * "paper" (default): of the image.
      * "code": of an average image of the batch: the mean over the batch is then the code's value, the sum over the
        batch by twice the positions of the batch. Images with more of them count more.

    Args:
      student: features [batch, *spatial, channels], already passed through a connector where widths differ.
      teacher: features of the same shape.
      foreground: bool [batch, *spatial].
      variant: "paper" or "code".
      axis: the axis of the channels.
      where: bool, broadcastable to [batch, *spatial]: the positions that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). 0 for an image without foreground.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``foreground``, ``where`` or ``variant`` does not fit, or features
        are no floats.

    References:
      Wang et al., "Distilling Object Detectors with Fine-grained Feature Imitation", 2019,
      https://arxiv.org/abs/1906.03609
    """
    check_variant(variant, ("paper", "code"))
    check_same_maps(student, teacher, axis, where)
    check_cells(foreground, student, axis)
    cells = jnp.asarray(foreground) if where is None else jnp.asarray(foreground) & where
    student, teacher = at_least_float32(student, teacher)
    difference = jnp.where(jnp.expand_dims(cells, axis % student.ndim), student - teacher, 0)
    sums = jnp.sum(jnp.square(difference), tuple(range(1, difference.ndim)))
    return sums / (2 * _count(cells, variant, sums.dtype))


def decoupled_feature(
    student: ArrayLike,
    teacher: ArrayLike,
    foreground: ArrayLike,
    *,
    foreground_weight: float,
    background_weight: float,
    variant: str = "paper",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Decoupled features (DeFeat): squared differences of features on objects and beside them, each normalised.

    L = a / (2 N_fg) sum over the foreground + b / (2 N_bg) sum over the background of sum_c (student - teacher)^2; a, b
    the two weights, N the numbers of positions. Foreground is what lies in a box of an object.

    Variants, N:
      * "paper" (default): the positions of the image.
      * "code": times the number of channels, and of an average image of the batch: the mean over the batch is then the
        code's value. Published weights go with it: 3 and 12 on the FPN of Faster R-CNN (VOC), mean over its levels,
        beside the detector's own terms and its class terms (KL on foreground and background proposals, 2 and 2).

    Args:
      student: features [batch, *spatial, channels], already passed through a connector where widths differ.
      teacher: features of the same shape.
      foreground: bool [batch, *spatial].
      foreground_weight: a.
      background_weight: b.
      variant: "paper" or "code".
      axis: the axis of the channels.
      where: bool, broadcastable to [batch, *spatial]: the positions that take part.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). Without foreground, or background, that term is 0.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``foreground``, ``where`` or ``variant`` does not fit, or features
        are no floats.

    References:
      Guo et al., "Distilling Object Detectors via Decoupled Features", 2021, https://arxiv.org/abs/2103.14475
    """
    check_variant(variant, ("paper", "code"))
    check_same_maps(student, teacher, axis, where)
    check_cells(foreground, student, axis)
    student, teacher = at_least_float32(student, teacher)
    student, teacher = selected(mask_of(where, student, axis), student, teacher)
    squares = jnp.sum(jnp.square(student - teacher), axis)
    inside = jnp.asarray(foreground)
    outside = ~inside
    if where is not None:
        inside, outside = inside & where, outside & where
    channels = jnp.shape(student)[axis] if variant == "code" else 1
    shares = [
        jnp.reshape(weight / _count(cells, variant, squares.dtype), (-1,) + (1,) * (squares.ndim - 1))
        for weight, cells in ((foreground_weight, inside), (background_weight, outside))
    ]
    # What ``where`` leaves out is 0 already.
    weighted = squares * jnp.where(foreground, shares[0], shares[1])
    return jnp.sum(weighted, tuple(range(1, squares.ndim))) / (2 * channels)


def _count(cells: jax.Array, variant: str, dtype: jnp.dtype) -> jax.Array:
    """How many positions of an image count, at least 1; in "code" of an average image, at least 1 in the batch."""
    counts = jnp.sum(cells, tuple(range(1, cells.ndim)), dtype=dtype)
    if variant == "paper":
        return jnp.maximum(counts, 1)
    return jnp.maximum(jnp.sum(counts), 1) / max(cells.shape[0], 1)
