"""Correlations of features: over a batch, over channels, over layers."""

from ..cases import DIM, Case
from .relations import three_for_two

MAPS = ("map", "map")


def with_centers(rng, examples):
    """Student, teacher, labels of which some are missing, and the centres of three classes."""
    labels = rng.integers(-1, 3, examples).astype("int32")
    student, teacher = (rng.standard_normal((*examples, DIM)) for _ in range(2))
    return student, teacher, labels, rng.standard_normal((3, DIM))


def layers(*maps):
    """The maps of student and teacher, half of them each."""
    return list(maps[: len(maps) // 2]), list(maps[len(maps) // 2 :])


CASES = (
    Case(
        "cosine_embedding",
        ("features", "features"),
        skip={"test_where_broadcasts": "flags of fewer axes are refused: test_masks.py"},
    ),
    Case("pearson_feature", MAPS, over="examples"),
    Case("pearson_feature", MAPS, over="positions"),
    *(Case("inter_channel_correlation", MAPS, {"variant": v}, over="positions") for v in ("cifar", "imagenet")),
    *(
        Case(
            "singular_value",
            MAPS + MAPS,
            {"k": k},
            over="positions",
            pack=layers,
            skip={"test_zero_value_and_gradient_at_equality": "two maps equal two others: test_correlations.py"},
        )
        for k in (1, 2)
    ),
    *(
        Case(
            "projected_log_error",
            ("features", "features"),
            {"variant": variant},
            "its logarithm",
            over="examples",
            needs_two=True,
        )
        for variant in ("difference", "correlation")
    ),
    Case(
        "norm_and_direction",
        ("features", "features", "labels", "features"),
        not_zero="the teacher is not at its class's centre",
        over="",
        unmasked=(3,),
        draw=with_centers,
    ),
    *(Case("class_activation", MAPS, {"variant": v}, over="positions") for v in ("normalized", "raw")),
    *(
        Case("cka", kinds, not_zero=not_zero, over="examples", needs_two=True, draw=three_for_two(*kinds))
        for kinds, not_zero in (
            (("features", "embedding"), "the widths differ: the next one"),
            (("features", "features"), ""),
        )
    ),
)
