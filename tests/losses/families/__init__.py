"""The table of the battery, one file a family."""

from . import features, logits

TABLE = (*logits.CASES, *features.CASES)
