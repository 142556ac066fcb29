"""Small BERTs and words for the golden runs; weights are drawn by name, as those of ``imagenet_cases``."""

import numpy as np

from jaxkd.models import BERT

CLASSES = 5
VOCABULARY = 40
_SIZE = {"width": 24, "layers": 2, "heads": 3, "feed_forward": 32, "vocabulary": VOCABULARY, "positions": 16}
MODULES = {
    "bert": BERT(**_SIZE, classes=CLASSES, dropout=0.0),
    "bert_encoder": BERT(**_SIZE, classes=None, dropout=0.0),
    "distilbert": BERT(**_SIZE, classes=CLASSES, dropout=0.0, form="distilbert"),
    "roberta": BERT(**_SIZE, classes=CLASSES, dropout=0.0, form="roberta"),
}


def words():
    """Two sequences of 9 words, one of them padded after 6: ``(input_ids, attention_mask, token_type_ids)``."""
    mask = np.array([[1] * 9, [1] * 6 + [0] * 3])
    # 1 is RoBERTa's padding, which it tells by the word.
    ids = np.where(mask, np.random.default_rng(0).integers(2, VOCABULARY, (2, 9)), 1)
    types = np.array([[0] * 4 + [1] * 5, [0] * 3 + [1] * 6])
    return ids, mask, types
