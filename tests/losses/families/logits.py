"""Losses on logits."""

from ..cases import Case

CASES = (
    Case("cross_entropy", ("logits", "labels"), not_zero="it has no teacher"),
    Case("distillation_loss", ("logits", "logits", "labels"), {"temperature": 3.0, "alpha": 0.3}, "its hard part"),
    Case("soft_label_kl", ("logits", "logits"), {"temperature": 4.0}),
    Case("softmax_with_temperature", ("logits",), {"temperature": 2.0}, "it is no loss", keeps_axis=True),
)
