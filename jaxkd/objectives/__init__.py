"""Objectives: losses with the features, weights and trainable parts around them.

An objective is built like an optax transformation, and objectives combine::

    weighted_sum(
        hard=(0.1, hard_label()),
        soft=(0.9, soft_label(temperature=4.0)),
        hint=(100.0, hint(student="stage2", teacher="stage2")),
    )
"""

from jaxkd.objectives._combine import weighted_sum
from jaxkd.objectives._common import Number, Schedule, mean_over_examples, without_padding
from jaxkd.objectives._connectors import Connector, make_connector
from jaxkd.objectives._hint import hint
from jaxkd.objectives._logits import distillation, hard_label, soft_label
from jaxkd.objectives._objective import Objective, Signals, Taps, Term

__all__ = [
    "Connector",
    "Number",
    "Objective",
    "Schedule",
    "Signals",
    "Taps",
    "Term",
    "distillation",
    "hard_label",
    "hint",
    "make_connector",
    "mean_over_examples",
    "soft_label",
    "weighted_sum",
    "without_padding",
]
