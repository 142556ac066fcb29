"""Classifiers on the student's stages that learn from the teacher's logits, whatever kind of network the teacher is."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.networks import Variables
from jaxkd.objectives._blocks import linear, norm
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._of_losses import check_labels, labels_of
from jaxkd.objectives._parts import convolve, draw_conv, normalize, pooled


def one_for_all_of_stages(stages: Sequence[str], features: str, *, exponent: Number, temperature: Number) -> Objective:
    """The sum over stages of ``losses.one_for_all`` of a trained classifier's logits, the mean over labelled examples.

    A classifier is a 1x1 convolution without bias to as many channels as the teacher's ``features`` have, BatchNorm
    (statistics of the global batch), ReLU, the average over positions and a linear map. (The published code has
    separable convolutions that halve the map for each stage that follows, in place of the first.) They are trained with
    the student and not deployed.

    Args:
      stages: taps of the student, [batch, ..., channels].
      features: a tap of the teacher, [batch, ..., features], for their number.
      exponent: of ``losses.one_for_all``.
      temperature: likewise.
    """

    def init(key: jax.Array, signals: Signals) -> Variables:
        check_labels(signals)
        width, classes = signals.teacher.taps[features].shape[-1], signals.teacher.logits.shape[-1]
        params = {}
        for i, stage in enumerate(stages):
            first, second = jax.random.split(jax.random.fold_in(key, i))
            params[f"stage_{i}"] = {
                "conv": draw_conv(first, 1, signals.student.taps[stage].shape[-1], width),
                "norm": norm(width),
                "classifier": linear(second, width, classes),
            }
        return {"params": params}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        batch, label = signals.batch, labels_of(signals)
        of_teacher = without_padding(signals.teacher.logits, batch)
        power, divisor = value_at(exponent, signals.step), value_at(temperature, signals.step)
        values = jnp.zeros(())
        for i, stage in enumerate(stages):
            params = variables["params"][f"stage_{i}"]
            x = convolve(params["conv"], without_padding(signals.student.taps[stage], batch))
            x = pooled(jax.nn.relu(normalize(params["norm"], x, signals)))
            logits = without_padding(convolve(params["classifier"], x), batch)
            values += losses.one_for_all(logits, of_teacher, label, power, temperature=divisor)
        return {"one_for_all": mean_over_examples(values, batch, label >= 0)}, {}, {}

    return Objective(Taps(tuple(stages), (features,)), init, apply)
