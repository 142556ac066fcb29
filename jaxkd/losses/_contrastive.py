"""Contrastive distillation: student and teacher agree on which embeddings are of the same example."""

import jax
import jax.numpy as jnp

from jaxkd._checks import check_number, shape_of
from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_directions,
    check_floating,
    check_same_shape,
    check_variant,
    check_where,
)
from jaxkd.losses._batch import global_batch, pairs_of
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._maps import check_positive_scalar
from jaxkd.losses._numerics import l2_normalize, log_softmax, masked_mean


def contrastive_representation(
    student: ArrayLike,
    teacher: ArrayLike,
    student_negatives: ArrayLike,
    teacher_negatives: ArrayLike,
    *,
    student_normalizer: ArrayLike,
    teacher_normalizer: ArrayLike,
    population: int,
    temperature: ArrayLike = 0.07,
    student_positive: ArrayLike | None = None,
    teacher_positive: ArrayLike | None = None,
    where: Where = None,
) -> jax.Array:
    """Contrastive representation distillation (CRD), against given negatives.

    For the student's embedding e and K + 1 keys of the teacher, P_k = exp(e . key_k / T) / Z, and with P_0 of the
    positive, n = ``population`` and eps = 1e-7,

        L = -log(P_0 / (P_0 + K/n + eps)) - sum_k=1..K log((K/n) / (P_k + K/n + eps)),

    plus the same for the teacher's embedding and keys of the student. The mean over the batch is the published loss.
    Embeddings are used as they are: the published ones are linear maps to 128 dimensions, divided by their L2 norm.

    In the paper's code all keys come from memory banks, the positives too: pass the bank's rows of the examples
    themselves as ``student_positive`` and ``teacher_positive``, and no gradient flows into them. Without, a positive is
    the embedding of the other network, and has a gradient.

    Published weight: 0.8, with positives of the banks, beside a cross-entropy with 1 (CIFAR-100; T = 0.07, K = 16384,
    n = 50000, and Z fixed to n times the mean of exp(e . key / T) over the first batch).

    Args:
      student: embeddings [..., dim] of examples.
      teacher: embeddings of the same examples, the same shape.
      student_negatives: keys of the student for the teacher's embeddings, [..., K, dim], or [K, dim] for all examples.
      teacher_negatives: keys of the teacher for the student's embeddings, likewise.
      student_normalizer: Z > 0 of the student's scores.
      teacher_normalizer: Z > 0 of the teacher's scores.
      population: n, from how many examples the negatives are drawn; at least 1.
      temperature: T > 0.
      student_positive: keys of the student for the teacher's embeddings, [..., dim]. Default: ``student``.
      teacher_positive: keys of the teacher for the student's embeddings, [..., dim]. Default: ``teacher``.
      where: bool, broadcastable to [..., K]: the negatives that take part; K is their number.

    Returns:
      The loss of each example, [...], at least float32, in [0, inf). Not 0 where student and teacher are equal. An
      example without negatives gives 0.

    Raises:
      ValueError: if shapes do not fit, embeddings are no floats, or a known number is out of range.

    References:
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019, https://arxiv.org/abs/1910.10699
    """
    check_positive_scalar("temperature", temperature)
    check_number("population", population, within=(1, float("inf")))
    check_positive_scalar("student_normalizer", student_normalizer)
    check_positive_scalar("teacher_normalizer", teacher_normalizer)
    student_positive = student if student_positive is None else student_positive
    teacher_positive = teacher if teacher_positive is None else teacher_positive
    check_floating("embeddings", student, teacher, student_positive, teacher_positive)
    for what, x in (
        ("teacher", teacher),
        ("student_positive", student_positive),
        ("teacher_positive", teacher_positive),
    ):
        if jnp.shape(x) != jnp.shape(student) or jnp.ndim(student) < 1:
            shapes = f"student embeddings {shape_of(student)}, {what} {shape_of(x)}"
            raise ValueError(f"{shapes}: they have to be [..., dim], of one shape")
    check_floating("negatives", student_negatives, teacher_negatives)
    check_same_shape("negatives", student_negatives, teacher_negatives, "give both as many, of one width")
    shape, negatives = jnp.shape(student), jnp.shape(student_negatives)
    if (
        len(negatives) < 2
        or negatives[-2:] != (max(negatives[-2], 1), shape[-1])
        or negatives[:-2] not in ((), shape[:-1])
    ):
        raise ValueError(
            f"student embeddings {shape_of(student)}, negatives {shape_of(student_negatives)}: "
            "they have to be [..., K, dim] or [K, dim] for embeddings [..., dim]"
        )
    check_where(where, (*shape[:-1], negatives[-2]), "negatives")
    student, teacher, student_positive, teacher_positive, student_negatives, teacher_negatives = at_least_float32(
        *(student, teacher, student_positive, teacher_positive, student_negatives, teacher_negatives)
    )
    temperature = jnp.asarray(temperature, student.dtype)
    count: ArrayLike = negatives[-2]
    if where is not None:
        where = jnp.broadcast_to(where, (*shape[:-1], negatives[-2]))
        count = jnp.sum(where, -1).astype(student.dtype)

    def one_way(anchor: jax.Array, positive: jax.Array, keys: jax.Array, normalizer: ArrayLike) -> jax.Array:
        if where is not None:
            # A key that no example wants may be NaN, and is not to reach a gradient by a product.
            used = where if keys.ndim == anchor.ndim + 1 else jnp.any(where.reshape(-1, where.shape[-1]), 0)
            keys = jnp.where(used[..., None], keys, 0)
        # Logarithms of P, for exp(e . key / T) of long embeddings overflows.
        log_z = jnp.log(jnp.asarray(normalizer, anchor.dtype))
        own = jnp.sum(anchor * positive, -1) / temperature - log_z
        of_keys = "...d,kd->...k" if keys.ndim == 2 else "...d,...kd->...k"
        scores = jnp.einsum(of_keys, anchor, keys, precision="highest")
        others = scores / temperature - log_z
        noise = jnp.asarray(count, anchor.dtype) / population
        log_noise = jnp.log(noise + 1e-7)
        of_positive = jnp.logaddexp(own, log_noise) - own
        of_negatives = jnp.logaddexp(others, jnp.expand_dims(log_noise, -1))
        if where is None:
            return of_positive + jnp.sum(of_negatives - jnp.log(noise), -1)
        # Without negatives there is no noise, of which the logarithm could be taken.
        some = noise > 0
        of_negatives -= jnp.expand_dims(jnp.log(jnp.where(some, noise, 1)), -1)
        return jnp.where(some, of_positive + jnp.sum(jnp.where(where, of_negatives, 0), -1), 0)

    of_student = one_way(student, teacher_positive, teacher_negatives, student_normalizer)
    return of_student + one_way(teacher, student_positive, student_negatives, teacher_normalizer)


