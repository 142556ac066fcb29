"""Objectives on logits: labels and the teacher's soft labels."""

import jax.numpy as jnp
import optax

from jaxkd import losses
from jaxkd._checks import check_number, shape_of
from jaxkd.objectives._combine import weighted_sum
from jaxkd.objectives._common import (
    Number,
    mean_over_examples,
    one_minus,
    value_at,
    without_padding,
    without_parameters,
)
from jaxkd.objectives._objective import Objective, Signals, Taps, Term


def hard_label() -> Objective:
    """Cross-entropy with the labels, the mean over labelled examples.

    ``batch["label"]`` holds integers [batch] (or any shape of the logits without classes), below 0 for unlabelled; or
    probabilities of the shape of the logits (after mixup, say), of which a row with a negative entry is unlabelled.

    Raises:
      ValueError: in ``init``: if the batch has no labels, or they fit neither shape.
    """

    def term(signals: Signals) -> Term:
        logits, label = without_padding(signals.student.logits, signals.batch), signals.batch["label"]
        if label.ndim == logits.ndim:
            valid = jnp.all(label >= 0, -1)
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
            values = optax.losses.softmax_cross_entropy(logits, jnp.where(valid[..., None], label, 0))
        else:
            valid = label >= 0
            # Any class does for the unlabelled: the mean masks them, and the compiler then sees that once is enough.
            values = losses.cross_entropy(logits, jnp.maximum(label, 0))
        return mean_over_examples(values, signals.batch, valid)

    def check(signals: Signals) -> None:
        if "label" not in signals.batch:
            raise ValueError(f'hard_label needs batch["label"]; the batch holds {sorted(signals.batch)}')
        logits, label = signals.student.logits, signals.batch["label"]
        if label.shape not in (logits.shape, logits.shape[:-1]):
            raise ValueError(
                f"labels {shape_of(label)}, student logits {shape_of(logits)}: one integer, or one row of class "
                "probabilities, for each row of logits"
            )

    return without_parameters(Taps(), "hard_label", term, check)


def soft_label(temperature: Number = 4.0) -> Objective:
    """The teacher's soft labels: T^2 KL(teacher || student), the mean over examples, labelled or not.

    Args:
      temperature: T > 0: a number, a schedule of the step, or a traced array.

    Raises:
      ValueError: if the temperature is a number not above 0; in ``init``: if the class counts differ.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    check_number("temperature", temperature, above=0)

    def term(signals: Signals) -> Term:
        student, teacher = (without_padding(x.logits, signals.batch) for x in (signals.student, signals.teacher))
        values = losses.soft_label_kl(student, teacher, value_at(temperature, signals.step))
        return mean_over_examples(values, signals.batch)

    return without_parameters(Taps(), "soft_label", term, check_same_classes)


def check_same_classes(signals: Signals) -> None:
    """Raises unless student and teacher have logits of one shape."""
    student, teacher = signals.student.logits, signals.teacher.logits
    if teacher is None:
        raise ValueError("this objective needs a teacher, and the learner has none: distill(student, teacher, ...)")
    if student.shape != teacher.shape:
        raise ValueError(
            f"student logits {shape_of(student)}, teacher logits {shape_of(teacher)}: both have to have the same "
            "classes; give one of them the other's number of classes, or map the teacher's logits first (from_function)"
        )


def distillation(temperature: Number = 3.0, alpha: Number = 0.5) -> Objective:
    """Soft and hard labels: alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy.

    The two means are over their own examples: soft labels over all, hard labels over those that have one.

    Args:
      temperature: T > 0 of the soft part: a number, a schedule of the step, or a traced array.
      alpha: the weight of the soft part in [0, 1]: likewise.

    Raises:
      ValueError: if a number is out of its range; in ``init``: as ``hard_label`` and ``soft_label`` do.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    check_number("alpha", alpha, within=(0, 1))
    return weighted_sum(hard=(one_minus(alpha), hard_label()), soft=(alpha, soft_label(temperature)))


def peer_labels(temperature: Number = 3.0) -> Objective:
    """What a peer learns from labels and from another peer: cross-entropy + T^2 KL(other || own), each of weight 1.

    For ``learners.mutual``, where it is the loss of "Deep Mutual Learning". The paper has T = 1; with the T^2 of Hinton
    et al. the weight of the soft part does not depend on the temperature.

    Args:
      temperature: T > 0 of the soft part: a number, a schedule of the step, or a traced array.

    Raises:
      ValueError: if the temperature is a number not above 0; in ``init``: as ``hard_label`` and ``soft_label`` do.

    References:
      Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2017, https://arxiv.org/abs/1706.00384
    """
    return weighted_sum(hard=(1.0, hard_label()), soft=(1.0, soft_label(temperature)))
