"""Response distillation that weighs, or makes up, the teacher's answers by the label.

Notation: s, t are the logits of student and teacher, y the label, T the temperature.
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
from jaxkd.losses._logits import cross_entropy
from jaxkd.losses._numerics import log_softmax, with_axis
from jaxkd.losses._own_class import OwnClass
from jaxkd.losses._pairs import check_several, cross_entropy_of, logit_pair, probabilities


def weighted_soft_label(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 2.0,
    *,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Weighted soft labels (WSLD): the soft cross-entropy, less of it where the student knows the label well already.

    L = w T^2 (-sum_c p_c log q_c), p = softmax(t / T), q = softmax(s / T), w = 1 - exp(-CE_s / (CE_t + 1e-7)). CE_s and
    CE_t are the cross-entropies of student and teacher with the label, at temperature 1. The weight is a constant by
    the method's definition: no gradient passes through it, to neither side. It is no divergence: a student equal to
    its teacher does not give 0.

    The mean over the batch is the published loss. Published weight: 2.5 at T = 2, beside a cross-entropy of weight 1
    (ImageNet).

    Args:
      student_logits: [..., classes], two classes at least.
      teacher_logits: [..., classes], the same shape.
      labels: integers [...] in [0, classes). Below 0: the example gives 0. At or above ``classes`` is an error: it
        raises, or where the labels are traced gives NaN.
      temperature: T > 0 of the soft labels, a scalar, or one for each example: [...].
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. An example whose own class does not is as
        good as unlabelled.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if shapes do not fit, there is one class, labels are no integers, or a known ``temperature`` is not
        above 0.

    References:
      Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang, "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance
      Tradeoff Perspective", 2021, https://arxiv.org/abs/2102.00650
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    temperature = number("temperature", temperature, student, axis, above=0)
    # Both are 0 without a label, and so then is the weight.
    of_student, of_teacher = (
        cross_entropy(jax.lax.stop_gradient(x), labels, axis=axis, where=where) for x in (student, teacher)
    )
    # Infinite by infinite, of a class that both exclude, would be no number; for any other student it is 0.
    ratio = jnp.where(jnp.isposinf(of_teacher), 0, of_student / (of_teacher + 1e-7))
    weight = -jnp.expm1(-jnp.maximum(ratio, 0))
    divisor = with_axis(axis, temperature)
    p, log_q = probabilities(teacher / divisor, axis, where), log_softmax(student / divisor, axis, where)
    return jnp.square(temperature) * weight * cross_entropy_of(p, log_q, axis)


def one_for_all(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    exponent: ArrayLike = 1.0,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """One-for-all (OFA): soft cross-entropy in which the labelled class's part is enhanced by an exponent.

    L = -sum_c ((p_c + 1[c = y])^e - 1[c = y]) log q_c, p = softmax(t / T), q = softmax(s / T), without T^2. e = 1 is
    the soft cross-entropy; above it the teacher's confidence in the label counts more, and in other classes less.
    This is the form of the paper's code; the paper prints the exponent for the labelled class alone, and no -1. It is
    no divergence: a student equal to its teacher does not give 0.

    The mean over the batch is the published loss. It is taken of the logits and of each of four inner stages, whose
    features projectors turn into logits; all five have weight 1 beside a cross-entropy of weight 1, at T = 1. e is 1
    where the code says nothing else, 1.5 in its example for ImageNet (DeiT-T to ResNet18); it may differ by stage.

    Args:
      student_logits: [..., classes], of the student or of the projector of one of its stages; two classes at least.
      teacher_logits: [..., classes], the same shape.
      labels: integers [...] in [0, classes). Below 0: the example gives 0. At or above ``classes`` is an error: it
        raises, or where the labels are traced gives NaN.
      exponent: e > 0, a scalar, or one for each example: [...].
      temperature: T > 0, likewise.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. An example whose own class does not is as
        good as unlabelled.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if shapes do not fit, there is one class, labels are no integers, or a known number is out of range.

    References:
      Hao, Guo, Han, Tang, Hu, Wang, Xu, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
      Distillation", 2023, https://arxiv.org/abs/2310.19444
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    own = OwnClass(labels, student, axis, where)
    enhances = not (isinstance(exponent, int | float) and exponent == 1)
    exponent = number("exponent", exponent, student, axis, above=0)
    temperature = number("temperature", temperature, student, axis, above=0)
    teacher, student = teacher / with_axis(axis, temperature), student / with_axis(axis, temperature)
    if enhances:
        log_p = log_softmax(teacher, axis, where)
        # Powers as exponentials of multiples of the logarithm: their gradient stays finite where p underflows.
        enhanced = jnp.expm1(exponent * jnp.log1p(jnp.exp(own.of(log_p))))
        weights = jnp.where(own.mask, jnp.expand_dims(enhanced, axis), jnp.exp(with_axis(axis, exponent) * log_p))
        if where is not None:
            weights = jnp.where(where, weights, 0)
    else:
        weights = probabilities(teacher, axis, where)
    return own.only_labelled(cross_entropy_of(weights, log_softmax(student, axis, where), axis))


