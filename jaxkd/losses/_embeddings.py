"""Feature distillation on embeddings: losses on the direction of a feature vector, and on its norm."""

import functools

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_axis,
    check_directions,
    check_floating,
    check_labels,
    check_same_shape,
)
from jaxkd.losses._maps import check_mask
from jaxkd.losses._numerics import safe_norm, safe_sqrt


def cosine_embedding(student: ArrayLike, teacher: ArrayLike, *, axis: int = -1, where: Where = None) -> jax.Array:
    """The cosine loss of DistilBERT: one minus the cosine of the features, which aligns their directions.

    L = 1 - <s, t> / sqrt((|s|^2 + 1e-12) (|t|^2 + 1e-12)), with the eps of PyTorch's ``cosine_embedding_loss`` for a
    target of 1. It is computed as half the squared distance of the two unit vectors, which keeps its precision where
    they all but agree.

    Published weight: 1 on the last hidden state, mean over the tokens that are no padding, beside
    ``soft_label_kl(temperature=2)`` with 5 and the masked-language cross-entropy with 2.

    Args:
      student: features [..., dim].
      teacher: features of the same shape.
      axis: the axis of the features.
      where: bool, of as many axes as the features, of size 1 where a flag is shared: the elements that take part. Of
        tokens that may be masked, [batch, length, 1]; take the mean over the others only.

    Returns:
      The loss of each vector, [...], at least float32, in [0, 2]: 1 where one side is 0, and 0 where all is masked.

    Raises:
      ValueError: if the shapes differ, ``axis`` or ``where`` does not fit, the features are no floats or of
        width 1.

    References:
      Sanh, Debut, Chaumond, Wolf, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
      2019, https://arxiv.org/abs/1910.01108
    """
    _check_features(student, teacher, axis, where)
    check_directions("features", student, axis)
    student, teacher = at_least_float32(student, teacher)
    if where is not None:
        where = jnp.broadcast_to(where, student.shape)
        student, teacher = (jnp.where(where, x, 0) for x in (student, teacher))
    loss = _one_minus_cosine(student, teacher, axis)
    return loss if where is None else jnp.where(jnp.any(where, axis), loss, 0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _one_minus_cosine(student: jax.Array, teacher: jax.Array, axis: int) -> jax.Array:
    return jnp.squeeze(_cosine_loss_and_units(student, teacher, axis)[0], axis)


@_one_minus_cosine.defjvp
def _one_minus_cosine_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # Of one pass, where the derivative of the forward pass takes three.
    student, teacher = primals
    loss, units, inverse_norms = _cosine_loss_and_units(student, teacher, axis)
    difference = units[0] - units[1]
    of_student = inverse_norms[0] * (difference - loss * units[0])
    of_teacher = inverse_norms[1] * (-difference - loss * units[1])
    return jnp.squeeze(loss, axis), jnp.sum(of_student * tangents[0] + of_teacher * tangents[1], axis)


def _cosine_loss_and_units(student: jax.Array, teacher: jax.Array, axis: int) -> tuple:
    eps = 1e-12
    inverse_norms = [1 / jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True) + eps) for x in (student, teacher)]
    units = [x * inverse for x, inverse in zip((student, teacher), inverse_norms, strict=True)]
    # With eps they are a little shorter than 1, by what the second term puts right.
    too_short = eps * sum(jnp.square(inverse) for inverse in inverse_norms)
    loss = 0.5 * (jnp.sum(jnp.square(units[0] - units[1]), axis, keepdims=True) + too_short)
    return loss, units, inverse_norms


