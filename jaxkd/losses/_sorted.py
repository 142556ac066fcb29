"""Response distillation: losses that look at the classes in the order of their probability."""

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_axis,
    check_floating,
    check_where,
    number,
)
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._numerics import masked_sum, with_axis
from jaxkd.losses._pairs import check_several, logit_pair, probabilities, without_excluded


def adaptive_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    mu: float = 0.5,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The adaptive divergence AKL: forward and reverse, weighted by where the student errs.

    The classes that the teacher finds most probable make up the head: the first always, and as many as have
    a cumulative probability of at most ``mu``; the rest is the tail. With g the sum of |p - q| over either,
    L = g_head / (g_head + g_tail) KL(p || q) + g_tail / (g_head + g_tail) KL(q || p). The two weights carry no
    gradient, and are 1/2 where p = q. Published: mu 0.5, the mean over valid tokens, weight 1.
    Classes that the teacher excludes (a logit of -inf) take no part, see ``reverse_kl``.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      mu: how much of the teacher's probability is the head's, in [0, 1].
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, or ``mu`` is known and out of range.

    References:
      Wu et al., "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models", 2024,
      https://arxiv.org/abs/2404.02657
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    threshold = number("mu", mu, student, within=(0, 1))
    student = without_excluded(student, teacher)
    axis %= student.ndim
    q, p = jax.lax.stop_gradient([probabilities(x, axis, where) for x in (student, teacher)])
    descending, gaps = jax.lax.sort((-p, jnp.abs(p - q)), dimension=axis, num_keys=1)
    head = jnp.cumsum(-descending, axis) <= threshold
    head |= jax.lax.broadcasted_iota(jnp.int32, head.shape, axis) == 0
    of_head, of_tail = masked_sum(gaps, head, axis), masked_sum(gaps, ~head, axis)
    total = of_head + of_tail
    weight = jnp.where(total > 0, of_head / jnp.where(total > 0, total, 1), 0.5)
    forward, reverse = kl_of_logits(teacher, student, axis, where), kl_of_logits(student, teacher, axis, where)
    return weight * forward + (1 - weight) * reverse


def universal_logit(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    student_temperature: ArrayLike = 1.0,
    teacher_temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: Where = None,
    teacher_where: Where = None,
) -> jax.Array:
    """The universal logit distillation loss ULD: between models whose vocabularies have nothing in common.

    L = sum_k |q_(k) - p_(k)|, the probabilities of either side in descending order, and the shorter vocabulary
    filled up with probability 0. It is the optimal transport distance of the two with uniform costs.
    Published: with weight 1.5 beside a cross-entropy of weight 1; the student's answer and the teacher's are aligned
    at their first token, the loss is the mean over as many tokens as the shorter answer has, then over examples.

    Args:
      student_logits: [..., classes of the student].
      teacher_logits: [..., classes of the teacher], of as many examples.
      student_temperature: divides the student's logits, > 0, a scalar, or one for each example: [...].
      teacher_temperature: divides the teacher's logits, likewise. There is no T^2.
      axis: the axis of the classes, of both.
      where: bool, broadcastable to the student's logits: its classes that take part. An example of which nothing takes
        part, of student or teacher, gives 0, and may be NaN on both sides.
      teacher_where: bool, broadcastable to the teacher's logits, likewise. Default: all classes of the examples of
        which ``where`` leaves something, as the vocabularies have nothing in common.

    Returns:
      The loss of each example, [...], at least float32, in [0, 2].

    Raises:
      ValueError: if the examples differ, one side has one class, or a temperature is known and not above 0.

    References:
      Boizard, El Haddad, Hudelot, Colombo, "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss
      for LLMs", 2024, https://arxiv.org/abs/2402.12030
    """
    sides = (
        ("student", student_logits, student_temperature, where),
        ("teacher", teacher_logits, teacher_temperature, teacher_where),
    )
    for name, logits, _, mask in sides:
        check_floating(f"{name} logits", logits)
        check_axis(f"{name} logits", logits, axis)
        check_where(mask, jnp.shape(logits), f"{name} logits")
        check_several("class", f"{name} logits", logits, axis)
    axis %= jnp.ndim(student_logits)
    of_student, of_teacher = (jnp.shape(x)[:axis] + jnp.shape(x)[axis + 1 :] for x in (student_logits, teacher_logits))
    if of_student != of_teacher:
        raise ValueError(
            f"student logits {shape_of(student_logits)}, teacher logits {shape_of(teacher_logits)}: they may differ in "
            f"their classes, axis {axis}, only; align the answers of the two and cut them to one length first"
        )
    # Whether anything of an example takes part, on both sides: else neither side's logits count, be they NaN.
    valid = None
    for _, logits, _, mask in sides:
        if mask is not None:
            of_side = jnp.any(jnp.broadcast_to(mask, jnp.shape(logits)), axis, keepdims=True)
            valid = of_side if valid is None else valid & of_side
    # The order of the logits is that of the probabilities.
    longest = max(jnp.shape(x)[axis] for x in (student_logits, teacher_logits))
    descending = []
    for name, logits, temperature, mask in sides:
        (logits,) = at_least_float32(logits)
        divisor = with_axis(axis, number(f"{name}_temperature", temperature, logits, axis, above=0))
        mask = valid if mask is None or valid is None else mask & valid
        p = probabilities(logits / divisor, axis, mask)
        fill = [(0, longest - n if i == axis else 0) for i, n in enumerate(p.shape)]
        descending.append(jnp.pad(-jnp.sort(-p, axis), fill))
    return jnp.sum(jnp.abs(descending[0] - descending[1]), axis)