def teacher_free(
    logits: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 20.0,
    *,
    confidence: float = 0.99,
    variant: str = "paper",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Teacher-free regularisation (Tf-KD reg): distillation from a virtual teacher that is right, and unsure alike.

    The virtual teacher u has ``confidence`` in the label and the same small rest in each other class.
    L = T^2 KL(u' || q), u' = softmax(log(u) / T), q = softmax(s / T): the paper's idea, u softened like any teacher.
    ``variant="code"`` is what the published numbers were made with, L = KL(softmax(u / T) || softmax(s)) / classes: the
    probabilities of u serve as logits, which makes the target all but uniform, the student is not softened, there is
    no T^2, and the sum over classes is a mean.

    Published weights go with ``variant="code"``, whose mean over the batch is the published loss, and with no other:
    (1 - a) cross-entropy + a m L, on CIFAR-100 by model (a, T, m): ResNet18 (.1, 20, 100), GoogLeNet (.1, 40, 50),
    MobileNetV2 (.95, 40, 1), ShuffleNetV2 (.95, 10, 1).

    Args:
      logits: the student's, [..., classes], two classes at least.
      labels: integers [...] in [0, classes). Below 0: the example gives 0. At or above ``classes`` is an error: it
        raises, or where the labels are traced gives NaN.
      temperature: T > 0, a scalar, or one for each example: [...].
      confidence: of the virtual teacher in the label, in [0, 1].
      variant: "paper" or "code".
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part, and that the rest is spread over. An
        example whose own class does not is as good as unlabelled.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if shapes do not fit, there is one class, labels are no integers, ``variant`` is unknown, or a known
        number is out of range.

    References:
      Yuan, Tay, Li, Wang, Feng, "Revisiting Knowledge Distillation via Label Smoothing Regularization", 2019,
      https://arxiv.org/abs/1909.11723
    """
    check_variant(variant, ("paper", "code"))
    check_floating("logits", logits)
    check_axis("logits", logits, axis)
    check_where(where, jnp.shape(logits), "logits")
    check_several("class", "logits", logits, axis)
    (logits,) = at_least_float32(logits)
    own = OwnClass(labels, logits, axis, where)
    temperature = number("temperature", temperature, logits, axis, above=0)
    classes: ArrayLike = logits.shape[axis]
    if where is not None:
        classes = jnp.sum(jnp.broadcast_to(where, logits.shape), axis, keepdims=True)
    of_own = number("confidence", confidence, logits, within=(0, 1))
    of_others = (1 - of_own) / jnp.maximum(classes - 1, 1)
    divisor = with_axis(axis, temperature)
    if variant == "paper":
        virtual = jnp.where(own.mask, jnp.log(of_own) / divisor, jnp.log(of_others) / divisor)
        return own.only_labelled(jnp.square(temperature) * kl_of_logits(virtual, logits / divisor, axis, where))
    virtual = jnp.where(own.mask, of_own / divisor, of_others / divisor)
    divergence = kl_of_logits(virtual, logits, axis, where)
    count = classes if where is None else jnp.maximum(jnp.squeeze(classes, axis), 1)
    return own.only_labelled(divergence / count)
