"""The losses as one would write them in place: the rivals of ``losses.py``."""

from . import features, logits
from ._line import Line

LINES: tuple[Line, ...] = (*logits.LINES, *features.LINES)
