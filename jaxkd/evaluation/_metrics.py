"""How well a student does, and how like its teacher: pure functions of logits.

Shapes: logits are [..., batch, classes], with any leading axes (seeds, sweep points); labels and ``where`` are [batch],
or have the leading axes too. Every metric is reduced over the batch only and comes back as [...], in at least float32.

Examples count where ``where`` holds and, if the metric looks at labels, where the label is not below 0 (unlabelled).
A mean over no example is NaN, as ``jnp.mean`` has it: no accuracy is not an accuracy of 0. Of tied logits the one of
the lowest class is the prediction.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxkd import losses

Where = jax.Array | np.ndarray | None


class Calibration(NamedTuple):
    """A reliability diagram and its summary.

    Attributes:
      error: the expected calibration error, [...].
      edges: borders of the bins of confidence, [bins + 1].
      counts: examples in each bin, [..., bins].
      accuracy: their accuracy; NaN in an empty bin.
      confidence: their mean confidence; NaN in an empty bin.
    """

    error: jax.Array
    edges: jax.Array
    counts: jax.Array
    accuracy: jax.Array
    confidence: jax.Array


def accuracy(logits: ArrayLike, labels: ArrayLike, *, where: Where = None) -> jax.Array:
    """The fraction of examples whose largest logit is the label's.

    Args:
      logits: [..., batch, classes].
      labels: integers [..., batch]; below 0: unlabelled, not counted.
      where: bool [..., batch]; None: every example.

    Returns:
      [...], in [0, 1]; NaN if nothing counts.

    Raises:
      ValueError: if the shapes do not fit.
    """
    logits, labels, valid = _prepared(logits, labels, where)
    return jnp.mean(logits.argmax(-1) == labels, -1, where=valid)


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike, *, where: Where = None) -> jax.Array:
    """The mean of -log softmax(logits)[label], in nats.

    Args:
      logits: [..., batch, classes].
      labels: integers [..., batch]; below 0: unlabelled, not counted.
      where: bool [..., batch]; None: every example.

    Returns:
      [...], in [0, inf); NaN if nothing counts.

    Raises:
      ValueError: if the shapes do not fit.
    """
    logits, labels, valid = _prepared(logits, labels, where)
    return jnp.mean(losses.cross_entropy(logits, labels), -1, where=valid)


def agreement(logits: ArrayLike, teacher_logits: ArrayLike, *, where: Where = None) -> jax.Array:
    """The fraction of examples on which student and teacher predict the same class, right or wrong.

    Args:
      logits: the student's, [..., batch, classes].
      teacher_logits: [..., batch, classes].
      where: bool [..., batch]; None: every example.

    Returns:
      [...], in [0, 1]; NaN if nothing counts.

    Raises:
      ValueError: if the shapes do not fit.
    """
    logits, teacher, valid = _paired(logits, teacher_logits, where)
    return jnp.mean(logits.argmax(-1) == teacher.argmax(-1), -1, where=valid)


def kl_to_teacher(logits: ArrayLike, teacher_logits: ArrayLike, *, where: Where = None) -> jax.Array:
    """The mean of KL(teacher || student) at temperature 1, in nats.

    Args:
      logits: the student's, [..., batch, classes].
      teacher_logits: [..., batch, classes].
      where: bool [..., batch]; None: every example.

    Returns:
      [...], in [0, inf); NaN if nothing counts.

    Raises:
      ValueError: if the shapes do not fit.
    """
    logits, teacher, valid = _paired(logits, teacher_logits, where)
    return jnp.mean(losses.soft_label_kl(logits, teacher, temperature=1.0), -1, where=valid)


def per_class_agreement(
    logits: ArrayLike, teacher_logits: ArrayLike, labels: ArrayLike, *, where: Where = None
) -> jax.Array:
    """`agreement` for the examples of each class apart, by their labels.

    Args:
      logits: the student's, [..., batch, classes].
      teacher_logits: [..., batch, classes].
      labels: integers [..., batch]; below 0: unlabelled, not counted.
      where: bool [..., batch]; None: every example.

    Returns:
      [..., classes], in [0, 1]; NaN for a class with no example that counts.

    Raises:
      ValueError: if the shapes do not fit.
    """
    logits, teacher, valid = _paired(logits, teacher_logits, where)
    _, labels, labelled = _prepared(logits, labels, None)
    weight = (valid & labelled).astype(logits.dtype)
    agrees = weight * (logits.argmax(-1) == teacher.argmax(-1))
    # Added up by class: a one-hot matrix of 1000 classes and 50 000 examples would be too large to be made for this.
    by_class = jnp.vectorize(
        lambda values, labels: jnp.zeros(logits.shape[-1], values.dtype).at[labels].add(values),
        signature="(batch),(batch)->(classes)",
    )
    return by_class(agrees, labels) / by_class(weight, labels)


def expected_calibration_error(
    logits: ArrayLike, labels: ArrayLike, *, bins: int = 15, where: Where = None
) -> Calibration:
    """How far confidence is from accuracy: sum_b (n_b / n) |accuracy_b - confidence_b| over bins of confidence.

    An example's confidence is the largest softmax probability (temperature 1). Bins have equal width, and bin b is
    the interval (b / bins, (b + 1) / bins], as in the paper.

    Args:
      logits: [..., batch, classes].
      labels: integers [..., batch]; below 0: unlabelled, not counted.
      bins: their number; the paper's is 15.
      where: bool [..., batch]; None: every example.

    Returns:
      The error [...], in [0, 1] (NaN if nothing counts), and the bins of the reliability diagram.

    Raises:
      ValueError: if the shapes do not fit, or ``bins`` is below 1.

    References:
      Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}: it has to be at least 1")
    logits, labels, valid = _prepared(logits, labels, where)
    confidence = jax.nn.softmax(logits).max(-1)
    correct = logits.argmax(-1) == labels
    edges = jnp.asarray(np.linspace(0, 1, bins + 1), confidence.dtype)
    # Rounding may put a probability above the last edge, but nothing above the last bin.
    bin_of = jnp.clip(jnp.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    members = (bin_of[..., None, :] == jnp.arange(bins)[:, None]) & valid[..., None, :]
    counts = members.sum(-1)
    bin_accuracy = jnp.mean(jnp.broadcast_to(correct[..., None, :], members.shape), -1, where=members)
    bin_confidence = jnp.mean(jnp.broadcast_to(confidence[..., None, :], members.shape), -1, where=members)
    gaps = jnp.where(counts > 0, jnp.abs(bin_accuracy - bin_confidence) * counts, 0)
    return Calibration(gaps.sum(-1) / counts.sum(-1), edges, counts, bin_accuracy, bin_confidence)


def _prepared(logits: ArrayLike, labels: ArrayLike, where: Where) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits in at least float32; labels and validity, both with the logits' leading axes."""
    logits = jnp.asarray(logits)
    if logits.ndim < 2:
        raise ValueError(f"logits {list(logits.shape)}: they have to be [..., batch, classes]")
    labels = _spread("labels", labels, logits)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels are {labels.dtype}: they have to be integers")
    valid = labels >= 0
    if where is not None:
        valid &= _spread("where", where, logits).astype(bool)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), labels, valid


