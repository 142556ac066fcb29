"""Losses of detectors. Weights, normalisers and global contexts are tested in ``test_detection.py``."""

import numpy as np

from ..cases import KINDS, Case


def draw_boxes(rng, examples):
    """Boxes of positive area, most of which overlap."""
    corners = rng.standard_normal((2, *examples, *KINDS["cells"], 2))
    return np.concatenate([corners, corners + rng.uniform(1, 3, corners.shape)], -1)


def draw_sides(rng, examples):
    """Logits of four sides with three bins."""
    return 3 * rng.standard_normal((2, *examples, *KINDS["cells"], 4, 3))


def draw_scaled(rng, examples):
    """Two maps, and what of each position is an object's, in three sizes."""
    maps = rng.standard_normal((2, *examples, *KINDS["map"]))
    return [*maps, np.array([0, 0, 1, 1 / 4, 1 / 6])[rng.integers(0, 5, (*examples, *KINDS["cells"]))]]


def draw_objects(rng, examples):
    """Boxes in an image of 60 x 80, some without area."""
    corners = rng.uniform(-5, 60, (*examples, 5, 2))
    sides = rng.uniform(1, 40, (*examples, 5, 2)) * (rng.random((*examples, 5, 1)) < 0.7)
    return [np.concatenate([corners, corners + sides], -1)]


FOCAL = {
    "temperature": 0.8,
    "foreground_weight": 0.5,
    "background_weight": 0.3,
    "attention_weight": 0.2,
    "relation_weight": 0.1,
}
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
    Case("decoupled_feature", ("map", "map", "cells"), WEIGHTS, over="positions"),
    Case("decoupled_feature", ("map", "map", "cells"), {**WEIGHTS, "variant": "paper"}, over="positions"),
    Case("focal_global", ("map", "map", "cells"), over="positions", draw=draw_scaled),
    Case("focal_global", ("map", "map", "cells"), FOCAL, over="positions", draw=draw_scaled),
    Case(
        "object_scales",
        ("boxes",),
        {"image_size": (60, 80), "size": (5, 7)},
        "it is no loss",
        over="",
        draw=draw_objects,
    ),
)
