"""Losses on maps."""

import numpy as np

from ..cases import Case

PAIR = ("map", "map")


def with_channels(rng, examples):
    """Two maps, and a number at most 0 for each channel."""
    maps = [rng.standard_normal((*examples, 2, 3, 4)) for _ in range(2)]
    return *maps, -np.abs(rng.standard_normal(4))


def large_enough(rng, examples):
    """Maps that have more than one level."""
    return [rng.standard_normal((*examples, 5, 6, 2)) for _ in range(2)]


CASES = (
    *(
        Case(
            "attention_map",
            ("map",),
            {"variant": variant},
            "it is no loss",
            over="positions",
            keeps_axis=True,
            skip={"test_axis_is_moveaxis": "it keeps the positions' axes, not the channels': test_maps.py"},
        )
        for variant in ("code", "paper", "sum")
    ),
    *(Case("attention_transfer", PAIR, {"variant": v}, over="positions") for v in ("code", "paper", "sum")),
    Case("neuron_selectivity", PAIR, over="positions"),
    Case("channel_wise", PAIR, {"temperature": 2.0}, over="positions"),
    *(
        Case(
            "fsp",
            PAIR + PAIR,
            {"variant": variant},
            over="positions",
            skip={"test_zero_value_and_gradient_at_equality": "two maps equal two others: test_maps.py"},
        )
        for variant in ("code", "paper")
    ),
    *(Case("factor_transfer", PAIR, {"variant": v}, over="positions") for v in ("code", "repdistiller")),
    Case("activation_boundary", PAIR, {"margin": 0.7}, "its margin", over="positions"),
    Case("overhaul", (*PAIR, "features"), over="positions", unmasked=(2,), draw=with_channels),
    Case("batch_norm_margin", ("features", "features"), not_zero="it is no loss"),
    Case(
        "variational_information",
        (*PAIR, "features"),
        not_zero="its logarithm of the variance",
        over="positions",
        unmasked=(2,),
        draw=with_channels,
    ),
    Case("hierarchical_context", PAIR, over="", draw=large_enough),
)
