"""Losses that relate the examples of a batch."""

from ..cases import KINDS, Case

TWO = ("features", "features")
RELATION = {"over": "examples", "needs_two": True}
ADJACENT = {"test_examples_have_no_order": "neighbours in the batch are what it relates"}
CRD = {"student_normalizer": 40.0, "teacher_normalizer": 70.0, "population": 50, "temperature": 2.0}
SCALES = {"student_scale": 3.0, "teacher_scale": 5.0}


def three_for_two(*kinds):
    """Draws three examples where two are asked for: of two, the loss has no meaning, and raises."""

    def draw(rng, examples):
        return [rng.standard_normal(((3,) if examples == (2,) else examples) + KINDS[kind]) for kind in kinds]

    return draw


def embeddings_and_negatives(rng, examples):
    """Three negatives for each example, of both sides."""
    return [rng.standard_normal((*examples, *shape)) for shape in ((5,), (5,), (3, 5), (3, 5))]


CASES = (
    Case("relational_distance", TWO, draw=three_for_two(*TWO), **RELATION),
    Case("relational_distance", TWO, {"variant": "all_pairs"}, draw=three_for_two(*TWO), **RELATION),
    Case("relational_angle", TWO, draw=three_for_two(*TWO), **RELATION),
    Case("similarity_preserving", TWO, **RELATION),
    Case("similarity_preserving", TWO, {"variant": "l1_rows"}, **RELATION),
    Case("correlation_congruence", TWO, skip=ADJACENT, **RELATION),
    Case("correlation_congruence", TWO, {"variant": "kernel", "gamma": 0.1, "order": 3}, **RELATION),
    Case("correlation_congruence", TWO, {"variant": "kernel_norm"}, **RELATION),
    Case("probabilistic_transfer", TWO, **RELATION),
    Case(
        "contrastive_representation",
        ("embedding",) * 4,
        CRD,
        "it tells pairs apart",
        over="",
        draw=embeddings_and_negatives,
    ),
    Case("info_nce", TWO, {"temperature": 0.5}, "it tells pairs apart", **RELATION),
    Case("clip_affinity", ("features",) * 4, SCALES, "its student is two arguments", **RELATION),
    Case("clip_affinity", ("features",) * 4, {**SCALES, "variant": "cross_entropy"}, "cross-entropy", **RELATION),
)
