"""Response distillation that treats the labelled class and the others apart.

Notation: s, t are the logits of student and teacher, y the label, T the temperature.
"""

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where, number
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._logits import cross_entropy
from jaxkd.losses._numerics import log_softmax, with_axis
from jaxkd.losses._own_class import NOT_NEGATIVE, OwnClass, logsumexp
from jaxkd.losses._pairs import cross_entropy_of, logit_pair, probabilities


def decoupled_kd(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 4.0,
    *,
    alpha: ArrayLike = 1.0,
    beta: ArrayLike = 8.0,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Decoupled knowledge distillation (DKD): the labelled class and the others, each with a weight of its own.

    L = T^2 (alpha TCKD + beta NCKD). TCKD is KL(teacher || student) of the two probabilities (own class, all others),
    NCKD that of the distributions over the other classes, softmax of the logits / T without the own one. With beta =
    1 - p_y, p = softmax(t / T), and alpha = 1 it is ``soft_label_kl``: that is the coupling which beta undoes.

    The mean over the batch is the published loss. Published weights, beside a cross-entropy of weight 1, alpha always
    1: CIFAR-100 at T = 4, beta 8, 6 (WRN to WRN, VGG13 to VGG8 and MobileNetV2) or 2 (ResNet56 to 20, 110 to 32);
    ImageNet at T = 1, beta .5 (ResNet34 to 18) or 2 (ResNet50 to MobileNetV1). L grows from 0, in proportion to the
    epoch, over the first 20 of CIFAR-100, the first of ImageNet.

    Args:
      student_logits: [..., classes], two classes at least.
      teacher_logits: [..., classes], the same shape.
      labels: integers [...] in [0, classes). Below 0: the example gives 0. At or above ``classes`` is an error: it
        raises, or where the labels are traced gives NaN.
      temperature: T > 0, a scalar, or one for each example: [...].
      alpha: the weight of TCKD, >= 0, a scalar, or one for each example.
      beta: the weight of NCKD, likewise.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. An example whose own class does not is as
        good as unlabelled.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if shapes do not fit, there is one class, labels are no integers, or a known number is out of range.

    References:
      Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", 2022, https://arxiv.org/abs/2203.08679
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    own = OwnClass(labels, student, axis, where)
    temperature = number("temperature", temperature, student, axis, above=0)
    alpha = number("alpha", alpha, student, axis, within=NOT_NEGATIVE)
    beta = number("beta", beta, student, axis, within=NOT_NEGATIVE)
    lowest = jnp.finfo(temperature.dtype).min
    # A class at -inf is as good as one at the lowest number there is, and leaves the logits finite.
    student, teacher = (jnp.maximum(x / with_axis(axis, temperature), lowest) for x in (student, teacher))
    rest_of_teacher = logsumexp(teacher, axis, own.others)
    of_target = kl_of_logits(
        jnp.stack([own.of(teacher), rest_of_teacher], -1),
        jnp.stack([own.of(student), logsumexp(student, axis, own.others)], -1),
        -1,
        None,
    )
    of_others = kl_of_logits(teacher, student, axis, own.others)
    # A teacher that rules out all others has no distribution over them.
    of_others = jnp.where(rest_of_teacher > 0.5 * lowest, of_others, 0)
    return own.only_labelled(jnp.square(temperature) * (alpha * of_target + beta * of_others))


def normalized_kd(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    gamma: ArrayLike = 1.5,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Normalized knowledge distillation (NKD): soft cross-entropies of the labelled class and of the others.

    L = -p_y log q_y - gamma T^2 sum_(c != y) P_c log Q_c. p, q are the softmaxes of the logits, at temperature 1
    always; P, Q those of the logits / T over the classes other than y, so that both add up to 1. It is no divergence:
    a student equal to its teacher gives the entropies.

    The mean over the batch is the published loss. Published weights, beside a cross-entropy of weight 1: ImageNet
    gamma 1.5 at T = 1 (1 for DeiT students, beside ViTKD), CIFAR-100 gamma 3.5 at T = 3 (ResNet34 to 18). For labels of
    mixed-up examples the paper's code takes the larger class.

    Args:
      student_logits: [..., classes], two classes at least.
      teacher_logits: [..., classes], the same shape.
      labels: integers [...] in [0, classes). Below 0: the example gives 0. At or above ``classes`` is an error: it
        raises, or where the labels are traced gives NaN.
      temperature: T > 0 of the second term, a scalar, or one for each example: [...].
      gamma: the weight of the second term, >= 0, a scalar, or one for each example.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. An example whose own class does not is as
        good as unlabelled.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if shapes do not fit, there is one class, labels are no integers, or a known number is out of range.

    References:
      Yang, Zeng, Li, Zhang, Yuan, Li, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
      with Normalized Loss and Customized Soft Labels", 2023, https://arxiv.org/abs/2303.13005
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    own = OwnClass(labels, student, axis, where)
    temperature = number("temperature", temperature, student, axis, above=0)
    gamma = number("gamma", gamma, student, axis, within=NOT_NEGATIVE)
    p_own = jnp.exp(-cross_entropy(teacher, labels, axis=axis, where=where))
    # 0 log 0 is 0, where both exclude the own class.
    of_target = p_own * jnp.where(p_own > 0, cross_entropy(student, labels, axis=axis, where=where), 0)
    divisor = with_axis(axis, temperature)
    P, log_Q = probabilities(teacher / divisor, axis, own.others), log_softmax(student / divisor, axis, own.others)
    return own.only_labelled(of_target + gamma * jnp.square(temperature) * cross_entropy_of(P, log_Q, axis))
