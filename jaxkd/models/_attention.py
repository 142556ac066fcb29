"""Attention and the feed-forward layer of transformers, vision's and text's."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

KERNEL_INIT = nn.initializers.truncated_normal(0.02)


class AttentionScores(nn.Module):
    """``query key^T / sqrt(width of a head) + bias``, a module without parameters so that it can be tapped.

    Unless ``scaled``, nothing is divided.
    """

    scaled: bool = True

    @nn.compact
    def __call__(self, query: jax.Array, key: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Gives [batch, heads, queries, keys], at least float32, of [batch, tokens, heads, width] each."""
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=dtype)
        if self.scaled:
            scores = scores / query.shape[-1] ** 0.5
        return scores if bias is None else scores + bias


class AttentionProbs(nn.Module):
    """The softmax of scores over the keys, a module without parameters so that it can be tapped."""

    @nn.compact
    def __call__(self, scores: jax.Array) -> jax.Array:
        """Gives [batch, heads, queries, keys], of the scores' dtype."""
        return jax.nn.softmax(scores)


def attend(
    module: nn.Module,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    train: bool,
    dropout: float,
    scaled: bool = True,
) -> jax.Array:
    """Attention as a part of a module's compact method, which gets the submodules ``"scores"`` and ``"probs"``.

    It is ``jax.nn.dot_product_attention``, which may fuse and keeps no map. Where scores or probs are recorded, and
    only there, the output is made of them instead; also in training with dropout, which that function has not.

    Args:
      module: whose method it is.
      query: [batch, queries, heads, width].
      key: [batch, keys, heads, width].
      value: as ``key``.
      bias: broadcastable to the scores, [batch, heads, queries, keys]; very negative as a mask.
      train: whether to drop.
      dropout: rate of attention probabilities, from the stream ``"dropout"``.
      scaled: whether scores are divided by the root of a head's width.

    Returns:
      [batch, queries, heads, width].
    """
    dropping = train and dropout > 0
    if dropping or module.is_mutable_collection("intermediates"):
        scores_of, probs_of = AttentionScores(scaled, name="scores"), AttentionProbs(name="probs")
        scores = scores_of(query, key, bias)
        probs = probs_of(scores)
        # A tap has written to the module it is of by now. Where none has, the maps are dead code.
        if dropping or _recorded(scores_of) or _recorded(probs_of):
            probs = nn.Dropout(dropout)(probs, deterministic=not train).astype(value.dtype)
            return jnp.einsum("bhqk,bkhd->bqhd", probs, value)
    return jax.nn.dot_product_attention(query, key, value, bias, scale=None if scaled else 1.0)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens among themselves, by `attend`.

    Taps: ``"query"``, ``"key"``, ``"value"`` with the heads side by side, [batch, tokens, width]; ``"scores"`` (scaled,
    bias added, before the softmax) and ``"probs"`` (before dropout), [batch, heads, queries, keys].

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
        attended = attend(self, query, key, value, bias, train, self.dropout)
        return dense(name="out")(attended.reshape(x.shape))


class FeedForward(nn.Module):
    """A dense layer of ``width`` with an activation, then one back to the tokens' width.

    Attributes:
      width: between the two.
      dropout: rate at the end, in training, from the stream ``"dropout"``.
      activation: of the inner layer; by default GELU with the error function.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.
    """

    width: int
    dropout: float = 0.0
    activation: Callable[[jax.Array], jax.Array] = functools.partial(nn.gelu, approximate=False)
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [..., features] of tokens [..., features]."""
        dense = functools.partial(nn.Dense, kernel_init=KERNEL_INIT, dtype=self.dtype, param_dtype=self.param_dtype)
        inner = self.activation(dense(self.width, name="in")(x))
        return nn.Dropout(self.dropout)(dense(x.shape[-1], name="out")(inner), deterministic=not train)


def masking_bias(allowed: jax.Array) -> jax.Array:
    """0 where attention is allowed, of a mask that broadcasts to the scores, and elsewhere the lowest of floats.

    Finite, so that a row in which nothing is allowed becomes a mean of everything and not NaN.
    """
    return jnp.where(allowed, 0, jnp.finfo(jnp.float32).min)


def transformer_roles(embedding: str, layers: int) -> Mapping[str, tuple[str, ...]]:
    """Names the taps of a transformer of ``"block1"`` ...: ``hidden_states``, the embedding's first, and of each block.

    Of the blocks: ``query``, ``key``, ``value``, ``attention_scores`` and ``attention_probs``.
    """
    blocks = tuple(f"block{i + 1}" for i in range(layers))
    return {"hidden_states": (embedding, *blocks), **attention_roles(blocks)}


def attention_roles(
    blocks: Sequence[str], attention: str = "attention", prefix: str = ""
) -> Mapping[str, tuple[str, ...]]:
    """Names the taps of each block's ``attention`` by their roles, which begin with ``prefix``."""
    parts = {"query": "query", "key": "key", "value": "value", "attention_scores": "scores", "attention_probs": "probs"}
    return {f"{prefix}{role}": tuple(f"{b}/{attention}/{part}" for b in blocks) for role, part in parts.items()}


def _recorded(module: nn.Module) -> bool:
    """Tells whether a module without parameters has been written to: only what records its output does."""
    return any(module.variables.values())
