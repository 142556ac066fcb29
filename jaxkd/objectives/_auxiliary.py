"""Auxiliary classifiers: trained heads on inner features, each of which learns from the labels."""

from collections.abc import Sequence

import jax

from jaxkd._checks import shape_of
from jaxkd.networks import Outputs, Variables
from jaxkd.objectives._blocks import linear
from jaxkd.objectives._common import without_padding
from jaxkd.objectives._logits import hard_label
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import convolve, pooled, tap_names


def auxiliary_labels(taps: str | Sequence[str] = "penultimate") -> Objective:
    """The sum over taps of the cross-entropy of a classifier on each: labels as in ``hard_label``.

    A classifier is a linear map of the feature averaged over its positions: [batch, features] as it is, [batch, height,
    width, channels] and [batch, time, features] by their means. The classifiers are trained with the student by the
    same optimizer, and are not deployed; their gradient flows on into the student.

    The terms are named by their taps.

    Args:
      taps: of the student, one or several.

    Raises:
      ValueError: if there is no tap, or one twice; in ``init``, for a feature without an axis of channels, and for what
        ``hard_label`` raises.

    References:
      Szegedy et al., "Going Deeper with Convolutions", 2014, https://arxiv.org/abs/1409.4842; Lee et al.,
      "Deeply-Supervised Nets", 2014, https://arxiv.org/abs/1409.5185
    """
    taps = tap_names("taps", taps)
    of_labels = hard_label()

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_labels.init(key, signals)
        classes = signals.student.logits.shape[-1]
        heads = {}
        for i, tap in enumerate(taps):
            feature = signals.student.taps[tap]
            if feature.ndim < 2:
                raise ValueError(
                    f'student tap "{tap}" is {shape_of(feature)}: a classifier needs [batch, ..., features]'
                )
            heads[f"classifier_{i}"] = linear(jax.random.fold_in(key, i), feature.shape[-1], classes)
        return {"params": heads}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        terms: dict[str, Term] = {}
        for i, tap in enumerate(taps):
            feature = pooled(without_padding(signals.student.taps[tap], signals.batch))
            logits = convolve(variables["params"][f"classifier_{i}"], feature)
            of_head, _, _ = of_labels.apply({}, signals._replace(student=Outputs(logits)))
            terms[tap] = of_head["hard_label"]
        return terms, {}, {}

    return Objective(Taps(taps), init, apply)
