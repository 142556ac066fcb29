"""BERT and what has nearly its form: DistilBERT, TinyBERT, MiniLM, RoBERTa."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._attention import KERNEL_INIT, FeedForward, SelfAttention, masking_bias, transformer_roles
from jaxkd.models._family import Family
from jaxkd.models._words import check_words


class TokenEmbedding(nn.Module):
    """Sums of a word's, a position's and, if there are token types, a type's vector, normalised.

    With ``skipped`` positions that no token has (RoBERTa's 2), the others are those of what is no padding, counted.
    """

    width: int
    vocabulary: int
    positions: int
    types: int
    skipped: int
    epsilon: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, attention_mask: jax.Array | None, token_type_ids: jax.Array | None
    ) -> jax.Array:
        """Gives [batch, tokens, width]; raises ValueError of what are no words, or more than there are positions."""
        check_words(input_ids, self.positions)
        embed = functools.partial(
            nn.Embed,
            features=self.width,
            embedding_init=KERNEL_INIT,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        position = jnp.arange(input_ids.shape[1])
        if self.skipped:
            present = jnp.ones_like(input_ids) if attention_mask is None else attention_mask.astype(input_ids.dtype)
            position = jnp.cumsum(present, axis=1) * present + self.skipped - 1
        x = embed(self.vocabulary, name="word")(input_ids)
        x = x + embed(self.positions + self.skipped, name="position")(position)
        if self.types:
            given = token_type_ids is not None and self.types > 1
            types = token_type_ids if given else jnp.zeros_like(input_ids)
            x = x + embed(self.types, name="type")(types)
        return nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, param_dtype=self.param_dtype, name="norm")(x)


class PostNormBlock(nn.Module):
    """Attention and feed-forward, each added to the tokens, which are normalised after."""

    heads: int
    feed_forward: int
    epsilon: float
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, bias: jax.Array | None) -> jax.Array:
        """Gives [batch, tokens, width]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, **dtypes)
        attended = SelfAttention(self.heads, self.dropout, **dtypes, name="attention")(x, train, bias)
        attended = nn.Dropout(self.dropout)(attended, deterministic=not train)
        x = norm(name="attention_norm")(x + attended)
        added = FeedForward(self.feed_forward, self.dropout, **dtypes, name="feed_forward")(x, train)
        return norm(name="feed_forward_norm")(x + added)


