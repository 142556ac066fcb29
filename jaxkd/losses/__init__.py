"""Distillation losses: pure functions, arrays in and arrays out.

Conventions:
  * Losses of examples return one value an example, ``[...]``, and reduce nothing else: take the mean yourself
    (``jnp.mean``), over valid examples only, for the masked ones are 0 but count::

        losses = soft_label_kl(student, teacher, where=valid[..., None])  # valid: [...], of examples or tokens
        loss = jnp.sum(losses) / jnp.maximum(jnp.sum(valid), 1)

  * Losses that relate the examples of a batch return a scalar and take ``axis_name``: when set, they gather the other
    devices' features, so that ``pmap`` and ``shard_map`` see the global batch. Their gradient is the global batch's
    under both when written so, a ``pmean`` of it under one of them only::

        params = jax.lax.pcast(params, axis_name, to="varying")  # each device differentiates its share
        share, grads = jax.value_and_grad(lambda p: loss(p) / jax.lax.axis_size(axis_name))(params)
        value, grads = jax.lax.psum((share, grads), axis_name)

    Under ``jit`` there is nothing to do; on a mesh of explicit axes they bring the batch's features to every device.
  * ``where`` says which elements take part; what it masks changes no value and no gradient, be it NaN.
  * Arrays are arrays, as in ``jax.numpy``: a list raises TypeError. Parameters that may be one number an example have
    the shape of the examples, ``[...]``, or none, and are floats: nothing broadcasts.
  * Everything is computed in at least float32, whatever comes in; float64 stays float64.
  * No gradient is stopped: a frozen teacher is the business of who differentiates.
  * The student comes first, the teacher second.
"""

from jaxkd.losses._alpha_beta import alpha_beta_divergence
from jaxkd.losses._attention_maps import attention_map, attention_transfer
from jaxkd.losses._batch_logits import dist, multi_level_kd
from jaxkd.losses._boundaries import activation_boundary, batch_norm_margin, overhaul
from jaxkd.losses._boxes import box_distillation, localization_kl
from jaxkd.losses._channel_maps import class_activation, inter_channel_correlation
from jaxkd.losses._contrastive import clip_affinity, contrastive_representation, info_nce
from jaxkd.losses._correlations import cka, pearson_feature, projected_log_error
from jaxkd.losses._decoupled import decoupled_kd, normalized_kd
from jaxkd.losses._dense import class_response, decoupled_feature, fine_grained_imitation
from jaxkd.losses._divergences import generalized_jsd, reverse_kl, skew_kl, skew_reverse_kl, total_variation
from jaxkd.losses._embeddings import cosine_embedding, norm_and_direction
from jaxkd.losses._factors import factor_transfer, variational_information
from jaxkd.losses._features import hint
from jaxkd.losses._flow import fsp
from jaxkd.losses._focal import focal_global, object_scales
from jaxkd.losses._logits import cross_entropy, distillation_loss, soft_label_kl, softmax_with_temperature
from jaxkd.losses._pyramid import hierarchical_context
from jaxkd.losses._rankers import listwise_kl, logit_mse, margin_mse
from jaxkd.losses._refined import one_for_all, teacher_free, weighted_soft_label
from jaxkd.losses._regions import region_means, scale_decoupled_kd
from jaxkd.losses._relational import relational_angle, relational_distance
from jaxkd.losses._selectivity import channel_wise, neuron_selectivity
from jaxkd.losses._similarity import correlation_congruence, probabilistic_transfer, similarity_preserving
from jaxkd.losses._singular_value import singular_value
from jaxkd.losses._sorted import adaptive_kl, universal_logit
from jaxkd.losses._targets import (
    binary_soft_label,
    centered_self_distillation,
    hard_teacher_label,
    interpolated_teacher,
    soft_cross_entropy,
)
from jaxkd.losses._transformed import standardize_logits, transformed_teacher_matching
from jaxkd.losses._transformers import attention_mse, attention_relation, patient_hidden

__all__ = [
    "activation_boundary",
    "adaptive_kl",
    "alpha_beta_divergence",
    "attention_map",
    "attention_mse",
    "attention_relation",
    "attention_transfer",
    "batch_norm_margin",
    "binary_soft_label",
    "box_distillation",
    "centered_self_distillation",
    "channel_wise",
    "cka",
    "class_activation",
    "class_response",
    "clip_affinity",
    "contrastive_representation",
    "correlation_congruence",
    "cosine_embedding",
    "cross_entropy",
    "decoupled_feature",
    "decoupled_kd",
    "dist",
    "distillation_loss",
    "factor_transfer",
    "fine_grained_imitation",
    "focal_global",
    "fsp",
    "generalized_jsd",
    "hard_teacher_label",
    "hierarchical_context",
    "hint",
    "info_nce",
    "inter_channel_correlation",
    "interpolated_teacher",
    "listwise_kl",
    "localization_kl",
    "logit_mse",
    "margin_mse",
    "multi_level_kd",
    "neuron_selectivity",
    "norm_and_direction",
    "normalized_kd",
    "object_scales",
    "one_for_all",
    "overhaul",
    "patient_hidden",
    "pearson_feature",
    "probabilistic_transfer",
    "projected_log_error",
    "region_means",
    "relational_angle",
    "relational_distance",
    "reverse_kl",
    "scale_decoupled_kd",
    "similarity_preserving",
    "singular_value",
    "skew_kl",
    "skew_reverse_kl",
    "soft_cross_entropy",
    "soft_label_kl",
    "softmax_with_temperature",
    "standardize_logits",
    "teacher_free",
    "total_variation",
    "transformed_teacher_matching",
    "universal_logit",
    "variational_information",
    "weighted_soft_label",
]
