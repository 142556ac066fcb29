"""Self-distillation without a teacher: from the predictions of the epoch before, and between examples of a class."""

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number, shape_of
from jaxkd.networks import Variables
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding
from jaxkd.objectives._memory import check_index, gather, global_positions, read, valid_examples, write
from jaxkd.objectives._objective import Objective, Signals, Taps


def progressive_self(n_data: int, alpha: Number) -> Objective:
    """Progressive self-knowledge distillation (PS-KD): the labels, softened by what the epoch before predicted.

    L = -sum_c y_c log q_c,  y = (1 - alpha) onehot + alpha p,  q = softmax(logits), where p is the softmax (temperature
    1) that the student gave this very example the last time it saw it, in training mode and under another augmentation.
    The mean is over labelled examples. An example that was not seen yet (the first epoch) has y = onehot. It needs no
    teacher: ``distill(student, None, progressive_self(...), ...)``, and is the whole loss: no ``hard_label`` beside it.

    Predictions are written while training, to the collection ``"memory"``, float32 [n_data, classes], also of
    unlabelled examples. Where a batch holds an example twice, the last one is remembered.

    Args:
      n_data: examples in the training set: ``batch["index"]`` lies in [0, n_data). A position out of range makes the
        loss NaN.
      alpha: in [0, 1]: a number, a schedule of the step, or a traced array. Published: in epoch e = 0, 1, ... of E it
        is 0.8 (e + 1) / E: ``lambda step: 0.8 * (step // steps_per_epoch + 1) / epochs``.

    Raises:
      ValueError: if ``n_data`` is below 1 or ``alpha`` a number out of range; in ``init``, if the batch has no
        ``"index"``, no integer labels [batch], or the logits are no [batch, classes].

    References:
      Kim, Ji, Yoon, Hwang, "Self-Knowledge Distillation with Progressive Refinement of Targets", 2020,
      https://arxiv.org/abs/2006.12000
    """
    check_number("n_data", n_data, above=0)
    check_number("alpha", alpha, within=(0, 1))

    def init(key: jax.Array, signals: Signals) -> Variables:
        del key
        _check_labels("progressive_self", signals)
        size, classes = signals.student.logits.shape
        check_index("progressive_self", signals.batch, size)
        return {"memory": {"probabilities": jnp.zeros((n_data, classes))}}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        batch, memory = signals.batch, variables["memory"]["probabilities"]
        logits = without_padding(signals.student.logits, batch)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        label, index = batch["label"], batch["index"]
        remembered = without_padding(read(memory, index), batch)
        # A row of probabilities adds up to 1; one of zeros was never written. NaN, out of range, is neither.
        seen = jnp.sum(remembered, -1) != 0
        share = jnp.where(seen, value_at(alpha, signals.step), 0)
        hard = losses.cross_entropy(logits, jnp.maximum(label, 0))
        soft = -jnp.sum(remembered * jax.nn.log_softmax(logits), -1)
        term = mean_over_examples((1 - share) * hard + share * soft, batch, label >= 0)
        valid = valid_examples(batch, label.shape[0])
        predicted, index, valid = gather(signals.axis_name, jax.nn.softmax(logits), index, valid)
        written = write(memory, index, predicted, valid)
        return {"progressive_self": term}, {}, {"memory": {"probabilities": written}}

    return Objective(Taps(), init, apply)


def class_wise_self(temperature: Number = 4.0, weight: Number = 1.0) -> Objective:
    """Class-wise self-knowledge distillation (CS-KD): two images of a class get the same prediction.

    The batch holds pairs: the example i of its first half and the example i of its second half, counted in the global
    batch, are two examples of one class. ``jaxkd.data.PairedBatches`` makes them so, drawn as in the published code.

      L = CE(first half) + weight T^2 KL(softmax(second half / T) || softmax(first half / T))

    No gradient flows into the second half, its labels are not learnt from. A pair of two classes is an error: it makes
    the loss NaN, which stops the training. A pair of which one has no label, or is padding, is left out. It needs no
    teacher and is the whole loss: ``hard_label`` beside it would take the labels of both halves.

    The published code runs the two halves through the network one after the other, each with BatchNorm statistics of
    its own; here the batch is one forward, and they are of both halves. Under accumulation, the number of micro-batches
    has to divide half the batch (of each device): then pairs stay together.

    Published weights: ``weight`` 1 with T = 4, beside the cross-entropy of weight 1, in batches of 128 pairs.

    Args:
      temperature: T > 0: a number, a schedule of the step, or a traced array.
      weight: of the KL term: likewise.

    Raises:
      ValueError: if the temperature is a number not above 0; from shapes, if the batch is odd or has no integer labels
        [batch], or the logits are no [batch, classes].

    References:
      Yun, Park, Lee, Shin, "Regularizing Class-wise Predictions via Self-knowledge Distillation", 2020,
      https://arxiv.org/abs/2003.13964
    """
    check_number("temperature", temperature, above=0)

    def init(key: jax.Array, signals: Signals) -> Variables:
        del key
        _check_labels("class_wise_self", signals)
        _check_even(signals.student.logits.shape[0])
        return {}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        del variables
        batch = signals.batch
        logits, label = without_padding(signals.student.logits, batch), batch["label"]
        size = label.shape[0]
        everything = gather(signals.axis_name, jax.lax.stop_gradient(logits), label, valid_examples(batch, size))
        total = everything[0].shape[0]
        _check_even(total)
        position = global_positions(size, signals.axis_name)
        partner = (position + total // 2) % total
        partner_logits, partner_label, partner_valid = (x[partner] for x in everything)
        is_first = position < total // 2
        hard = losses.cross_entropy(logits, jnp.maximum(label, 0))
        soft = losses.soft_label_kl(logits, partner_logits, value_at(temperature, signals.step))
        soft = jnp.where(label == partner_label, soft, jnp.nan)
        paired = is_first & partner_valid & (label >= 0) & (partner_label >= 0)
        terms = {
            "hard_label": mean_over_examples(hard, batch, is_first & (label >= 0)),
            "class_wise": mean_over_examples(soft, batch, paired),
        }
        terms["class_wise"] = terms["class_wise"]._replace(weight=value_at(weight, signals.step))
        return terms, {}, {}

    return Objective(Taps(), init, apply)


def _check_even(examples: int) -> None:
    if examples % 2:
        raise ValueError(
            f"class_wise_self: the batch has {examples} examples, and has to be pairs: the second half are partners "
            "of the first, in order, each of the same class (jaxkd.data.PairedBatches)"
        )


def _check_labels(objective: str, signals: Signals) -> None:
    logits = signals.student.logits
    if "label" not in signals.batch:
        raise ValueError(f'{objective} needs batch["label"]; the batch holds {sorted(signals.batch)}')
    label = signals.batch["label"]
    if logits.ndim != 2 or label.shape != logits.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(
            f"{objective}: labels {shape_of(label)} are {label.dtype}, student logits {shape_of(logits)}: they have to "
            "be integers [batch] and [batch, classes]"
        )
