"""Response distillation: squared differences of logits, and losses on the scores of candidates."""

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_axis, check_floating, check_logits
from jaxkd.losses._logits import soft_label_kl
from jaxkd.losses._numerics import masked_mean
from jaxkd.losses._pairs import check_several


def logit_mse(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """Matching of logits: the mean over classes of (s - t)^2.

    Ba and Caruana have half the sum over classes; what is published since has this mean, alone or as
    (1 - w) cross-entropy + w L. Unlike a softmax's losses it also sees what is added to all logits.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape. A class with a logit of -inf adds nothing.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, or ``where`` does not fit.

    References:
      Ba, Caruana, "Do Deep Nets Really Need to be Deep?", 2013, https://arxiv.org/abs/1312.6184
      Kim et al., "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge Distillation", 2021,
      https://arxiv.org/abs/2105.08919
    """
    check_logits(student_logits, teacher_logits, axis, where)
    student, teacher = at_least_float32(student_logits, teacher_logits)
    seen = ~jnp.isneginf(teacher) if where is None else where & ~jnp.isneginf(teacher)
    return masked_mean(jnp.square(jnp.where(seen, student - teacher, 0)), where, axis)


def margin_mse(
    student_scores: ArrayLike, teacher_scores: ArrayLike, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """Margin-MSE of rankers: the squared difference of margins between the first candidate and the others.

    L = mean over j > 0 of ((s_0 - s_j) - (t_0 - t_j))^2, where candidate 0 is the relevant one. With two candidates it
    is the paper's loss of a triple; its mean over queries is the published loss, alone. What is added to all scores
    of a query changes nothing.

    Args:
      student_scores: [..., candidates], the relevant one first.
      teacher_scores: [..., candidates], the same shape. A candidate with a score of -inf adds nothing.
      axis: the axis of the candidates.
      where: bool, broadcastable to the scores: the candidates that take part. A query without its first
        candidate, or without others, gives 0.

    Returns:
      The loss of each query, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one candidate, or ``where`` does not fit.

    References:
      Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
      2020, https://arxiv.org/abs/2010.02666
    """
    check_logits(student_scores, teacher_scores, axis, where)
    check_several("candidate", "student scores", student_scores, axis)
    student, teacher = at_least_float32(student_scores, teacher_scores)
    gap = student - teacher
    margin = jax.lax.slice_in_dim(gap, 0, 1, axis=axis) - gap
    seen = ~jnp.isneginf(teacher)
    if where is not None:
        where = jnp.broadcast_to(where, gap.shape)
        where &= jax.lax.slice_in_dim(where, 0, 1, axis=axis)
        seen &= where
    seen &= jax.lax.slice_in_dim(seen, 0, 1, axis=axis)
    # The first candidate has no margin to itself: it adds nothing, and does not count.
    count = gap.shape[axis] - 1 if where is None else jnp.maximum(jnp.sum(where, axis) - 1, 1)
    return jnp.sum(jnp.square(jnp.where(seen, margin, 0)), axis) / count


def listwise_kl(
    student_scores: ArrayLike,
    teacher_scores: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Listwise distillation of rankers: ``soft_label_kl`` of the scores of one query's candidates.

    L = T^2 KL(softmax(t / T) || softmax(s / T)) over the candidates. Published at T = 1, the mean over queries, alone
    or beside a contrastive loss; Sentence Transformers has the same T and T^2.

    Args:
      student_scores: [..., candidates].
      teacher_scores: [..., candidates], the same shape.
      temperature: T > 0, a scalar, or one for each query: [...].
      axis: the axis of the candidates.
      where: bool, broadcastable to the scores: the candidates that take part. A fully masked query gives 0.

    Returns:
      The loss of each query, [...], at least float32, in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one candidate, or ``temperature`` is known and not above 0.

    References:
      Lin, Yang, Lin, "Distilling Dense Representations for Ranking using Tightly-Coupled Teachers", 2020,
      https://arxiv.org/abs/2010.11386
    """
    check_floating("student scores", student_scores)
    check_axis("student scores", student_scores, axis)
    check_several("candidate", "student scores", student_scores, axis)
    return soft_label_kl(student_scores, teacher_scores, temperature, axis=axis, where=where)
