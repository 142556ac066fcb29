"""Attention transfer: where a network's activations are, whatever its channels."""

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_variant
from jaxkd.losses._maps import (
    check_many_positions,
    check_map,
    check_map_pair,
    check_normalizable,
    check_positions_mask,
    mask_of,
    pooled_alike,
    selected,
)
from jaxkd.losses._numerics import l2_normalize, masked_mean, safe_sqrt

VARIANTS = ("code", "paper", "sum")


def attention_map(features: ArrayLike, *, variant: str = "code", axis: int = -1, where: Where = None) -> jax.Array:
    """The attention map of a feature map: its energy at every position, normalised over the positions.

    A = Q / max(||Q||_2, 1e-12), the norm over positions, where Q is over the channels c

      * ``variant="code"``: mean_c f_c^2, as in the authors' code;
      * ``variant="paper"``: sum_c f_c^2. The normalised map is the same but for the 1e-12.

    ``variant="sum"`` normalises by the sum instead, the l1 norm that the paper mentions: A = Q / sum Q, a distribution
    over positions.

    Args:
      features: a map [batch, *spatial, channels] of at least two positions.
      variant: see above.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part; the
        others get 0.

    Returns:
      The maps [batch, *spatial], at least float32, in [0, 1]. A map of zeros stays one.

    Raises:
      ValueError: if there are fewer than two positions (normalised, they would all be 1), no such variant or ``axis``,
        ``where`` does not fit, or the features are no floats.

    References:
      Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
      Networks via Attention Transfer", 2016, https://arxiv.org/abs/1612.03928
    """
    check_variant(variant, VARIANTS)
    check_map("feature map", features, axis)
    check_positions_mask(features, axis, where)
    check_normalizable({"feature map": features}, axis)
    (features,) = at_least_float32(features)
    (features,) = selected(mask_of(where, features, axis), features)
    return _attention_map(features, variant, axis)


def attention_transfer(
    student: ArrayLike, teacher: ArrayLike, *, variant: str = "code", axis: int = -1, where: Where = None
) -> jax.Array:
    """Attention transfer: how far the attention maps of student and teacher are apart.

    With A the attention map of ``attention_map`` of the same variant,

      * ``variant="code"``: the mean over positions of (A_s - A_t)^2; the mean over the batch is the loss of the
        authors' code and of all that took it over. Published weight 1000 for every pair of layers, beside a
        cross-entropy of weight 1 (CIFAR-10 and ImageNet, authors'; CIFAR-100, three pairs, RepDistiller);
      * ``variant="paper"``: ||A_s - A_t||_2, as printed. The paper's weight is b / 2, of the sum over the batch, with
        b = 1000 / (positions x batch size), which it puts at about 0.1;
      * ``variant="sum"``: the mean of ``"code"``, of maps that add up to 1.

    Channels may differ. Where the sizes do, the larger features are averaged to the smaller size, by torch's adaptive
    average pooling, before the map is taken.

    Args:
      student: a map [batch, *spatial, channels].
      teacher: a map of the same batch, of the same size or pooled to it; the channels are its own.
      variant: see above.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part, in maps
        and mean; for maps of one size only. An example with fewer than two gives 0.

    Returns:
      The loss of each example, [batch], at least float32, in [0, 2]; 0 where the attention maps agree.

    Raises:
      ValueError: if batches or the number of spatial axes differ, each map is the larger one somewhere, one has fewer
        than two positions (the loss would be 0), the maps are no floats, or the rest does not fit.

    References:
      Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
      Networks via Attention Transfer", 2016, https://arxiv.org/abs/1612.03928
    """
    check_variant(variant, VARIANTS)
    check_map_pair(student, teacher, axis, where)
    check_many_positions(student, teacher, axis)
    student, teacher = at_least_float32(student, teacher)
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)
    student, teacher = pooled_alike(student, teacher, axis)
    difference = _attention_map(student, variant, axis) - _attention_map(teacher, variant, axis)
    positions = tuple(range(1, difference.ndim))
    # What is masked is 0 in both maps.
    if variant == "paper":
        squares = jnp.sum(jnp.square(difference), positions)
        # Unit vectors are known to within rounding only, and the norm's gradient is as large there as anywhere else.
        return safe_sqrt(jnp.where(squares > (8 * jnp.finfo(squares.dtype).eps) ** 2, squares, 0))
    where = None if mask is None else jnp.squeeze(mask, axis)
    return masked_mean(jnp.square(difference), where, positions)


def _attention_map(features: jax.Array, variant: str, axis: int) -> jax.Array:
    energy = (jnp.mean if variant == "code" else jnp.sum)(jnp.square(features), axis)
    positions = tuple(range(1, energy.ndim))
    if variant != "sum":
        return l2_normalize(energy, positions)
    total = jnp.sum(energy, positions, keepdims=True)
    return energy / jnp.where(total > 0, total, 1)
