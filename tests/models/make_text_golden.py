"""Makes ``golden/gpt2.npz`` and ``t5*.npz`` with the originals: ``python -m tests.models.make_text_golden``.

Needs ``torch`` and ``transformers``, imported where they are used: the suite collects this file, and has neither. A
file has the names and shapes of the original's tensors, its output, and what it gives after each block.
"""

import json
from pathlib import Path

import numpy as np

from . import text_cases as cases

GOLDEN = Path(__file__).parent / "golden"


def originals():
    import torch
    import transformers

    gpt2 = transformers.GPT2Config(vocab_size=cases.VOCABULARY, n_positions=16, n_embd=24, n_layer=2, n_head=3)
    models = {"gpt2": transformers.GPT2LMHeadModel(gpt2)}
    size = {"vocab_size": cases.VOCABULARY, "d_model": 24, "num_layers": 2, "num_heads": 3, "d_ff": 32, "d_kv": 6}
    for name, activation in (("t5", "relu"), ("t5_v1_1", "gated-gelu")):
        config = transformers.T5Config(**size, feed_forward_proj=activation, tie_word_embeddings=name == "t5")
        models[name] = transformers.T5ForConditionalGeneration(config)
    # What the library does where a file has a head of its own.
    models["t5_v1_1"].lm_head.weight = torch.nn.Parameter(torch.empty(cases.VOCABULARY, 24))
    return models


def run(name, model, seed=0):
    """Gives all that a golden file holds, of weights that are drawn with this seed."""
    import torch

    shapes = {key: list(t.shape) for key, t in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(value) for key, value in cases.tensors(name, shapes, seed).items()})
    batch = cases.words() if name == "gpt2" else cases.pairs_of_texts()
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    with torch.no_grad():
        outputs = model.eval()(**inputs, output_hidden_states=True)
    found = {"shapes": np.array(json.dumps(shapes)), "output": outputs.logits.numpy()}
    sides = {"hidden_states"} if name == "gpt2" else {"encoder_hidden_states", "decoder_hidden_states"}
    return found | {side: np.stack([state.numpy() for state in outputs[side]]) for side in sides}


def buckets():
    """The original's buckets of 301 distances, of keys before a query, and of those after it where they are seen."""
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(301)
    bucket = T5Attention._relative_position_bucket
    return {
        "before": bucket(-distances, bidirectional=False).numpy(),
        "both_before": bucket(-distances).numpy(),
        "both_after": bucket(distances).numpy(),
    }


if __name__ == "__main__":
    for name, model in originals().items():
        np.savez_compressed(GOLDEN / f"{name}.npz", **run(name, model))
        print(name, (GOLDEN / f"{name}.npz").stat().st_size, "bytes")
    np.savez_compressed(GOLDEN / "t5_buckets.npz", **buckets())
