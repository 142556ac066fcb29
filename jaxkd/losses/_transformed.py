"""Response distillation that transforms the logits first: standardised on both sides, or the teacher's alone softened.

Notation: s, t are the logits of student and teacher, q = softmax(s) and p = softmax(t).
"""

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_axis,
    check_floating,
    check_variant,
    check_where,
    number,
)
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._numerics import masked_mean, safe_sqrt, selected_logits, with_axis
from jaxkd.losses._pairs import check_several, logit_pair


def standardize_logits(logits: ArrayLike, *, eps: float = 1e-7, axis: int = -1, where: Where = None) -> jax.Array:
    """Standardises logits over the classes: (x - mean) / (std + eps). It composes with any loss on logits.

    The standard deviation is that of a sample, of ``classes - 1`` degrees of freedom. The student then matches the
    shape of the teacher's logits, not their shift and scale; of two classes their order is all that is left. The
    temperature is left to the loss that follows:

    >>> import numpy as np
    >>> from jaxkd.losses import soft_label_kl
    >>> student, teacher = np.array([[2.0, 1.0, 0.1]]), np.array([[6.0, 3.0, 0.3]])
    >>> print(np.asarray(soft_label_kl(student, teacher, 2.0)).round(3))
    [0.729]
    >>> print(np.asarray(soft_label_kl(standardize_logits(student), standardize_logits(teacher), 2.0)).round(3))
    [0.]

    Published weights, of ``soft_label_kl`` at T = 2 on standardised logits: 9, beside a cross-entropy (of the logits
    as they are) of weight .1 on CIFAR-100, 1 on ImageNet. With ``decoupled_kd`` both alpha and beta are multiplied
    by 9.

    Args:
      logits: [..., classes], any float type, two classes at least; computed in at least float32. A class at -inf has
        to be left out by ``where``, here and in the loss.
      eps: added to the standard deviation, > 0.
      axis: the axis of the classes.
      where: bool, broadcastable to ``logits``: the classes that take part; the others get 0.

    Returns:
      Logits [..., classes] of mean 0 and standard deviation 1; 0 where all that take part are equal.

    Raises:
      ValueError: if the logits are no floats or of one class, ``axis`` or ``where`` does not fit, or ``eps`` <= 0.

    References:
      Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", 2024,
      https://arxiv.org/abs/2403.01427
    """
    check_floating("logits", logits)
    check_axis("logits", logits, axis)
    check_where(where, jnp.shape(logits), "logits")
    check_several("class", "logits", logits, axis)
    (logits,) = at_least_float32(logits)
    floor = number("eps", eps, logits, above=0)
    count: ArrayLike = logits.shape[axis]
    if where is not None:
        logits = jnp.where(where, logits, 0)
        count = jnp.sum(jnp.broadcast_to(where, logits.shape), axis, keepdims=True)
    centred = logits - masked_mean(logits, where, axis, keepdims=True)
    if where is not None:
        centred = jnp.where(where, centred, 0)
    variance = jnp.sum(jnp.square(centred), axis, keepdims=True) / jnp.maximum(count - 1, 1)
    return centred / (floor + safe_sqrt(variance))


def transformed_teacher_matching(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    exponent: ArrayLike = 0.1,
    *,
    variant: str = "ttm",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Transformed teacher matching (TTM): the teacher alone is softened, the student stays at temperature 1.

    L = KL(p' || q), p' = p^g / sum p^g = softmax(g t): a power transform, of which g is 1 / T. There is no T^2.
    ``variant="wttm"`` weighs each example by how soft its teacher is, with U = sum_c p_c^g, between 1 (one-hot) and
    classes^(1 - g) (uniform): L = U KL(p' || q). Equal logits give 0 for g = 1 only, where both variants are the
    plain KL at T = 1.

    The mean over the batch is the published loss. Published weights, beside a cross-entropy of weight 1, CIFAR-100:
    TTM 45 at g = .1 (VGG13 to VGG8); WTTM 4 at g = .2, beside CRD of weight .8 as well.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape. The weight U too has a gradient towards them.
      exponent: g > 0, a scalar, or one for each example: [...]. Below 1 softens.
      variant: "ttm", or "wttm", the weighted one.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, ``variant`` is unknown, or a known ``exponent`` is not
        above 0.

    References:
      Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", 2024,
      https://arxiv.org/abs/2402.11148
    """
    check_variant(variant, ("ttm", "wttm"))
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    exponent = number("exponent", exponent, student, axis, above=0)
    teacher = selected_logits(teacher, where)
    transformed = teacher * with_axis(axis, exponent)
    divergence = kl_of_logits(transformed, student, axis, where)
    if variant == "ttm":
        return divergence
    log_power_sum = jax.nn.logsumexp(transformed, axis) - exponent * jax.nn.logsumexp(teacher, axis)
    return jnp.exp(log_power_sum) * divergence
