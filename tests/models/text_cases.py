"""Small GPT-2s and words for the golden runs; weights are drawn by name, as those of ``imagenet_cases``."""

import numpy as np

from jaxkd.models import GPT2

VOCABULARY = 40
MODULES = {"gpt2": GPT2(24, 2, 3, VOCABULARY, 16, dropout=0.0)}


def words():
    """Two sequences of 9 words, one of them padded after 6."""
    mask = np.array([[1] * 9, [1] * 6 + [0] * 3])
    ids = np.where(mask, np.random.default_rng(0).integers(1, VOCABULARY, (2, 9)), 0)
    return {"input_ids": ids, "attention_mask": mask}
