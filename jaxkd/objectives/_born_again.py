"""What a born-again network may learn from the one before it: how sure it is, or its errors without their classes."""

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding, without_parameters
from jaxkd.objectives._logits import check_same_classes
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import example_keys


def confidence_weighted_label() -> Objective:
    """CWTM, confidence weighted by teacher max: labels alone, of which those count more that the teacher is sure of.

        L = sum_i w_i CE(z_i, y_i) / sum_i w_i,    w_i = max_c softmax(t_i)_c

    over the labelled examples of the global batch. Integer labels, below 0 for unlabelled.

    Raises:
      ValueError: in ``init``: if the class counts differ, or the batch has no integer labels of the logits' shape.

    References:
      Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born Again Neural Networks", 2018,
      https://arxiv.org/abs/1805.04770, "Confidence Weighted by Teacher Max"
    """

    def term(signals: Signals) -> Term:
        student, teacher = (without_padding(x.logits, signals.batch) for x in (signals.student, signals.teacher))
        label = signals.batch["label"]
        classes = student.shape[-1]
        # Times the classes, which changes no mean: a sum of weights below 1 would be taken for no example at all.
        weights = classes * jnp.max(losses.softmax_with_temperature(teacher, 1.0), -1)
        values = losses.cross_entropy(student, jnp.maximum(label, 0))
        total = mean_over_examples(weights * values, signals.batch, label >= 0)
        return total._replace(count=mean_over_examples(weights, signals.batch, label >= 0).sum)

    def check(signals: Signals) -> None:
        check_same_classes(signals)
        label, rows = signals.batch.get("label"), signals.student.logits.shape[:-1]
        if label is None or label.shape != rows or not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(f'confidence_weighted_label needs integers {list(rows)} as batch["label"]')

    return without_parameters(Taps(), "confidence_weighted_label", term, check)


def permuted_soft_label(temperature: Number = 1.0) -> Objective:
    """DKPP, dark knowledge with permuted predictions: soft labels that tell how sure, and not what else it may be.

    T^2 KL(teacher' || student), the mean over examples, where the teacher's logits but the largest are permuted among
    their classes: for each example anew at each step.

    Args:
      temperature: T > 0: a number, a schedule of the step, or a traced array. The paper has 1.

    Raises:
      ValueError: if the temperature is a number not above 0; in ``init``: if the class counts differ.

    References:
      Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born Again Neural Networks", 2018,
      https://arxiv.org/abs/1805.04770, "Dark Knowledge with Permuted Predictions"
    """
    check_number("temperature", temperature, above=0)

    def term(signals: Signals) -> Term:
        student, teacher = (without_padding(x.logits, signals.batch) for x in (signals.student, signals.teacher))
        permuted = jax.vmap(_permute_others)(example_keys(signals, len(teacher)), teacher)
        values = losses.soft_label_kl(student, permuted, value_at(temperature, signals.step))
        return mean_over_examples(values, signals.batch)

    return without_parameters(Taps(), "permuted_soft_label", term, check_same_classes)


def _permute_others(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Logits [classes], permuted at random but for the largest, which stays."""
    is_largest = jnp.arange(logits.size) == jnp.argmax(logits)
    # The largest first, the others in their order and in one drawn at random.
    positions = jnp.argsort(jnp.where(is_largest, -1, jnp.arange(logits.size)))
    drawn = jnp.argsort(jnp.where(is_largest, -1.0, jax.random.uniform(key, logits.shape)))
    return jnp.zeros_like(logits).at[positions].set(logits[drawn])
