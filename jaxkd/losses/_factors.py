"""Losses on what trained modules make of the maps: a translator's factors, a regressor's prediction."""

import math

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_variant
from jaxkd.losses._maps import (
    check_channels,
    check_many_positions,
    check_map_pair,
    check_same_maps,
    mask_of,
    pooled_alike,
    selected,
    spatial_axes,
)
from jaxkd.losses._numerics import l2_normalize, masked_mean


def factor_transfer(
    student: ArrayLike, teacher: ArrayLike, *, variant: str = "code", axis: int = -1, where: Where = None
) -> jax.Array:
    """Factor transfer: the L1 distance of normalised factors, the translator's and the paraphraser's.

    The paraphraser is an autoencoder trained on the teacher's maps, the translator is trained with the student.

      * ``variant="code"``, the authors': the mean over all elements of |F_s / ||F_s|| - F_t / ||F_t|||, the norms L2,
        of all of an example's factors, below 1e-12 counted as that. The mean over the batch is the loss that goes
        with a weight of 500, beside a cross-entropy of weight 1 (CIFAR-10);
      * ``variant="repdistiller"``: of the attention maps of the factors, A = mean_c F_c^2 over its L2 norm over
        positions, the mean over positions of |A_s - A_t|: with a weight of 200, beside a cross-entropy of weight 1
        (CIFAR-100). Channels may differ.

    The paper prints the sum instead of the mean. Where the sizes differ, the larger factors are averaged to the smaller
    size, by torch's adaptive average pooling.

    Args:
      student: the translator's factors of the student's map, [batch, *spatial, channels].
      teacher: the paraphraser's factors of the teacher's map: the same batch and, but for ``"repdistiller"``, channels;
        of the same size or pooled to it.
      variant: see above.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part; for
        factors of one size only. An example without any gives 0.

    Returns:
      The loss of each example, [batch], at least float32, in [0, 2]; 0 where the normalised factors agree.

    Raises:
      ValueError: if batches, channels or sizes do not fit, the factors have one element, or one position where
        ``"repdistiller"`` needs two, they are no floats, or the rest does not fit.

    References:
      Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      https://arxiv.org/abs/1802.04977
    """
    check_variant(variant, ("code", "repdistiller"))
    check_map_pair(student, teacher, axis, where)
    if variant == "repdistiller":
        check_many_positions(student, teacher, axis)
    elif jnp.shape(student)[axis] != jnp.shape(teacher)[axis]:
        raise ValueError(
            f"student factors {shape_of(student)}, teacher factors {shape_of(teacher)}: they have to have as many "
            "channels, give the translator as many as the paraphraser has"
        )
    elif min(math.prod(jnp.shape(x)[1:]) for x in (student, teacher)) < 2:
        raise ValueError(
            f"student factors {shape_of(student)}, teacher factors {shape_of(teacher)}: of a single element nothing is "
            "left once it is normalised; give the factors more channels"
        )
    student, teacher = at_least_float32(student, teacher)
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)
    student, teacher = pooled_alike(student, teacher, axis)
    if variant == "repdistiller":
        student, teacher = (jnp.mean(jnp.square(x), axis, keepdims=True) for x in (student, teacher))
    if mask is not None:
        mask = jnp.broadcast_to(mask, student.shape).reshape(student.shape[0], -1)
    student, teacher = (l2_normalize(x.reshape(x.shape[0], -1), 1) for x in (student, teacher))
    distance = jnp.abs(student - teacher)
    # It is known to within rounding only, and the gradient of |x| is as large there as anywhere else.
    rounding = 8 * jnp.finfo(distance.dtype).eps * jnp.abs(teacher)
    return masked_mean(jnp.where(distance > rounding, distance, 0), mask, 1)


def variational_information(
    student: ArrayLike, teacher: ArrayLike, raw_variance: ArrayLike, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """Variational information distillation: the negative log-likelihood of the teacher under the student's prediction.

    L = mean over all elements of ((mu - t)^2 / sigma_c^2 + log sigma_c^2) / 2, sigma_c^2 = log(1 + exp(rho_c)) + 1e-5,
    with a Gaussian of which the mean mu is predicted from the student's map by a trained regressor and the variance is
    trained, one for each channel c. The constant log(2 pi) / 2 is left out, as in the code. The mean over the batch is
    the loss of RepDistiller: weight 1 for every pair of layers, beside a cross-entropy of weight 1 (CIFAR-100), where
    sigma^2 is 5 at first: rho = log(exp(5 - 1e-5) - 1).

    Args:
      student: mu, what the regressor predicts from the student's map, [batch, *spatial, channels].
      teacher: the teacher's map, of the same shape.
      raw_variance: rho, [channels], any real numbers, of which the above makes the variance; trained as well.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part. An
        example without any gives 0.

    Returns:
      The loss of each example, [batch], at least float32. It can be negative, and is not 0 where mu is t.

    Raises:
      ValueError: if the shapes differ, ``raw_variance`` is not [channels], ``where`` or ``axis`` does not fit, or any
        is no float.

    References:
      Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", 2019,
      https://arxiv.org/abs/1904.05835
    """
    check_same_maps(student, teacher, axis, where)
    check_channels("raw_variance", raw_variance, student, axis)
    student, teacher, raw_variance = at_least_float32(student, teacher, raw_variance)
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)
    variance = jax.nn.softplus(raw_variance)[None] + 1e-5
    squares = masked_mean(jnp.square(student - teacher), mask, spatial_axes(student, axis))
    losses = 0.5 * jnp.mean(squares / variance + jnp.log(variance), -1)
    if mask is None:
        return losses
    return jnp.where(jnp.any(mask, tuple(range(1, mask.ndim))), losses, 0)
