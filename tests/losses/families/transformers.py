"""Losses on transformers."""

import numpy as np

from ..cases import Case


def draw_scores(rng, examples):
    """Scores of 2 heads and 4 tokens, of which some entries carry an additive mask."""
    drawn = rng.standard_normal((2, *examples, 2, 4, 4))
    return drawn + np.where(rng.random((*examples, 1, 1, 4)) < 0.3, -1e3, 0)


CASES = (
    Case(
        "attention_relation",
        ("tokens", "tokens"),
        {"relation_heads": 2},
        over="tokens",
        pack=lambda student, teacher: ((student, student), (teacher, teacher)),
    ),
    Case(
        "attention_relation",
        ("tokens", "tokens", "tokens", "tokens"),
        {"relation_heads": 4},
        "student and teacher are equal in their queries alone",
        over="tokens",
        pack=lambda q, teacher_q, k, teacher_k: ((q, k), (teacher_q, teacher_k)),
    ),
    Case("attention_mse", ("scores", "scores"), over="", draw=draw_scores),
    Case("attention_mse", ("scores", "scores"), {"variant": "paper"}, over="", draw=draw_scores),
    Case("patient_hidden", ("map", "map"), over="positions"),
    Case("patient_hidden", ("map", "map"), {"variant": "paper"}, over="positions"),
)
