"""Response distillation: cross-entropies and divergences against a target made of the teacher's logits.

Notation: s, t are the logits of student and teacher, q = softmax(s) and p = softmax(t) over the classes.
"""

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_floating,
    check_logits,
    check_variant,
    number,
)
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._logits import cross_entropy
from jaxkd.losses._numerics import log_softmax, with_axis
from jaxkd.losses._pairs import cross_entropy_of, logit_pair, probabilities


def soft_cross_entropy(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The cross-entropy with the teacher's probabilities as labels: T^2 times that of both softened by T.

    L = -T^2 sum_c p_c log q_c, p = softmax(t / T), q = softmax(s / T): ``soft_label_kl`` and T^2 times the teacher's
    entropy, which no student changes, so that it is not 0 where student and teacher agree. TextBrewer has it
    without T^2, TinyBERT at T = 1 as a mean over classes: divide by T^2 or by their number for these.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      temperature: T > 0, a scalar, or one for each example: [...].
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, or ``temperature`` is known and not above 0.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    temperature = number("temperature", temperature, student, axis, above=0)
    divisor = with_axis(axis, temperature)
    p, log_q = probabilities(teacher / divisor, axis, where), log_softmax(student / divisor, axis, where)
    return jnp.square(temperature) * cross_entropy_of(p, log_q, axis)


def hard_teacher_label(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """The hard distillation of DeiT: the cross-entropy with the class that the teacher finds most probable.

    L = -log q_c, c = argmax t. It is not 0 where student and teacher agree, and has no gradient for the teacher.
    Published: 0.5 of it, on the logits of the distillation token, beside 0.5 of the cross-entropy with the labels.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, or ``where`` does not fit.

    References:
      Touvron et al., "Training data-efficient image transformers & distillation through attention", 2020,
      https://arxiv.org/abs/2012.12877
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    labels = jnp.argmax(teacher if where is None else jnp.where(where, teacher, -jnp.inf), axis)
    return cross_entropy(student, labels, axis=axis, where=where)


def interpolated_teacher(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    u: ArrayLike,
    *,
    variant: str = "code",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The loss of TAID: against a teacher that starts near the student and moves to the teacher as ``u`` grows.

    r = softmax((1 - u) stop_gradient(s) + u t), L = -sum_c r_c log q_c: the code's form, whose values also steer its
    ``u``. ``variant="kl"`` is the paper's KL(r || q), which is less by the entropy of r: the same gradient for the
    student, and 0 where student and teacher agree. The student in the target is detached, as published.
    Published: u from 0.4 to 1, at least linearly in the steps, the mean over valid tokens, weight 1.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      u: the share of the teacher's logits in [0, 1], a scalar, or one for each example: [...].
      variant: "code" or "kl".
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, ``u`` is known and out of range, or ``variant`` is not
        known.

    References:
      Shing et al., "TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language
      Models", 2025, https://arxiv.org/abs/2501.16937
    """
    check_variant(variant, ("code", "kl"))
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    u = with_axis(axis, number("u", u, student, axis, within=(0, 1)))
    # The teacher may exclude classes, and u may be 0, but 0 times -inf is no number.
    finite = jnp.where(jnp.isneginf(teacher), jnp.finfo(teacher.dtype).min, teacher)
    target = (1 - u) * jax.lax.stop_gradient(student) + u * finite
    if variant == "kl":
        return kl_of_logits(target, student, axis, where)
    return cross_entropy_of(probabilities(target, axis, where), log_softmax(student, axis, where), axis)


def centered_self_distillation(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    center: ArrayLike,
    *,
    student_temperature: ArrayLike = 0.1,
    teacher_temperature: ArrayLike = 0.04,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The loss of DINO: cross-entropy with a teacher that is centred and sharpened, so that it does not collapse.

    L = -sum_c P_c log Q_c, P = softmax((t - center) / T_t), Q = softmax(s / T_s). It is not 0 where the two agree.
    Published: the mean over all pairs of a view of the student and another view, large, of the teacher, weight 1;
    T_s 0.1, T_t from 0.04 to 0.07, the centre a running mean of the teacher's logits with momentum 0.9.

    Args:
      student_logits: [..., classes] (DINO's prototypes).
      teacher_logits: [..., classes], the same shape.
      center: [classes], or of the shape of the logits.
      student_temperature: T_s > 0, a scalar, or one for each example: [...].
      teacher_temperature: T_t > 0, likewise.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, or a temperature is known and not above 0.

    References:
      Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021,
      https://arxiv.org/abs/2104.14294
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    check_floating("center", center)
    (center,) = at_least_float32(center)
    if center.shape not in (teacher.shape, (teacher.shape[axis],)):
        raise ValueError(
            f"center {shape_of(center)}, teacher logits {shape_of(teacher)}: it has to have one number for each class, "
            "or for each logit"
        )
    if center.ndim < teacher.ndim:
        center = jnp.expand_dims(center, [i for i in range(teacher.ndim) if i != axis % teacher.ndim])
    of_student, of_teacher = (
        with_axis(axis, number(name, x, student, axis, above=0))
        for name, x in (("student_temperature", student_temperature), ("teacher_temperature", teacher_temperature))
    )
    p = probabilities((teacher - center) / of_teacher, axis, where)
    return cross_entropy_of(p, log_softmax(student / of_student, axis, where), axis)


def binary_soft_label(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """Soft labels for multi-label classification: each class is a binary decision of its own, by a sigmoid.

    L = sum_c KL(Bernoulli(sigmoid(t_c)) || Bernoulli(sigmoid(s_c))), the mean of which over examples is the MLD term of
    L2D, published with weight 10 beside the binary cross-entropy of the labels and its terms on embeddings. (That code
    clamps the probabilities at 1e-8, which changes nothing within logits of 18.) 0 with gradient 0 where the two agree.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape. At -inf the teacher is sure that the class is absent.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, or ``where`` does not fit.

    References:
      Yang et al., "Multi-Label Knowledge Distillation", 2023, https://arxiv.org/abs/2308.06453
    """
    check_logits(student_logits, teacher_logits, axis, where)
    student, teacher = at_least_float32(student_logits, teacher_logits)
    if where is not None:
        student, teacher = (jnp.where(where, x, 0) for x in (student, teacher))
    # From the less probable of the two outcomes, for either gives the same, and this one's numbers are small.
    sign = jnp.where(teacher > 0, -1, 1).astype(teacher.dtype)
    student, teacher = sign * student, sign * teacher
    odds = jnp.exp(teacher)
    p = odds / (1 + odds)
    gap = jnp.where(odds > 0, student - teacher, 0)
    softplus = jnp.maximum(student, 0) + jnp.log1p(jnp.exp(-jnp.abs(student)))
    return jnp.sum(softplus - jnp.log1p(odds) - p * gap, axis)