def info_nce(
    student: ArrayLike,
    teacher: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """InfoNCE with the teacher's features as keys: each example finds itself among the teacher's features of the batch.

    L = -1/N sum_i log softmax_j(s_i . t_j / T)[j = i], features divided by their L2 norm. One way, from student to
    teacher. Not 0 where student and teacher are equal.

    Published weight: CLIP-KD's interactive contrastive learning is the mean of this for (student image, teacher text)
    and (student text, teacher image), with weight 1 beside a CLIP loss with 1. Its 1/T is trained, without an
    exponential, from log(1 / 0.07) = 2.66.

    Args:
      student: features [batch, ...], flattened.
      teacher: features [batch, ...] of the same examples, the same shape.
      temperature: T > 0.
      where: bool [batch], the examples that take part, on both sides.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, in [0, inf). 0 where no example takes part.

    Raises:
      ValueError: if shapes differ or the batch has one example, ``where`` does not fit, features are of width 1, or a
        known temperature is not above 0.

    References:
      van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018,
      https://arxiv.org/abs/1807.03748
      Yang et al., "CLIP-KD: An Empirical Study of CLIP Model Distillation", 2023, https://arxiv.org/abs/2307.12732
    """
    check_positive_scalar("temperature", temperature)
    check_same_shape("features", student, teacher, "add a connector that brings the student's to the teacher's width")
    batch = [("student features", student), ("teacher features", teacher)]
    (student, teacher), where, _ = global_batch(batch, where, axis_name)
    check_directions("features", student, -1)
    scores = _cosines(student, teacher) / jnp.asarray(temperature, student.dtype)
    return masked_mean(-jnp.diagonal(log_softmax(scores, 1, where)), where, 0)


def clip_affinity(
    student_image: ArrayLike,
    student_text: ArrayLike,
    teacher_image: ArrayLike,
    teacher_text: ArrayLike,
    *,
    student_scale: ArrayLike,
    teacher_scale: ArrayLike,
    variant: str = "kl",
    where: Where = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Affinity mimicking of CLIP models: images find texts, and texts images, as they do for the teacher.

    With A = scale * image text^T [N, N], embeddings divided by their L2 norm, P the softmax of its rows, and Q of its
    columns: L = 1/2 1/N sum_i [KL(P_t,i || P_s,i) + KL(Q_t,i || Q_s,i)].

    Variants: ``"kl"``, as CLIP-KD has it (contrastive relational distillation). ``"cross_entropy"``, as TinyCLIP has
    it: the teacher's entropy is not subtracted, so that equality does not give 0; for a frozen teacher the gradients
    are those of ``"kl"``.

    Published weight: 1 (CLIP-KD), beside a CLIP loss with 1 and the hint loss of embeddings with 2000.

    Args:
      student_image: embeddings [batch, dim] of the student.
      student_text: embeddings [batch, dim] of the student.
      teacher_image: embeddings [batch, dim] of the teacher; its width may be another.
      teacher_text: embeddings [batch, dim] of the teacher.
      student_scale: the student's logit scale (1 / temperature, after its exponential), above 0; it may be trained.
      teacher_scale: the teacher's logit scale, above 0.
      variant: ``"kl"`` or ``"cross_entropy"``.
      where: bool [batch], the pairs that take part, as rows and as columns.
      axis_name: of a mapped axis, whose devices then share one batch.

    Returns:
      The loss, a scalar, at least float32, in [0, inf). 0 where no pair takes part.

    Raises:
      ValueError: if shapes do not fit or the batch has one example, the variant is unknown, ``where`` does not fit, or
        a known scale is not above 0.

    References:
      Yang et al., "CLIP-KD: An Empirical Study of CLIP Model Distillation", 2023, https://arxiv.org/abs/2307.12732
      Wu et al., "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance", 2023,
      https://arxiv.org/abs/2309.12314
    """
    check_variant(variant, ("kl", "cross_entropy"))
    check_positive_scalar("student_scale", student_scale)
    check_positive_scalar("teacher_scale", teacher_scale)
    for whose, image, text in (("student", student_image, student_text), ("teacher", teacher_image, teacher_text)):
        if jnp.shape(image) != jnp.shape(text):
            shapes = f"{whose} image embeddings {shape_of(image)}, {whose} text embeddings {shape_of(text)}"
            raise ValueError(f"{shapes}: they have to have one shape [batch, dim]")
    batch = [
        *(("student image embeddings", student_image), ("student text embeddings", student_text)),
        *(("teacher image embeddings", teacher_image), ("teacher text embeddings", teacher_text)),
    ]
    arrays, where, _ = global_batch(batch, where, axis_name)
    student, teacher = _cosines(*arrays[:2]), _cosines(*arrays[2:])
    student *= jnp.asarray(student_scale, student.dtype)
    teacher *= jnp.asarray(teacher_scale, teacher.dtype)
    pairs = pairs_of(where)

    def one_way(axis: int) -> jax.Array:
        if variant == "kl":
            return masked_mean(kl_of_logits(teacher, student, axis, pairs), where, 0)
        p = jnp.exp(log_softmax(teacher, axis, pairs))
        terms = p * log_softmax(student, axis, pairs)
        if pairs is not None:
            terms = jnp.where(pairs, terms, 0)
        return masked_mean(-jnp.sum(terms, axis), where, 0)

    return (one_way(1) + one_way(0)) / 2


def _cosines(x: jax.Array, y: jax.Array) -> jax.Array:
    """[batch, batch]: of each row of one with each of the other."""
    return jnp.matmul(l2_normalize(x, 1), l2_normalize(y, 1).T, precision="highest")
