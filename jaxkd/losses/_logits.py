"""Response distillation: losses on logits.

Notation: s, t are the logits of student and teacher, q = softmax(s / T) and p = softmax(t / T) over the classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_axis,
    check_floating,
    check_labels,
    check_where,
    number,
)
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._numerics import with_axis
from jaxkd.losses._pairs import check_several, logit_pair, probabilities


def softmax_with_temperature(
    logits: ArrayLike, temperature: ArrayLike = 1.0, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """Softens a distribution: softmax(logits / T).

    T = 1 is the softmax; T towards 0 the argmax, T towards infinity the uniform distribution.

    >>> import numpy as np
    >>> for temperature in (1.0, 3.0, 10.0):
    ...     print(np.asarray(softmax_with_temperature(np.array([2.0, 1.0, 0.1]), temperature)).round(3))
    [0.659 0.242 0.099]
    [0.445 0.319 0.236]
    [0.366 0.331 0.303]

    Args:
      logits: [..., classes], any float type; computed in at least float32.
      temperature: T > 0, a scalar, or one for each example: [...].
      axis: the axis of the classes.
      where: bool, broadcastable to ``logits``: the classes that take part; the others get 0.

    Returns:
      Probabilities [..., classes] that add up to 1 (to 0 where no class takes part).

    Raises:
      ValueError: if ``temperature`` is known and not above 0.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    check_floating("logits", logits)
    check_axis("logits", logits, axis)
    check_where(where, jnp.shape(logits), "logits")
    (logits,) = at_least_float32(logits)
    temperature = number("temperature", temperature, logits, axis, above=0)
    return probabilities(logits / with_axis(axis, temperature), axis, where)


def soft_label_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperature: ArrayLike = 4.0,
    *,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The distillation loss of Hinton et al.: T^2 KL(teacher || student), both softened by T.

    L = T^2 sum_c p_c (log p_c - log q_c), p = softmax(t / T), q = softmax(s / T). The sum is over classes (a mean over
    classes, as some systems have it, is smaller by their number). T^2 keeps the gradient's size as T grows:
    for T towards infinity L tends to half the mean over classes of the squared difference of centred logits.
    Teacher equal to student gives 0 with gradient 0.

    The mean over valid examples, tokens for one, is not ``jnp.mean``, which counts the masked ones, too:

    >>> import numpy as np
    >>> student, teacher = np.random.default_rng(0).standard_normal((2, 3, 5, 7))
    >>> valid = np.arange(5) < np.array([[5], [2], [3]])
    >>> losses = soft_label_kl(student, teacher, 1.0, where=valid[..., None])
    >>> loss = losses.sum() / np.maximum(valid.sum(), 1)
    >>> bool(abs(loss - soft_label_kl(student[valid], teacher[valid], 1.0).mean()) < 1e-6)
    True

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape. No gradient is stopped here: that is the learner's decision.
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
    return jnp.square(temperature) * kl_of_logits(teacher / divisor, student / divisor, axis, where)


def distillation_loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 3.0,
    alpha: ArrayLike = 0.5,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Soft and hard labels in one loss: alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy.

    >>> import numpy as np
    >>> student, teacher = np.array([[2.0, 1.0, 0.1]]), np.array([[3.0, 1.0, 0.2]])
    >>> print(np.asarray(distillation_loss(student, teacher, np.array([0]), temperature=3.0, alpha=0.5)).round(3))
    [0.266]

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      labels: integers [...] in [0, classes). Below 0 means unlabelled: the cross-entropy of that example is left out
        (its soft part keeps the weight alpha). At or above ``classes`` is an error: it raises, or
        where the labels are traced the loss is NaN, never another class's.
      temperature: T > 0 of the soft part, a scalar, or one for each example: [...]. The hard part has T = 1.
      alpha: the weight of the soft part, in [0, 1].
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. An example whose own class does not is as
        good as unlabelled.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if shapes do not fit, there is one class, labels are no integers, or a known temperature or alpha is
        out of range.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    soft = soft_label_kl(student, teacher, temperature, axis=axis, where=where)
    hard = cross_entropy(student, labels, axis=axis, where=where)
    alpha = number("alpha", alpha, student, axis, within=(0, 1))
    return alpha * soft + (1 - alpha) * hard


def cross_entropy(logits: ArrayLike, labels: ArrayLike, *, axis: int = -1, where: Where = None) -> jax.Array:
    """Cross-entropy with integer labels that may be missing: -log softmax(logits)[label], and 0 where label < 0.

    ``optax.losses.softmax_cross_entropy_with_integer_labels``, in at least float32, with the data convention of this
    library: a label below 0 is none.

    Args:
      logits: [..., classes].
      labels: integers [...]. Below 0: the example gives 0. At or above ``classes`` is an error: it
        raises, or where the labels are traced gives NaN, never another class's loss.
      axis: the axis of the classes.
      where: bool, broadcastable to ``logits``: the classes that take part. An example whose own class does not is as
        good as unlabelled: 0, and no gradient.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if ``labels`` are no integers, not of the shape of ``logits`` without ``axis``, or known and at or
        above ``classes``; if there is one class, or ``where`` does not fit.
    """
    check_floating("logits", logits)
    check_axis("logits", logits, axis)
    check_several("class", "logits", logits, axis)
    check_where(where, jnp.shape(logits), "logits")
    (logits,) = at_least_float32(logits)
    check_labels(labels, np.delete(logits.shape, axis).tolist(), logits.shape[axis])
    labels = jnp.asarray(labels)
    labelled, labels = labels >= 0, jnp.maximum(labels, 0)
    if where is not None:
        where = jnp.broadcast_to(where, logits.shape)
        # Filled with True: a label at or above ``classes`` is an error, which is not to pass for a masked class.
        own = jnp.take_along_axis(where, jnp.expand_dims(labels, axis), axis, mode="fill", fill_value=True)
        labelled &= jnp.squeeze(own, axis)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels, int(axis), where)
    return jnp.where(labelled, losses, 0)