class BERT(nn.Module):
    """BERT for the classification of sequences, or as an encoder.

    TinyBERT and MiniLM are BERTs of other sizes. DistilBERT has no token types, and a ReLU where BERT's pooler has a
    tanh; as an encoder it has no pooler. RoBERTa has one token type, and counts positions without padding.

    Taps: ``"embedding"`` and ``"block1"`` ..., which are ``hidden_states[0]``, ``[1]`` ...; of each block
    ``"block1/attention/query"``, ``/key``, ``/value``, ``/scores`` (mask added) and ``/probs``; ``"pooled"``, the
    pooler's output before dropout; also by role. Attention is fused except in blocks whose scores or probs are tapped,
    and in training with dropout.

    Attributes:
      width: of a token.
      layers: number of blocks.
      heads: of attention, a divisor of the width.
      feed_forward: width within the feed-forward layers.
      classes: number of classes; None: an encoder, which gives the last hidden states.
      form: "bert", "distilbert" or "roberta".
      vocabulary: number of words.
      positions: the most tokens of a sequence.
      dropout: rate after the embedding, in attention, after attention and feed-forward and before the classifier, in
        training, from the stream ``"dropout"``.
      dtype: of the computation; None: of the parameters.
      param_dtype: of the parameters.

    Raises:
      ValueError: if the heads do not divide the width, or there is no such form.

    References:
      Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018,
      arXiv:1810.04805.
      Sanh et al., "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", 2019,
      arXiv:1910.01108.
      Liu et al., "RoBERTa: A Robustly Optimized BERT Pretraining Approach", 2019, arXiv:1907.11692.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    classes: int | None = 2
    form: Literal["bert", "distilbert", "roberta"] = "bert"
    vocabulary: int = 30522
    positions: int = 512
    dropout: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the heads where the model is made, long before it is traced."""
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"BERT: heads are {self.heads}, but have to divide the width, {self.width}")
        if self.form not in ("bert", "distilbert", "roberta"):
            raise ValueError(f'BERT: form is {self.form!r}, but there are "bert", "distilbert" and "roberta"')
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``ViT``."""
        return {**transformer_roles("embedding", self.layers), "penultimate": ("pooled",)}

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        types = {"bert": 2, "distilbert": 0, "roberta": 1}[self.form]
        skipped, epsilon = (2, 1e-5) if self.form == "roberta" else (0, 1e-12)
        sizes = (self.width, self.vocabulary, self.positions, types, skipped, epsilon)
        self.embedding = TokenEmbedding(*sizes, **dtypes)
        self.drop = nn.Dropout(self.dropout)
        self.blocks = [
            PostNormBlock(self.heads, self.feed_forward, epsilon, self.dropout, **dtypes, name=f"block{i + 1}")
            for i in range(self.layers)
        ]
        self.pooler = nn.Dense(self.width, kernel_init=KERNEL_INIT, **dtypes)
        if self.classes is not None:
            self.classifier = nn.Dense(self.classes, kernel_init=KERNEL_INIT, **dtypes)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Gives logits [batch, classes], or last hidden states [batch, tokens, width], of words [batch, tokens].

        ``attention_mask`` [batch, tokens] is 0 or False for padding; ``token_type_ids`` are 0 where they are not given,
        and in forms that have one type or none.
        """
        x = self.drop(self.embedding(input_ids, attention_mask, token_type_ids), deterministic=not train)
        bias = None if attention_mask is None else masking_bias(attention_mask.astype(bool)[:, None, None])
        for block in self.blocks:
            x = block(x, train, bias)
        if self.form == "distilbert" and self.classes is None:
            return x
        pooled = (nn.relu if self.form == "distilbert" else nn.tanh)(self.pooler(x[:, 0]))
        self.sow("intermediates", "pooled", pooled)
        return x if self.classes is None else self.head(self.drop(pooled, deterministic=not train))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, width]: the classifier alone."""
        return self.classifier(features)


def _size(layers: int, width: int, heads: int, feed_forward: int) -> Mapping[str, Any]:
    return {"layers": layers, "width": width, "heads": heads, "feed_forward": feed_forward}


_ROBERTA = {"form": "roberta", "vocabulary": 50265}


def _family(name: str, paper: str, variants: Mapping[str, Mapping[str, Any]], published: Mapping[str, int]) -> Family:
    return Family(name, BERT, variants, image_shape=(), paper=paper, published=published, classes=2)


FAMILIES = (
    _family(
        "bert",
        "arXiv:1810.04805, arXiv:1908.08962",
        {
            "bert_tiny": _size(2, 128, 2, 512),
            "bert_mini": _size(4, 256, 4, 1024),
            "bert_small": _size(4, 512, 8, 2048),
            "bert_medium": _size(8, 512, 8, 2048),
            "bert_base": _size(12, 768, 12, 3072),
            "bert_large": _size(24, 1024, 16, 4096),
        },
        {
            "bert_tiny": 4_386_178,
            "bert_mini": 11_171_074,
            "bert_small": 28_764_674,
            "bert_medium": 41_374_210,
            "bert_base": 109_483_778,
            "bert_large": 335_143_938,
        },
    ),
    _family(
        "distilbert",
        "arXiv:1910.01108",
        {"distilbert": {**_size(6, 768, 12, 3072), "form": "distilbert"}},
        {"distilbert": 66_955_010},
    ),
    _family(
        "roberta",
        "arXiv:1907.11692, distilled: arXiv:1910.01108",
        {
            "distilroberta": {**_size(6, 768, 12, 3072), **_ROBERTA},
            "roberta_base": {**_size(12, 768, 12, 3072), **_ROBERTA},
            "roberta_large": {**_size(24, 1024, 16, 4096), **_ROBERTA},
        },
        {"distilroberta": 82_119_938, "roberta_base": 124_647_170, "roberta_large": 355_361_794},
    ),
    _family(
        "tinybert",
        "arXiv:1909.10351",
        {"tinybert_4": _size(4, 312, 12, 1200), "tinybert_6": _size(6, 768, 12, 3072)},
        {"tinybert_4": 14_350_874, "tinybert_6": 66_956_546},
    ),
    _family(
        "minilm",
        "arXiv:2002.10957",
        {"minilm_6": _size(6, 384, 12, 1536), "minilm_12": _size(12, 384, 12, 1536)},
        {"minilm_6": 22_713_986, "minilm_12": 33_360_770},
    ),
)
