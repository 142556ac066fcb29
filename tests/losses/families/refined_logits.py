"""Losses on logits that refine the distillation loss."""

import numpy as np

from ..cases import DIM, Case

PAIR, LABELLED = ("logits", "logits"), ("logits", "logits", "labels")
SOFT_CE = "it is a soft cross-entropy, without the teacher's entropy"
CONSTANT = {
    "test_gradient_agrees_with_differences_of_the_oracle": "its weight is a constant: test_refined_logits.py holds it"
}


def regions(rng, examples):
    """Logits of five regions, of student and teacher, and labels that some examples lack."""
    labels = np.where(rng.random(examples) < 0.3, -1, rng.integers(0, DIM, examples)).astype(np.int32)
    return [*(3 * rng.standard_normal((2, *examples, 5, DIM))), labels]


CASES = (
    Case("decoupled_kd", LABELLED),
    Case("decoupled_kd", LABELLED, {"temperature": 2.0, "alpha": 0.5, "beta": 2.0}),
    Case("standardize_logits", ("logits",), {}, "it is no loss", keeps_axis=True),
    Case("dist", PAIR, {}, "1e-8 beside the norms", over="examples", needs_two=True),
    Case(
        "dist",
        PAIR,
        {"temperature": 4.0, "beta": 2.0, "gamma": 0.5},
        "1e-8 beside the norms",
        over="examples",
        needs_two=True,
    ),
    Case("multi_level_kd", PAIR, over="examples"),
    Case("multi_level_kd", PAIR, {"temperatures": (1.0, 3.0), "variant": "code"}, over="examples"),
    Case("normalized_kd", LABELLED, {}, SOFT_CE),
    Case("normalized_kd", LABELLED, {"temperature": 3.0, "gamma": 0.5}, SOFT_CE),
    Case("weighted_soft_label", LABELLED, {}, SOFT_CE, skip=CONSTANT),
    Case("transformed_teacher_matching", PAIR, {}, "the teacher alone is softened"),
    Case("transformed_teacher_matching", PAIR, {"exponent": 0.3, "variant": "wttm"}, "the teacher alone is softened"),
    Case("transformed_teacher_matching", PAIR, {"exponent": 1.0, "variant": "wttm"}),
    Case("teacher_free", ("logits", "labels"), {}, "its teacher is a virtual one"),
    Case("teacher_free", ("logits", "labels"), {"temperature": 2.0, "variant": "code"}, "its teacher is a virtual one"),
    Case("one_for_all", LABELLED, {}, SOFT_CE),
    Case("one_for_all", LABELLED, {"exponent": 1.5, "temperature": 2.0}, SOFT_CE),
    Case("scale_decoupled_kd", LABELLED, over="", draw=regions),
    Case("scale_decoupled_kd", LABELLED, {"temperature": 1.0, "beta": 0.5}, over="", draw=regions),
    Case("region_means", ("map",), {"grids": (1, 2)}, "it is no loss", over=""),
)
