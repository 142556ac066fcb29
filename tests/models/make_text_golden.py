"""Makes ``golden/gpt2.npz`` with the original implementation: ``python -m tests.models.make_text_golden``.

Needs ``torch`` and ``transformers``, imported where they are used: the suite collects this file, and has neither. A
file has the names and shapes of the original's tensors, its output, and what it gives after each block.
"""

import json
from pathlib import Path

import numpy as np

from . import text_cases as cases
from .imagenet_cases import tensor

GOLDEN = Path(__file__).parent / "golden"


def originals():
    import transformers

    gpt2 = transformers.GPT2Config(vocab_size=cases.VOCABULARY, n_positions=16, n_embd=24, n_layer=2, n_head=3)
    return {"gpt2": transformers.GPT2LMHeadModel(gpt2)}


def run(model):
    """Gives all that a golden file holds."""
    import torch

    weights = {key: tensor(key, list(t.shape)) for key, t in model.state_dict().items()}
    # Tied weights are one tensor by two names.
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    inputs = {name: torch.from_numpy(value) for name, value in cases.words().items()}
    with torch.no_grad():
        outputs = model.eval()(**inputs, output_hidden_states=True)
    shapes = json.dumps({key: list(value.shape) for key, value in weights.items()})
    hidden = np.stack([state.numpy() for state in outputs.hidden_states])
    return {"shapes": np.array(shapes), "output": outputs.logits.numpy(), "hidden_states": hidden}


if __name__ == "__main__":
    for name, model in originals().items():
        np.savez_compressed(GOLDEN / f"{name}.npz", **run(model))
        print(name, (GOLDEN / f"{name}.npz").stat().st_size, "bytes")
