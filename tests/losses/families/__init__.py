"""The table of the battery, one file a family."""

from . import correlations, detection, divergences, features, logits, maps, refined_logits, relations, transformers

TABLE = (
    *logits.CASES,
    *divergences.CASES,
    *features.CASES,
    *correlations.CASES,
    *maps.CASES,
    *refined_logits.CASES,
    *relations.CASES,
    *transformers.CASES,
    *detection.CASES,
)