def _paired(logits: ArrayLike, teacher_logits: ArrayLike, where: Where) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both logits in at least float32 and of one shape; validity."""
    student, teacher = jnp.asarray(logits), jnp.asarray(teacher_logits)
    if student.ndim < 2 or student.shape[-2:] != teacher.shape[-2:]:
        raise ValueError(
            f"student logits {list(student.shape)}, teacher logits {list(teacher.shape)}: "
            "both have to be [..., batch, classes], of the same examples and classes"
        )
    shape = jnp.broadcast_shapes(student.shape, teacher.shape)
    student, teacher = jnp.broadcast_to(student, shape), jnp.broadcast_to(teacher, shape)
    valid = jnp.ones(shape[:-1], bool) if where is None else _spread("where", where, student).astype(bool)
    raised = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (student, teacher)]
    return raised[0], raised[1], valid


def _spread(name: str, array: ArrayLike, logits: jax.Array) -> jax.Array:
    """An array [batch] or [..., batch] with all leading axes of the logits."""
    array = jnp.asarray(array)
    if array.ndim == 0 or array.shape[-1] != logits.shape[-2] or array.ndim > logits.ndim - 1:
        raise ValueError(
            f"{name} {list(array.shape)}, logits {list(logits.shape)}: {name} has to be [batch] or [..., batch]"
        )
    return jnp.broadcast_to(array, logits.shape[:-1])
