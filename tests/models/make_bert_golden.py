"""Makes ``golden/*bert*.npz`` with the original implementations: ``python -m tests.models.make_bert_golden``.

Needs ``torch`` and ``transformers``, imported where they are used: the suite collects this file, and has neither. Each
file has the names and shapes of the original's tensors, its output, and what it gives after each block.
"""

import json
from pathlib import Path

import numpy as np

from . import bert_cases as cases
from .imagenet_cases import tensor

GOLDEN = Path(__file__).parent / "golden"

BERT = {
    "vocab_size": cases.VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
DISTILBERT = {"vocab_size": 40, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 32, "max_position_embeddings": 16}


def originals():
    import transformers

    bert = transformers.BertConfig(**BERT, num_labels=cases.CLASSES)
    return {
        "bert": transformers.BertForSequenceClassification(bert),
        "bert_encoder": transformers.BertModel(bert),
        "distilbert": transformers.DistilBertForSequenceClassification(
            transformers.DistilBertConfig(**DISTILBERT, num_labels=cases.CLASSES)
        ),
        "roberta": transformers.RobertaForSequenceClassification(
            transformers.RobertaConfig(**{**BERT, "max_position_embeddings": 18}, type_vocab_size=1, num_labels=5)
        ),
    }


def run(name, model, seed=0):
    """Gives all that a golden file holds, of weights that are drawn with this seed."""
    import torch

    shapes = {key: list(t.shape) for key, t in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(tensor(key, shape, seed)) for key, shape in shapes.items()})
    ids, mask, types = map(torch.from_numpy, cases.words())
    options = {} if name in ("distilbert", "roberta") else {"token_type_ids": types}
    with torch.no_grad():
        outputs = model.eval()(ids, attention_mask=mask, output_hidden_states=True, **options)
    result = outputs.last_hidden_state if name == "bert_encoder" else outputs.logits
    hidden = np.stack([state.numpy() for state in outputs.hidden_states])
    return {"shapes": np.array(json.dumps(shapes)), "output": result.numpy(), "hidden_states": hidden}


if __name__ == "__main__":
    for name, model in originals().items():
        np.savez_compressed(GOLDEN / f"{name}.npz", **run(name, model))
        print(name, (GOLDEN / f"{name}.npz").stat().st_size, "bytes")
