"""The losses as one would write them in place: the rivals of ``losses.py``."""

from . import correlations, detection, divergences, features, logits, maps, refined_logits, relations, transformers
from ._line import Line

LINES: tuple[Line, ...] = (
    *logits.LINES,
    *divergences.LINES,
    *features.LINES,
    *maps.LINES,
    *refined_logits.LINES,
    *transformers.LINES,
    *correlations.LINES,
    *relations.LINES,
    *detection.LINES,
)
