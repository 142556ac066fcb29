"""A small GPT-2, small T5s and words for the golden runs; weights are drawn by name, as those of ``imagenet_cases``."""

import numpy as np

from jaxkd.models import GPT2, T5

from .imagenet_cases import tensor

VOCABULARY = 40
_T5 = {"width": 24, "layers": 2, "heads": 3, "feed_forward": 32, "head_width": 6, "vocabulary": VOCABULARY}
MODULES = {
    "gpt2": GPT2(24, 2, 3, VOCABULARY, 16, dropout=0.0),
    "t5": T5(**_T5, dropout=0.0),
    "t5_v1_1": T5(**_T5, dropout=0.0, form="t5_v1_1"),
}


def tensors(name, shapes, seed=0):
    """Draws the tensors of these shapes; those that are tied are one by several names."""
    drawn = {key: tensor(key, shape, seed) for key, shape in shapes.items()}
    for key in drawn:
        if key.endswith("embed_tokens.weight") or (key == "lm_head.weight" and name != "t5_v1_1"):
            drawn[key] = drawn["transformer.wte.weight" if name == "gpt2" else "shared.weight"]
    return drawn


def words():
    """Two sequences of 9 words, one of them padded after 6."""
    mask = np.array([[1] * 9, [1] * 6 + [0] * 3])
    ids = np.where(mask, np.random.default_rng(0).integers(1, VOCABULARY, (2, 9)), 0)
    return {"input_ids": ids, "attention_mask": mask}


def pairs_of_texts():
    """Two texts of 40 words, one padded after 30, so that distances are of many buckets, and two of 7 to decode."""
    rng = np.random.default_rng(1)
    batch = {}
    for side, length, end in (("", 40, 30), ("decoder_", 7, 5)):
        mask = np.array([[1] * length, [1] * end + [0] * (length - end)])
        batch |= {f"{side}attention_mask": mask, f"{side}input_ids": mask * rng.integers(1, VOCABULARY, mask.shape)}
    return batch
