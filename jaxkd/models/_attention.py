"""Self-attention and the feed-forward layer of transformers, vision's and text's."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

KERNEL_INIT = nn.initializers.truncated_normal(0.02)


class AttentionScores(nn.Module):
    """``query key^T / sqrt(width of a head) + bias``, a module without parameters so that it can be tapped."""

    @nn.compact
    def __call__(self, query: jax.Array, key: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Gives [batch, heads, queries, keys], at least float32, of [batch, tokens, heads, width] each."""
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=dtype) / query.shape[-1] ** 0.5
        return scores if bias is None else scores + bias


class AttentionProbs(nn.Module):
    """The softmax of scores over the keys, a module without parameters so that it can be tapped."""

    @nn.compact
    def __call__(self, scores: jax.Array) -> jax.Array:
        """Gives [batch, heads, queries, keys], of the scores' dtype."""
        return jax.nn.softmax(scores)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves.

    Taps: ``"query"``, ``"key"``, ``"value"`` with the heads side by side, [batch, tokens, width]; ``"scores"`` (scaled,
    bias added, before the softmax) and ``"probs"`` (before dropout), [batch, heads, queries, keys].

    Attention is ``jax.nn.dot_product_attention``, which may fuse and keeps no map. Where scores or probs are recorded,
    and only there, the output is made of them instead; also in training with dropout, which that function has not.

    Attributes:
      heads: their number, a divisor of the width.
      dropout: rate of attention probabilities in training, from the stream ``"dropout"``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.
    """

    heads: int
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, bias: jax.Array | None = None) -> jax.Array:
        """Gives [batch, tokens, width]. ``bias``, broadcastable to the scores, is 0 or very negative as a mask."""
        dense = functools.partial(
            nn.Dense, x.shape[-1], kernel_init=KERNEL_INIT, dtype=self.dtype, param_dtype=self.param_dtype
        )
        heads = (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        query, key, value = (dense(name=name)(x).reshape(heads) for name in ("query", "key", "value"))
        dropping = train and self.dropout > 0
        if dropping or self.is_mutable_collection("intermediates"):
            scores_of, probs_of = AttentionScores(name="scores"), AttentionProbs(name="probs")
            scores = scores_of(query, key, bias)
            probs = probs_of(scores)
            # A tap has written to the module it is of by now. Where none has, the maps are dead code.
            if dropping or _recorded(scores_of) or _recorded(probs_of):
                probs = nn.Dropout(self.dropout)(probs, deterministic=not train).astype(value.dtype)
                attended = jnp.einsum("bhqk,bkhd->bqhd", probs, value)
                return dense(name="out")(attended.reshape(x.shape))
        attended = jax.nn.dot_product_attention(query, key, value, bias)
        return dense(name="out")(attended.reshape(x.shape))


class FeedForward(nn.Module):
    """A dense layer of ``width`` with GELU (erf), then one back to the tokens' width.

    Attributes:
      width: between the two.
      dropout: rate at the end, in training, from the stream ``"dropout"``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.
    """

    width: int
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [..., features] of tokens [..., features]."""
        dense = functools.partial(nn.Dense, kernel_init=KERNEL_INIT, dtype=self.dtype, param_dtype=self.param_dtype)
        inner = nn.gelu(dense(self.width, name="in")(x), approximate=False)
        return nn.Dropout(self.dropout)(dense(x.shape[-1], name="out")(inner), deterministic=not train)


def transformer_roles(embedding: str, layers: int) -> Mapping[str, tuple[str, ...]]:
    """Names the taps of a transformer of ``"block1"`` ...: ``hidden_states``, the embedding's first, and of each block.

    Of the blocks: ``query``, ``key``, ``value``, ``attention_scores`` and ``attention_probs``.
    """
    blocks = tuple(f"block{i + 1}" for i in range(layers))
    parts = {"query": "query", "key": "key", "value": "value", "attention_scores": "scores", "attention_probs": "probs"}
    of_blocks = {role: tuple(f"{block}/attention/{part}" for block in blocks) for role, part in parts.items()}
    return {"hidden_states": (embedding, *blocks), **of_blocks}


def _recorded(module: nn.Module) -> bool:
    """Tells whether a module without parameters has been written to: only what records its output does."""
    return any(module.variables.values())
