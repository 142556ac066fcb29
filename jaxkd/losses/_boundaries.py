"""Losses on maps before the ReLU, which care for what the ReLU makes of them."""

import math

import jax
import jax.numpy as jnp

from jaxkd._checks import check_number, shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_floating
from jaxkd.losses._maps import (
    check_channels,
    check_positive_scalar,
    check_same_maps,
    mask_of,
    per_channel,
    selected,
)
from jaxkd.losses._numerics import masked_sum


def activation_boundary(
    student: ArrayLike, teacher: ArrayLike, *, margin: ArrayLike = 1.0, axis: int = -1, where: Where = None
) -> jax.Array:
    """Distillation of activation boundaries: the student's neurons are to fire where the teacher's do.

    L = sum over all elements of max(0, m - s)^2 where t > 0, max(0, m + s)^2 elsewhere, of maps before the ReLU: a
    squared hinge of margin m, for which only the sign of t counts. The mean over the batch is the authors' loss,
    whose weight is 0.003 for the last of the layers and half of that for each one before (CIFAR; 0.003 2^(i+1-L) for
    layer i of L; 0.001 instead on MIT scenes). It is the only term of a first stage, without labels.

    Args:
      student: a map before the ReLU, [batch, *spatial, channels], through a connector where widths differ.
      teacher: the teacher's map before the ReLU, of the same shape. Its gradient is 0.
      margin: m > 0, a scalar.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that are summed.

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf). Not 0 at equality: 0 where all |s| >= m and the
      signs agree.

    Raises:
      ValueError: if the shapes differ, ``margin`` is no scalar or known and not above 0, ``where`` or ``axis`` does
        not fit, or the maps are no floats.

    References:
      Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
      2018, https://arxiv.org/abs/1811.03233
    """
    check_positive_scalar("margin", margin)
    check_same_maps(student, teacher, axis, where)
    student, teacher = at_least_float32(student, teacher)
    margin = jnp.asarray(margin, jnp.result_type(student, teacher))
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)
    missing = jax.nn.relu(jnp.where(teacher > 0, margin - student, margin + student))
    return masked_sum(jnp.square(missing), mask, tuple(range(1, student.ndim)))


def overhaul(
    student: ArrayLike, teacher: ArrayLike, margin: ArrayLike, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """The feature distillation of "A Comprehensive Overhaul": a partial L2 distance to the margin ReLU of the teacher.

    L = sum over all elements of (s - t')^2 where s > t' or t' > 0, t' = max(t, m_c), of maps before the ReLU: where the
    teacher does not fire, the student only has to be below the margin m_c of its channel, which
    ``batch_norm_margin`` gives. The mean over the batch is the authors' loss, whose weight is 1e-3 (CIFAR) or
    1e-4 (ImageNet) for the last of the layers and half of that for each one before, beside a cross-entropy of weight 1.
    Their teacher stays in training mode: numbers with a teacher in inference mode can differ.

    Args:
      student: a map before the ReLU, [batch, *spatial, channels], through the connector (a 1x1 convolution and a
        BatchNorm).
      teacher: the teacher's map before the ReLU, of the same shape.
      margin: m, [channels], in (-inf, 0].
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that are summed.

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, ``margin`` is not [channels] or known and above 0, ``where`` or ``axis`` does
        not fit, or any is no float.

    References:
      Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019,
      https://arxiv.org/abs/1904.01866
    """
    check_same_maps(student, teacher, axis, where)
    check_channels("margin", margin, student, axis)
    check_number("margin", margin, within=(-math.inf, 0))
    student, teacher, margin = at_least_float32(student, teacher, margin)
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)
    target = jnp.maximum(teacher, per_channel(margin, student, axis))
    squares = jnp.where((student > target) | (target > 0), jnp.square(student - target), 0)
    return masked_sum(squares, mask, tuple(range(1, student.ndim)))


def batch_norm_margin(scale: ArrayLike, bias: ArrayLike) -> jax.Array:
    """The margins of ``overhaul``: what a BatchNorm's output is on average where it is negative.

    Of x normal with mean b, the bias, and deviation g = |scale|,

      m = E[x | x < 0] = b - g phi(b / g) / Phi(-b / g),

    phi the standard normal's density, Phi its distribution. Where Phi(-b / g) <= 0.001, hardly anything is negative,
    and m = -3 g, as in the authors' code; where g = 0, by which it divides, m = min(b, 0).

    Args:
      scale: of the teacher's BatchNorm before the ReLU, [channels] (of its last one, where a residual is added to it).
      bias: of the same BatchNorm, the same shape.

    Returns:
      The margins, of the shape of ``scale``, at least float32, in (-inf, 0].

    Raises:
      ValueError: if the shapes differ, or they are no floats.

    References:
      Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019,
      https://arxiv.org/abs/1904.01866
    """
    check_floating("scale", scale)
    check_floating("bias", bias)
    if jnp.shape(scale) != jnp.shape(bias):
        raise ValueError(f"scale {shape_of(scale)}, bias {shape_of(bias)}: take both of one BatchNorm")
    scale, bias = at_least_float32(scale, bias)
    deviation = jnp.abs(scale)
    # As good as 0 below: its square, by which the quotient's gradient is divided, would be.
    spread = deviation > math.sqrt(jnp.finfo(deviation.dtype).tiny)
    safe = jnp.where(spread, deviation, 1)
    # Beyond 40 deviations phi is 0 and Phi 0 or 1 in any precision; so far out the quotient's gradient would be NaN.
    z = jnp.clip(bias, -40 * deviation, 40 * deviation) / safe
    below = jax.scipy.special.ndtr(-z)
    usual = below > 0.001
    density = jnp.exp(-0.5 * jnp.square(z)) / math.sqrt(2 * math.pi)
    mean = bias - deviation * density / jnp.where(usual, below, 1)
    return jnp.where(spread, jnp.where(usual, mean, -3 * deviation), jnp.minimum(bias, 0))