def norm_and_direction(
    student: ArrayLike,
    teacher: ArrayLike,
    labels: ArrayLike,
    centers: ArrayLike,
    *,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The norm-and-direction loss of KD++: a long embedding, in the direction of the teacher's centre of its class.

    L = 1 - <s, c / |c|> / max(|s|, |t|), where c is the centre of the example's own class. While the student's norm is
    below the teacher's, the loss falls with its component along the centre: it pulls on norm and direction at once.
    At or above the teacher's norm it is one minus the cosine. It is not 0 at equality. Its mean over the batch is the
    published loss.

    Published weights: beside CE with 1 and ``soft_label_kl(temperature=4)`` with a, raised over the first 20 epochs,
    b for this loss, by pair on CIFAR-100 (a, b): ResNet-56/20 (1, 2), ResNet-32x4/8x4 (3.5, 2), WRN-40-2/40-1
    (1, 1.5), ResNet-50/MobileNetV2 (3, 0.5), ResNet-32x4/ShuffleNetV1 (2.5, 1.5), ResNet-32x4/ShuffleNetV2 (4, 0.5).

    Args:
      student: penultimate embeddings [..., dim], through a connector where widths differ.
      teacher: embeddings of the same shape.
      labels: integers [...] in [0, classes). Below 0 means unlabelled: 0, and no gradient. At or above ``classes`` is
        an error: it raises, or where the labels are traced gives NaN.
      centers: [classes, dim], each the mean of the teacher's embeddings of all training examples of a class.
      axis: the axis of the embeddings (of ``student`` and ``teacher``; that of ``centers`` is the last).
      where: bool, of as many axes as ``student``, of size 1 where a flag is shared: the elements that take part, of
        the centre of the example's class too.

    Returns:
      The loss of each example, [...], at least float32, in [0, 2]: 1 where student or centre is 0, and 0 where all is
      masked.

    Raises:
      ValueError: if shapes do not fit, labels are no integers or out of range, or features are no floats.

    References:
      Wang et al., "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", 2023,
      https://arxiv.org/abs/2305.17007
    """
    _check_features(student, teacher, axis, where)
    check_floating("centers", centers)
    dim = jnp.shape(student)[axis]
    if jnp.ndim(centers) != 2 or jnp.shape(centers)[1] != dim:
        raise ValueError(
            f"centers {shape_of(centers)}, student features {shape_of(student)}: they have to be [classes, {dim}]"
        )
    examples = tuple(n for i, n in enumerate(jnp.shape(student)) if i != axis % jnp.ndim(student))
    check_labels(labels, examples, jnp.shape(centers)[0])
    student, teacher, centers = at_least_float32(student, teacher, centers)
    labels = jnp.asarray(labels)
    center = jnp.moveaxis(centers.at[jnp.maximum(labels, 0)].get(mode="clip"), -1, axis)
    counts = jnp.expand_dims(labels >= 0, axis)
    # An unlabelled example's gradient is 0, be it NaN.
    student = jnp.where(counts, student, 0)
    if where is not None:
        counts &= jnp.broadcast_to(where, student.shape)
        student, teacher, center = (jnp.where(counts, x, 0) for x in (student, teacher, center))
    of_student, of_teacher = (jnp.sum(jnp.square(x), axis) for x in (student, teacher))
    # jnp.maximum would halve the gradient where the norms are equal; the paper's code gives all to the student.
    longest = safe_sqrt(jnp.where(of_student >= of_teacher, of_student, of_teacher))
    lengths = longest * jnp.maximum(safe_norm(center, axis), 1e-12)
    loss = 1 - jnp.sum(student * center, axis) / jnp.where(lengths > 0, lengths, 1)
    # A label out of range is an error, and not to pass for another class.
    loss = jnp.where(labels < len(centers), loss, jnp.nan)
    return jnp.where(jnp.any(counts, axis), loss, 0)


def _check_features(student: ArrayLike, teacher: ArrayLike, axis: int, where: Where) -> None:
    check_floating("student features", student)
    check_floating("teacher features", teacher)
    check_same_shape("features", student, teacher, "add a connector that brings the student's to the teacher's width")
    check_axis("features", student, axis)
    check_mask(where, jnp.shape(student), "features")
