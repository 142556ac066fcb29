"""Response distillation: divergences of two softmaxes other than Hinton's.

Notation: s, t are the logits of student and teacher, q = softmax(s) and p = softmax(t) over the classes.
"""

import jax
import jax.numpy as jnp

from jaxkd._checks import check_number
from jaxkd.losses._arguments import ArrayLike, Where, check_variant, number
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._mixtures import kl_to_mixture, kls_to_mixture, log_mixture
from jaxkd.losses._numerics import with_axis
from jaxkd.losses._pairs import (
    cross_entropy_of,
    logit_pair,
    probabilities,
    static_number,
)


def reverse_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The reverse divergence T^2 KL(student || teacher), both softened by T: it seeks modes of the teacher.

    L = T^2 sum_c q_c (log q_c - log p_c), q = softmax(s / T), p = softmax(t / T). Language models have it at T = 1,
    per token, as a mean over the valid tokens; there it is the single-step term of MiniLLM, on answers that the
    student wrote. Classes that the teacher excludes (a logit of -inf) take no part, as if ``where`` left them out:
    the divergence would be infinite. Teacher equal to student gives 0 with gradient 0.

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
      Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2023,
      https://arxiv.org/abs/2306.08543
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    temperature = number("temperature", temperature, student, axis, above=0)
    divisor = with_axis(axis, temperature)
    value = kl_of_logits(student / divisor, teacher / divisor, axis, where, excluding=True)
    return jnp.square(temperature) * value


def generalized_jsd(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    beta: float = 0.5,
    temperature: ArrayLike = 1.0,
    scaled: bool = False,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The generalised Jensen-Shannon divergence of GKD: between forward and reverse divergence.

    L = beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q. As in TRL, beta = 0 is KL(p || q) and
    beta = 1 is KL(q || p): special cases, not limits, for the formula tends to 0 at both ends.
    ``scaled`` divides by beta (1 - beta), of which the two are the limits; beta = 1/2 is then 4 times as large.
    TRL softens both sides by T without T^2, has T = 1 and beta = 1/2, and takes the mean over valid tokens, weight 1.
    ``reverse_kl`` and ``soft_label_kl`` have T^2: at T they are T^2 times this at beta = 1 and at beta = 0.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      beta: the teacher's share of the mixture, a static number in [0, 1].
      temperature: T > 0, a scalar, or one for each example: [...].
      scaled: whether to divide by beta (1 - beta), but at the ends.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, log 2] for 0 < beta < 1 unscaled, else in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, ``beta`` is traced or out of range, or ``temperature`` is
        known and not above 0.

    References:
      Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes", 2023,
      https://arxiv.org/abs/2306.13649
    """
    beta = static_number("beta", beta)
    check_number("beta", beta, within=(0, 1))
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    divisor = with_axis(axis, number("temperature", temperature, student, axis, above=0))
    student, teacher = student / divisor, teacher / divisor
    if beta == 0:
        return kl_of_logits(teacher, student, axis, where)
    if beta == 1:
        return kl_of_logits(student, teacher, axis, where, excluding=True)
    value = kls_to_mixture(beta, teacher, student, axis, where)
    return value / (beta * (1 - beta)) if scaled else value


def skew_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    alpha: ArrayLike = 0.1,
    variant: str = "paper",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The skewed divergence of DistiLLM, KL(p || alpha p + (1 - alpha) q): bounded, so that its gradients are, too.

    ``variant="code"`` leaves out the teacher's term, -sum p log(alpha p + (1 - alpha) q), as the authors' code does:
    the same gradient for the student, a constant away in value, and not 0 where student and teacher agree.
    Published: alpha 0.1, the mean over valid tokens.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      alpha: the teacher's share of the mixture in (0, 1), a scalar, or one for each example: [...].
        Without it, it would be ``soft_label_kl`` at T = 1.
      variant: "paper" or "code".
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, -log alpha] for "paper", else in [0, inf).

    Raises:
      ValueError: if the shapes differ, there is one class, ``alpha`` is known and out of range, or ``variant`` is not.

    References:
      Ko, Kim, Chen, Yun, "DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024,
      https://arxiv.org/abs/2402.03898
    """
    check_variant(variant, ("paper", "code"))
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    share = with_axis(axis, number("alpha", alpha, student, axis, above=0, below=1))
    if variant == "code":
        p, log_m = probabilities(teacher, axis, where), log_mixture(share, teacher, student, axis, where)
        return cross_entropy_of(p, log_m, axis)
    return kl_to_mixture(share, teacher, student, axis, where)


def skew_reverse_kl(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    alpha: ArrayLike = 0.1,
    variant: str = "paper",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The skewed reverse divergence of DistiLLM, KL(q || (1 - alpha) p + alpha q).

    ``variant="detached"`` is DistiLLM-2's: the same value, but no gradient through the student in the mixture.
    Published: alpha 0.1, the mean over valid tokens; DistiLLM-2 takes it on answers that the student wrote, beside
    ``skew_kl`` on the teacher's, with an alpha for each, and the mean over an answer's tokens before that over answers.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      alpha: the student's share of the mixture in (0, 1), a scalar, or one for each example: [...].
        Without it, it would be ``reverse_kl``.
      variant: "paper" or "detached".
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, -log alpha].

    Raises:
      ValueError: if the shapes differ, there is one class, ``alpha`` is known and out of range, or ``variant`` is not.

    References:
      Ko, Kim, Chen, Yun, "DistiLLM: Towards Streamlined Distillation for Large Language Models", 2024,
      https://arxiv.org/abs/2402.03898
      Ko et al., "DistiLLM-2: A Contrastive Approach Boosts the Distillation of LLMs", 2025,
      https://arxiv.org/abs/2503.07067
    """
    check_variant(variant, ("paper", "detached"))
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    share = with_axis(axis, number("alpha", alpha, student, axis, above=0, below=1))
    if variant == "detached":
        log_m = log_mixture(share, jax.lax.stop_gradient(student), teacher, axis, where)
        return kl_of_logits(student, log_m, axis, where)
    return kl_to_mixture(share, student, teacher, axis, where)


def total_variation(
    student_logits: ArrayLike, teacher_logits: ArrayLike, *, axis: int = -1, where: Where = None
) -> jax.Array:
    """The total variation distance, half of sum_c |p_c - q_c|: symmetric and bounded.

    Published as the mean over valid tokens, weight 1.

    Args:
      student_logits: [..., classes].
      teacher_logits: [..., classes], the same shape.
      axis: the axis of the classes.
      where: bool, broadcastable to the logits: the classes that take part. A fully masked example gives 0.

    Returns:
      The loss of each example, [...], at least float32, in [0, 1].

    Raises:
      ValueError: if the shapes differ, there is one class, or ``where`` does not fit.

    References:
      Wen, Li, Du, Mou, "f-Divergence Minimization for Sequence-Level Knowledge Distillation", 2023,
      https://arxiv.org/abs/2307.15190
    """
    student, teacher = logit_pair(student_logits, teacher_logits, axis, where)
    q, p = (probabilities(x, axis, where) for x in (student, teacher))
    # Where both are equal, nothing is to be learnt: the absolute value has a gradient at 0, and a fused
    # multiply-subtract does not even give 0 for two equal products.
    return 0.5 * jnp.sum(jnp.where(q == p, 0, jnp.abs(q - p)), axis)
