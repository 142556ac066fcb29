"""Divergences of two softmaxes, targets made of the teacher's logits, losses of rankers."""

from ..cases import Case

PAIR = ("logits", "logits")
ENTROPY = "the teacher's entropy is left in"
DETACHED = {"test_gradient_agrees_with_differences_of_the_oracle": "a factor is detached; test_divergences has its own"}

CASES = (
    Case("soft_cross_entropy", PAIR, {"temperature": 2.0}, ENTROPY),
    Case("reverse_kl", PAIR),
    Case("reverse_kl", PAIR, {"temperature": 3.0}),
    Case("generalized_jsd", PAIR),
    Case("generalized_jsd", PAIR, {"beta": 0.3, "temperature": 2.0}),
    Case("generalized_jsd", PAIR, {"beta": 0.3, "scaled": True}),
    Case("generalized_jsd", PAIR, {"beta": 0.0}),
    Case("generalized_jsd", PAIR, {"beta": 1.0, "scaled": True}),
    Case("skew_kl", PAIR, {"alpha": 0.1}),
    Case("skew_kl", PAIR, {"alpha": 0.3, "variant": "code"}, ENTROPY),
    Case("skew_reverse_kl", PAIR, {"alpha": 0.1}),
    Case("skew_reverse_kl", PAIR, {"variant": "detached"}, skip=DETACHED),
    Case("total_variation", PAIR),
    Case("alpha_beta_divergence", PAIR),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.2, "beta": 0.7, "temperature": 2.0}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.03, "beta": 0.9}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 1.2, "beta": -0.3}),
    Case("alpha_beta_divergence", PAIR, {"alpha": -0.2, "beta": 0.9}),
    Case("alpha_beta_divergence", PAIR, {"alpha": -0.4, "beta": 0.1}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.5, "beta": 0.0}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.0, "beta": 0.7}),
    Case("alpha_beta_divergence", PAIR, {"alpha": -0.3, "beta": 0.0}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.4, "beta": -0.4}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.0, "beta": 0.0}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.5, "beta": 0.0, "variant": "code"}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.0, "beta": 0.7, "variant": "code"}),
    Case("alpha_beta_divergence", PAIR, {"alpha": 0.4, "beta": -0.4, "variant": "code"}),
    Case("adaptive_kl", PAIR, skip=DETACHED),
    Case("adaptive_kl", PAIR, {"mu": 0.9}, skip=DETACHED),
    Case("interpolated_teacher", PAIR, {"u": 0.4}, ENTROPY, skip=DETACHED),
    Case("interpolated_teacher", PAIR, {"u": 0.4, "variant": "kl"}, skip=DETACHED),
    Case("binary_soft_label", PAIR),
    Case("logit_mse", PAIR),
    Case("margin_mse", PAIR),
    Case("listwise_kl", PAIR, {"temperature": 2.0}),
    Case("hard_teacher_label", PAIR, {}, "it is a cross-entropy with a label"),
    # Its two masks are of two vocabularies: in test_divergences.
    Case("universal_logit", PAIR, over=""),
    Case(
        "universal_logit", PAIR, {"student_temperature": 2.0, "teacher_temperature": 3.0}, "it has two temperatures", ""
    ),
    Case(
        "centered_self_distillation",
        ("logits", "logits", "logits"),
        {"student_temperature": 1.0, "teacher_temperature": 0.4},
        ENTROPY,
    ),
)
