"""What Hugging Face calls the layers of models of text."""

from collections.abc import Sequence
from typing import Any

from jaxkd.models.pretrained._names_cifar import number

# By ours: BERT's, DistilBERT's.
_ENDS = {
    "classifier": ("classifier", "classifier"),
    "pooler": ("pooler.dense", "pre_classifier"),
    "embedding/norm": ("embeddings.LayerNorm", "embeddings.LayerNorm"),
    "embedding/word": ("embeddings.word_embeddings", "embeddings.word_embeddings"),
    "embedding/position": ("embeddings.position_embeddings", "embeddings.position_embeddings"),
    "embedding/type": ("embeddings.token_type_embeddings", "none"),
}
_BLOCK = {
    "attention/query": ("attention.self.query", "attention.q_lin"),
    "attention/key": ("attention.self.key", "attention.k_lin"),
    "attention/value": ("attention.self.value", "attention.v_lin"),
    "attention/out": ("attention.output.dense", "attention.out_lin"),
    "attention_norm": ("attention.output.LayerNorm", "sa_layer_norm"),
    "feed_forward/in": ("intermediate.dense", "ffn.lin1"),
    "feed_forward/out": ("output.dense", "ffn.lin2"),
    "feed_forward_norm": ("output.LayerNorm", "output_layer_norm"),
}


def bert(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of BERT or DistilBERT."""
    whose = int(module.distil)
    if "/".join(layers) in _ENDS:
        return _ENDS["/".join(layers)][whose]
    names = _BLOCK.get("/".join(layers[1:]))
    place = ("encoder.layer", "transformer.layer")[whose]
    return None if names is None else f"{place}.{number(layers[0]) - 1}.{names[whose]}"
