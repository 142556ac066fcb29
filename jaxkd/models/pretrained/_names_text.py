"""What Hugging Face calls the layers of models of text."""

from collections.abc import Mapping, Sequence
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
_T5_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_T5_LAYERS = {"attention": "SelfAttention", "cross_attention": "EncDecAttention", "feed_forward": "DenseReluDense"}


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


def t5(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of T5: of an encoder or a decoder, whose blocks are numbered, and in them the layers."""
    gated = module.form == "t5_v1_1"
    if layers[0] in ("embedding", "classifier"):
        return {"embedding": "shared", "classifier": "lm_head"}[layers[0]]
    side, _, place = layers[0].partition("_")
    if place == "norm":
        return f"{side}.final_layer_norm"
    if place == "positions":
        return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
    kind = layers[1].removesuffix("_norm")
    if kind not in _T5_LAYERS:
        return None
    # The last one is feed-forward, after attention to the encoder where there is one.
    order = 0 if kind == "attention" else 1 if kind == "cross_attention" or side == "encoder" else 2
    layer = f"{side}.block.{number(place) - 1}.layer.{order}"
    if kind != layers[1]:
        return f"{layer}.layer_norm"
    feed_forward = {"in": "wi_0" if gated else "wi", "gate": "wi_1", "out": "wo"}
    dense = (feed_forward if kind == "feed_forward" else _T5_ATTENTION)[layers[2]]
    return f"{layer}.{_T5_LAYERS[kind]}.{dense}"


def t5_copies(module: Any) -> Mapping[str, str]:
    """Tells which of T5's tensors are the words' vectors once more."""
    names = ["encoder.embed_tokens", "decoder.embed_tokens", *(["lm_head"] if module.form == "t5" else [])]
    return {f"{name}.weight": "shared.weight" for name in names}
