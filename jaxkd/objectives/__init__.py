"""Objectives: losses with the features, weights and trainable parts around them.

An objective is built like an optax transformation, and objectives combine::

    weighted_sum(
        hard=(0.1, hard_label()),
        soft=(0.9, soft_label(temperature=4.0)),
        hint=(100.0, hint(student="stage2", teacher="stage2")),
    )
"""

from jaxkd.objectives._auxiliary import auxiliary_labels
from jaxkd.objectives._born_again import confidence_weighted_label, permuted_soft_label
from jaxkd.objectives._calibration import semantic_calibration
from jaxkd.objectives._collaborative import collaborative_target
from jaxkd.objectives._combine import weighted_sum
from jaxkd.objectives._common import (
    Number,
    Schedule,
    mean_over_examples,
    one_minus,
    value_at,
    without_padding,
)
from jaxkd.objectives._congruence import correlation_congruence
from jaxkd.objectives._connectors import Connector, make_connector
from jaxkd.objectives._contrastive import crd
from jaxkd.objectives._curriculum import curriculum_temperature
from jaxkd.objectives._factor import factor_transfer, paraphraser
from jaxkd.objectives._focal_global import focal_global
from jaxkd.objectives._generative import masked_generative
from jaxkd.objectives._hint import hint
from jaxkd.objectives._logits import distillation, hard_label, peer_labels, soft_label
from jaxkd.objectives._native_ensemble import native_ensemble
from jaxkd.objectives._norm_and_direction import Split, class_centers, norm_and_direction
from jaxkd.objectives._objective import Deployment, Objective, Signals, Taps, Term
from jaxkd.objectives._of_losses import on_batch, on_class_maps, on_features, on_logits
from jaxkd.objectives._one_for_all import one_for_all_of_stages
from jaxkd.objectives._overhaul import overhaul
from jaxkd.objectives._own_teacher import be_your_own_teacher
from jaxkd.objectives._projection import orthogonal_projection
from jaxkd.objectives._review import review
from jaxkd.objectives._self import class_wise_self, progressive_self
from jaxkd.objectives._sim_kd import sim_kd
from jaxkd.objectives._srrl import srrl
from jaxkd.objectives._teachers import soft_labels
from jaxkd.objectives._vid import vid

__all__ = [
    "Connector",
    "Deployment",
    "Number",
    "Objective",
    "Schedule",
    "Signals",
    "Split",
    "Taps",
    "Term",
    "auxiliary_labels",
    "be_your_own_teacher",
    "class_centers",
    "class_wise_self",
    "collaborative_target",
    "confidence_weighted_label",
    "correlation_congruence",
    "crd",
    "curriculum_temperature",
    "distillation",
    "factor_transfer",
    "focal_global",
    "hard_label",
    "hint",
    "make_connector",
    "masked_generative",
    "mean_over_examples",
    "native_ensemble",
    "norm_and_direction",
    "on_batch",
    "on_class_maps",
    "on_features",
    "on_logits",
    "one_for_all_of_stages",
    "one_minus",
    "orthogonal_projection",
    "overhaul",
    "paraphraser",
    "peer_labels",
    "permuted_soft_label",
    "progressive_self",
    "review",
    "semantic_calibration",
    "sim_kd",
    "soft_label",
    "soft_labels",
    "srrl",
    "value_at",
    "vid",
    "weighted_sum",
    "without_padding",
]
