"""Losses on features."""

from ..cases import Case

CASES = (
    Case(
        "hint",
        ("features", "features"),
        skip={"test_where_broadcasts": "flags of fewer axes are refused: test_masks.py"},
    ),
)
