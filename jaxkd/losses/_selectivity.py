"""What a channel selects: losses on the pattern that every channel has over the positions."""

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._maps import (
    check_many_positions,
    check_map_pair,
    check_positive_scalar,
    check_same_maps,
    flattened,
    mask_of,
    pooled_alike,
    products,
    selected,
)
from jaxkd.losses._numerics import l2_normalize


def neuron_selectivity(student: ArrayLike, teacher: ArrayLike, *, axis: int = -1, where: Where = None) -> jax.Array:
    """Neuron selectivity transfer: the squared MMD between the patterns of the student's and the teacher's channels.

    With a_i and b_j the student's and the teacher's channels as vectors of positions, each of L2 norm 1 (norms below
    1e-12 count as that), and the polynomial kernel k(x, y) = (x . y)^2,

      L = mean_ij k(a_i, a_j) + mean_ij k(b_i, b_j) - 2 mean_ij k(a_i, b_j).

    The mean over the batch is the loss of the published code, which stops the gradient of the teacher's own term and
    whose weight is 50 for every pair of layers, beside a cross-entropy of weight 1 (CIFAR-100, RepDistiller; the
    authors', on ImageNet, leave that constant term out). Channel counts may differ. Where the sizes do, the larger
    features are averaged to the smaller size, by torch's adaptive average pooling.

    Args:
      student: a map [batch, *spatial, channels].
      teacher: a map of the same batch, of the same size or pooled to it; the channels are its own.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part; for maps
        of one size only. An example without any gives 0.

    Returns:
      The loss of each example, [batch], at least float32, in [0, 2] but for rounding.

    Raises:
      ValueError: if batches or the number of spatial axes differ, each map is the larger one somewhere, one has fewer
        than two positions (the loss would be constant), the maps are no floats, or the rest does not fit.

    References:
      Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017,
      https://arxiv.org/abs/1707.01219
    """
    check_map_pair(student, teacher, axis, where)
    check_many_positions(student, teacher, axis)
    student, teacher = at_least_float32(student, teacher)
    student, teacher = selected(mask_of(where, student, axis), student, teacher)
    student, teacher = pooled_alike(student, teacher, axis)
    (s, positions), (t, _) = flattened(student, axis), flattened(teacher, axis)
    channels = 3 - positions
    s, t = l2_normalize(s, positions), l2_normalize(t, positions)
    p, c, d = s.shape[positions], s.shape[channels], t.shape[channels]
    if p * (c + d) <= c * c + d * d + c * d:
        # sum_ij (a_i . b_j)^2 is also the inner product of sum_i a_i a_i^T and sum_j b_j b_j^T, which relate positions:
        # fewer than the channels, here.
        difference = products(s, s, channels) / c - products(t, t, channels) / d
        return jnp.sum(jnp.square(difference), (1, 2))
    own, teachers, crossed = (_mean_square(products(x, y, positions)) for x, y in ((s, s), (t, t), (s, t)))
    return own + teachers - 2 * crossed


def channel_wise(
    student: ArrayLike,
    teacher: ArrayLike,
    *,
    temperature: ArrayLike = 4.0,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Channel-wise distillation: KL(teacher || student) of every channel's softmax over the positions.

    L = T^2 mean_c sum_i p_ci (log p_ci - log q_ci), p_c = softmax_i(t_ci / T), q_c = softmax_i(s_ci / T) over the
    positions i. The mean over the batch is the loss of the authors' code, which divides by batch and channels.
    Published weights, beside the loss of the task at weight 1: 3 at T = 4 on the logits of a segmentation (Cityscapes,
    authors'); at T = 1, 5 on such logits and 10 on every level of a detector's feature pyramid (MMRazor).

    Args:
      student: a map [batch, *spatial, channels].
      teacher: a map of the same shape.
      temperature: T > 0, a scalar.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part. An
        example with fewer than two gives 0.

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, the maps have fewer than two positions (the loss would be 0) or are no floats,
        ``temperature`` is no scalar or known and not above 0, or ``where`` or ``axis`` does not fit.

    References:
      Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", 2020,
      https://arxiv.org/abs/2011.13256
    """
    check_positive_scalar("temperature", temperature)
    check_same_maps(student, teacher, axis, where)
    check_many_positions(student, teacher, axis)
    student, teacher = at_least_float32(student, teacher)
    temperature = jnp.asarray(temperature, jnp.result_type(student, teacher))
    mask = mask_of(where, student, axis)
    (student, positions), (teacher, _) = flattened(student, axis), flattened(teacher, axis)
    if mask is not None:
        mask, _ = flattened(mask, axis)
    divergences = kl_of_logits(teacher / temperature, student / temperature, positions, mask)
    return jnp.square(temperature) * jnp.mean(divergences, -1)


def _mean_square(x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(x), (1, 2))
