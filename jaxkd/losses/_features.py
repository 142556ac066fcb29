"""Feature distillation: losses on inner features."""

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import (
    ArrayLike,
    Axis,
    Where,
    at_least_float32,
    check_axes,
    check_floating,
    check_same_shape,
)
from jaxkd.losses._maps import check_mask
from jaxkd.losses._numerics import masked_mean


def hint(student: ArrayLike, teacher: ArrayLike, *, axis: Axis = -1, where: Where = None) -> jax.Array:
    """The hint loss of FitNets: the mean squared difference of features.

    L = mean over ``axis`` of (student - teacher)^2. The paper has half the *sum*; the code that published weights
    (100 beside a cross-entropy) belong to takes the mean over everything, which is the mean of all that this returns.
    With a mask of tokens it is the hidden-state loss of the transformer papers.

    Args:
      student: features [..., dim], already passed through a connector where widths or sizes differ.
      teacher: features of the same shape.
      axis: the axis or axes to average over.
      where: bool, of as many axes as the features, of size 1 where a flag is shared (of tokens, [batch, length, 1]):
        the elements that take part. Where none does, the result is 0.

    Returns:
      The loss, the shape of the features without ``axis``, at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, ``axis`` or ``where`` does not fit, or the features are no floats.

    References:
      Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, https://arxiv.org/abs/1412.6550
    """
    check_floating("student features", student)
    check_floating("teacher features", teacher)
    check_same_shape("features", student, teacher, "add a connector that brings the student's to the teacher's shape")
    check_axes("features", student, axis)
    check_mask(where, jnp.shape(student), "features")
    student, teacher = at_least_float32(student, teacher)
    difference = student - teacher
    if where is not None:
        # Selected before squaring: what is masked may be anything, and must not reach the gradient.
        difference = jnp.where(where, difference, 0)
    return masked_mean(jnp.square(difference), where, axis)
