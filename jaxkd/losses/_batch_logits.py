"""Response distillation that relates the predictions of a batch.

Notation: P, Q [batch, classes] are the softmaxes of the logits / T of teacher and student.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, check_variant, number, sequence
from jaxkd.losses._batch import global_batch
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._numerics import masked_mean, masked_sum, safe_norm
from jaxkd.losses._own_class import NOT_NEGATIVE
from jaxkd.losses._pairs import logit_pair


def dist(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    beta: ArrayLike = 1.0,
    gamma: ArrayLike = 1.0,
    axis_name: str | None = None,
    where: Where = None,
) -> jax.Array:
    """Distillation from a stronger teacher (DIST): predictions correlate, within each example and within each class.

    L = T^2 (beta inter + gamma intra). inter is the mean over examples of 1 - corr(P_n, Q_n), intra the mean over
    classes of 1 - corr of the columns P_c, Q_c over the batch; corr(x, y) = <x', y'> / (|x'| |y'| + 1e-8) is Pearson's
    correlation, x' = x - mean(x). Of a class that the whole batch gives one probability, or almost, the correlation
    is 0: equal predictions give 0 up to what the 1e-8 does.

    Published: 2 L with beta = gamma = 1, beside a cross-entropy of weight 1, at T = 1 on ImageNet and 4 on CIFAR-100.

    Args:
      student_logits: [batch, classes], two examples and two classes at least.
      teacher_logits: [batch, classes], the same shape.
      temperature: T > 0, a scalar.
      beta: the weight of inter, >= 0.
      gamma: the weight of intra, >= 0.
      axis_name: of the mapped axis over whose devices the batch is spread.
      where: bool [batch]: the examples that take part. Of one alone intra is 0, of none all is.

    Returns:
      A scalar, at least float32, in [0, 2 T^2 (beta + gamma)].

    Raises:
      ValueError: if the logits are not [batch, classes] of one shape, there is one example or one class,
        ``temperature`` is no scalar, ``where`` does not fit, or a known number is out of range.

    References:
      Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", 2022,
      https://arxiv.org/abs/2205.10536
    """
    student, teacher, where, _ = _global_logits(student_logits, teacher_logits, where, axis_name, least=2)
    temperature = number("temperature", temperature, student, above=0)
    beta, gamma = (number(name, x, student, within=NOT_NEGATIVE) for name, x in (("beta", beta), ("gamma", gamma)))
    valid = None if where is None else where[:, None]
    P, Q = (jax.nn.softmax(x / temperature, -1) for x in (teacher, student))
    inter = masked_mean(1 - _correlation(P, Q, -1, None), where, 0)
    intra = jnp.mean(1 - _correlation(P, Q, 0, valid))
    if where is not None:
        intra = jnp.where(jnp.sum(where) > 1, intra, 0)
    return jnp.square(temperature) * (beta * inter + gamma * intra)


def multi_level_kd(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    *,
    variant: str = "paper",
    axis_name: str | None = None,
    where: Where = None,
) -> jax.Array:
    """Multi-level logit distillation (MLKD) of one view: examples, the batch and the classes, at several temperatures.

    L = sum over T of KD + BC + CC, of N examples and C classes: KD = T^2 mean_n KL(P_n || Q_n),
    BC = ||P P' - Q Q'||^2 / N (Frobenius, ' transposes: how examples resemble one another) and
    CC = ||P' P - Q' Q||^2 / C (how classes do). There is no T^2 in BC and CC.

    ``variant="code"`` multiplies KD and BC with the share of examples whose teacher is no surer (of its likeliest
    class, at temperature 1) than the median example, and CC with the share of classes that have no more of the batch's
    total probability than the median class; both are about a half. That is what the masks of the paper's code amount
    to, as they meet terms that are means already. The code's total is w times this of the weak view, plus w times
    KD of the strong view at T = 4, 3, 5, plus w times KD of the *weak* view again at T = 2, 6; beside cross-entropies
    of both views.

    Published weights go with ``variant="code"``, half of the default or so: cross-entropy .1 and w = .9 on CIFAR-100;
    .5 and .5 on ImageNet, of temperatures (1, 3, 5, 2, 6).

    Args:
      student_logits: [batch, classes], two classes at least.
      teacher_logits: [batch, classes], the same shape.
      temperatures: one T > 0 or more; static.
      variant: "paper" or "code".
      axis_name: of the mapped axis over whose devices the batch is spread.
      where: bool [batch]: the examples that take part. Of none the loss is 0.

    Returns:
      A scalar, at least float32, in [0, inf).

    Raises:
      ValueError: if the logits are not [batch, classes] of one shape, there is one class, ``variant`` is unknown,
        ``where`` does not fit, or there is no temperature or one that is no scalar above 0.

    References:
      Jin, Wang, Lin, "Multi-Level Logit Distillation", 2023,
      https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
    """
    check_variant(variant, ("paper", "code"))
    temperatures = sequence("temperatures", temperatures)
    student, teacher, where, count = _global_logits(student_logits, teacher_logits, where, axis_name, least=1)
    valid = None if where is None else where[:, None]
    of_examples, of_classes = jnp.zeros((), student.dtype), jnp.zeros((), student.dtype)
    for one in temperatures:
        temperature = number("temperatures", one, student, above=0)
        t, s = teacher / temperature, student / temperature
        P, Q = (jax.nn.softmax(x, -1) for x in (t, s))
        if valid is not None:
            P, Q = jnp.where(valid, P, 0), jnp.where(valid, Q, 0)
        of_examples += jnp.square(temperature) * masked_mean(kl_of_logits(t, s, -1, None), where, 0)
        of_examples += _difference_of_products(P, Q) / count
        of_classes += _difference_of_products(P.T, Q.T) / student.shape[-1]
    if variant == "code":
        p = jax.nn.softmax(teacher, -1)
        of_examples *= _share_up_to_median(jnp.max(p, -1), where)
        of_classes *= _share_up_to_median(masked_sum(p, valid, 0), None)
    return of_examples + of_classes


def _global_logits(
    student: ArrayLike, teacher: ArrayLike, where: Where, axis_name: str | None, *, least: int
) -> tuple[jax.Array, jax.Array, jax.Array | None, ArrayLike]:
    """The logits of the global batch, 0 where an example does not take part; its ``where``; and how many do."""
    student, teacher = logit_pair(student, teacher, -1, None)
    if student.ndim != 2:
        raise ValueError(
            f"student logits {shape_of(student)}, teacher logits {shape_of(teacher)}: they have to be [batch, classes]"
        )
    named = [("student logits", student), ("teacher logits", teacher)]
    (student, teacher), where, count = global_batch(named, where, axis_name, least=least)
    return student, teacher, where, count


def _correlation(x: jax.Array, y: jax.Array, axis: int, where: Where) -> jax.Array:
    """Pearson's correlation over ``axis``, 1e-8 added to the denominator; 0 where either is constant."""
    x, y = (a - masked_mean(a, where, axis, keepdims=True) for a in (x, y))
    if where is not None:
        x, y = jnp.where(where, x, 0), jnp.where(where, y, 0)
    return jnp.sum(x * y, axis) / (safe_norm(x, axis) * safe_norm(y, axis) + 1e-8)


def _difference_of_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """||x x' - y y'||^2 (Frobenius), precise also where x and y all but agree."""
    # x x' - y y' is the symmetric part of (x - y)(x + y)': one product instead of two, and nothing cancels.
    product = jnp.matmul(x - y, (x + y).T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.square(0.5 * (product + product.T)))


def _share_up_to_median(x: jax.Array, where: Where) -> jax.Array:
    """The share of the elements that are not above the median of [n] elements; 0 where none counts."""
    if where is None:
        return jnp.mean((x <= jnp.median(x)).astype(x.dtype))
    count = jnp.sum(where)
    ordered = jnp.sort(jnp.where(where, x, jnp.inf))
    low, high = ordered[jnp.maximum(count - 1, 0) // 2], ordered[jnp.maximum(count, 1) // 2]
    return masked_mean((x <= low + 0.5 * (high - low)).astype(x.dtype), where, 0)
