"""Losses of detectors. Weights and normalisers are tested in ``test_detection.py``."""

import numpy as np

from ..cases import KINDS, Case


def draw_boxes(rng, examples):
    """Boxes of positive area, most of which overlap."""
    corners = rng.standard_normal((2, *examples, *KINDS["cells"], 2))
    return np.concatenate([corners, corners + rng.uniform(1, 3, corners.shape)], -1)


def draw_sides(rng, examples):
    """Logits of two sides with four bins."""
    return 3 * rng.standard_normal((2, *examples, *KINDS["cells"], 2, 4))


WEIGHTS = {"foreground_weight": 3.0, "background_weight": 12.0}

CASES = (
    Case("class_response", ("map", "map"), over="positions"),
    Case("class_response", ("map", "map"), {"beta": 2.0}, over="positions"),
    Case("localization_kl", ("sides", "sides"), over="positions", draw=draw_sides),
    Case(
        "localization_kl",
        ("sides", "sides"),
        {"temperature": 3.0, "variant": "code"},
        over="positions",
        draw=draw_sides,
    ),
    *(
        Case("box_distillation", ("boxes", "boxes"), {"variant": variant}, over="positions", draw=draw_boxes)
        for variant in ("giou", "iou", "l1", "smooth_l1")
    ),
    Case("fine_grained_imitation", ("map", "map", "cells"), over="positions"),
    Case("fine_grained_imitation", ("map", "map", "cells"), {"variant": "code"}, over="positions"),
    Case("decoupled_feature", ("map", "map", "cells"), WEIGHTS, over="positions"),
    Case("decoupled_feature", ("map", "map", "cells"), {**WEIGHTS, "variant": "code"}, over="positions"),
)
