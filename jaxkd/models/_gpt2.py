"""GPT-2, and its distilled form."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._attention import KERNEL_INIT, FeedForward, SelfAttention, masking_bias, transformer_roles
from jaxkd.models._family import Family
from jaxkd.models._words import check_words


class WordsInOrder(nn.Module):
    """Sums of a word's and a position's vector; the words' vectors are those of the logits, too."""

    width: int
    vocabulary: int
    positions: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Builds the tables here, not in ``__call__``, so that ``logits`` can use one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embed = functools.partial(nn.Embed, features=self.width, embedding_init=KERNEL_INIT, **dtypes)
        self.word = embed(self.vocabulary)
        self.position = embed(self.positions)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None) -> jax.Array:
        """Gives [batch, tokens, width]. Positions are those among the words that are no padding."""
        check_words(input_ids, self.positions)
        position = jnp.arange(input_ids.shape[1])
        if attention_mask is not None:
            # Before the first word nothing is counted: padding there has position 0, and nobody looks at it.
            position = jnp.maximum(jnp.cumsum(attention_mask.astype(jnp.int32), axis=1) - 1, 0)
        return self.word(input_ids) + self.position(position)

    def logits(self, features: jax.Array) -> jax.Array:
        """Gives [batch, tokens, vocabulary]: products with the words' vectors."""
        return self.word.attend(features)


class PreNormBlock(nn.Module):
    """Attention and feed-forward, each of normalised tokens and added to them."""

    heads: int
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, bias: jax.Array) -> jax.Array:
        """Gives [batch, tokens, width]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, **dtypes)
        normalized = norm(name="attention_norm")(x)
        attended = SelfAttention(self.heads, self.dropout, **dtypes, name="attention")(normalized, train, bias)
        x = x + nn.Dropout(self.dropout)(attended, deterministic=not train)
        # GELU by its approximation with tanh.
        feed_forward = FeedForward(4 * x.shape[-1], self.dropout, nn.gelu, **dtypes, name="feed_forward")
        return x + feed_forward(norm(name="feed_forward_norm")(x), train)


class GPT2(nn.Module):
    """GPT-2, a language model: at each word it tells the next one.

    The logits' weights are the words' vectors (tied). A word sees itself and the words before it; padding, at either
    end, is seen by none and counts as no position. What the model gives at padding means nothing: ``batch["where"]``,
    the mask as bool, keeps it out of objectives. The published code draws the weights before a sum smaller.

    Taps: ``"embedding"`` and ``"block1"`` ..., which are ``hidden_states[0]``, ``[1]`` ...; of each block
    ``"block1/attention/query"``, ``/key``, ``/value``, ``/scores`` (mask added) and ``/probs``; ``"norm"``, what the
    logits are made of; also by role. Attention is fused except in blocks whose scores or probs are tapped, and in
    training with dropout.

    Attributes:
      width: of a token; feed-forward layers have four times as much.
      layers: number of blocks.
      heads: of attention, a divisor of the width.
      vocabulary: number of words, and of classes.
      positions: the most tokens of a sequence.
      dropout: rate after the embedding, in attention, after attention and feed-forward, in training, from the stream
        ``"dropout"``.
      dtype: of the computation; None: of the parameters.
      param_dtype: of the parameters.

    Raises:
      ValueError: if the heads do not divide the width.

    References:
      Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
      Sanh et al., "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", 2019,
      arXiv:1910.01108.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50257
    positions: int = 1024
    dropout: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the heads where the model is made, long before it is traced."""
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"GPT2: heads are {self.heads}, but have to divide the width, {self.width}")
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``ViT``; ``penultimate`` has [batch, tokens, width]."""
        return {**transformer_roles("embedding", self.layers), "penultimate": ("norm",)}

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.embedding = WordsInOrder(self.width, self.vocabulary, self.positions, **dtypes)
        self.drop = nn.Dropout(self.dropout)
        self.blocks = [
            PreNormBlock(self.heads, self.dropout, **dtypes, name=f"block{i + 1}") for i in range(self.layers)
        ]
        self.norm = nn.LayerNorm(epsilon=1e-5, **dtypes)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Gives logits [batch, tokens, vocabulary] of words [batch, tokens].

        ``attention_mask`` [batch, tokens] is 0 or False for padding.
        """
        x = self.drop(self.embedding(input_ids, attention_mask), deterministic=not train)
        length = input_ids.shape[1]
        allowed = jnp.tril(jnp.ones((1, 1, length, length), bool))
        if attention_mask is not None:
            allowed &= attention_mask.astype(bool)[:, None, None]
        bias = masking_bias(allowed)
        for block in self.blocks:
            x = block(x, train, bias)
        return self.head(self.norm(x))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, tokens, vocabulary] of normalised features [batch, tokens, width]."""
        return self.embedding.logits(features)


def _language_model(classes: int, **size: Any) -> GPT2:
    """Makes a model of as many words as there are classes."""
    return GPT2(vocabulary=classes, **size)


FAMILY = Family(
    "gpt2",
    _language_model,
    {
        "distilgpt2": {"layers": 6},
        "gpt2": {},
        "gpt2_medium": {"width": 1024, "layers": 24, "heads": 16},
        "gpt2_large": {"width": 1280, "layers": 36, "heads": 20},
    },
    image_shape=(),
    paper="Radford et al. 2019, distilled: arXiv:1910.01108",
    published={
        "distilgpt2": 81_912_576,
        "gpt2": 124_439_808,
        "gpt2_medium": 354_823_168,
        "gpt2_large": 774_030_080,
    },
    classes=50257,
)
