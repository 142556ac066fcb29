"""Distillation losses: pure functions, arrays in and arrays out.

Conventions:
  * Losses of examples return one value an example, ``[...]``, and reduce nothing else: take the mean yourself
    (``jnp.mean``), over valid examples only. Losses that relate the examples of a batch return a scalar and take
    ``axis_name``: when set, they gather the other devices' features, so that ``pmap`` and ``shard_map`` see the global
    batch.
  * ``where`` says which elements take part; what it masks changes no value and no gradient, be it NaN.
  * Everything is computed in at least float32, whatever comes in; float64 stays float64.
  * No gradient is stopped: a frozen teacher is the business of who differentiates.
  * The student comes first, the teacher second.
"""

from jaxkd.losses._features import hint
from jaxkd.losses._logits import cross_entropy, distillation_loss, soft_label_kl, softmax_with_temperature

__all__ = ["cross_entropy", "distillation_loss", "hint", "soft_label_kl", "softmax_with_temperature"]
