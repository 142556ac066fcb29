"""What Hugging Face calls the layers of models of text."""

from collections.abc import Sequence
from typing import Any

from jaxkd.models.pretrained._names_cifar import number

_ENDS = {
    "embedding/norm": "embeddings.LayerNorm",
    "embedding/word": "embeddings.word_embeddings",
    "embedding/position": "embeddings.position_embeddings",
    "embedding/type": "embeddings.token_type_embeddings",
}
# By our name: that of BERT and RoBERTa, and DistilBERT's.
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
# GPT-2's query, key and value are thirds of one matrix.
_GPT2_ENDS = {"embedding/word": "wte", "embedding/position": "wpe", "norm": "ln_f"}
_GPT2_BLOCK = {
    "attention/query": "attn.c_attn",
    "attention/key": "attn.c_attn",
    "attention/value": "attn.c_attn",
    "attention/out": "attn.c_proj",
    "attention_norm": "ln_1",
    "feed_forward/in": "mlp.c_fc",
    "feed_forward/out": "mlp.c_proj",
    "feed_forward_norm": "ln_2",
}


def bert(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of BERT, DistilBERT or RoBERTa."""
    distil, roberta = module.form == "distilbert", module.form == "roberta"
    match layers:
        case ["classifier"]:
            return "classifier.out_proj" if roberta else "classifier"
        case ["pooler"] if distil:
            return "pre_classifier"
        case ["pooler"]:
            # RoBERTa's classifier has a pooler of its own.
            return "classifier.dense" if roberta and module.classes is not None else "pooler.dense"
        case ["embedding", _]:
            return _ENDS.get("/".join(layers))
        case [block, *inner] if "/".join(inner) in _BLOCK:
            place = "transformer" if distil else "encoder"
            return f"{place}.layer.{number(block) - 1}.{_BLOCK['/'.join(inner)][int(distil)]}"
    return None


def gpt2(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of GPT-2."""
    block, *inner = layers
    if "/".join(inner) in _GPT2_BLOCK:
        return f"h.{number(block) - 1}.{_GPT2_BLOCK['/'.join(inner)]}"
    return _GPT2_ENDS.get("/".join(layers))
