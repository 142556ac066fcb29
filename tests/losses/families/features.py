"""Losses on features."""

from ..cases import Case

CASES = (Case("hint", ("features", "features")),)
