"""The layers of T5."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxkd.models._attention import attend

FAN_IN = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def distance_buckets(length: int, buckets: int, furthest: int) -> np.ndarray:
    """Gives the bucket of each distance from 0 to below ``length``.

    Half of the buckets have one distance each. The others' distances grow by one factor, up to ``furthest``; the last
    one has all that are further, too.
    """
    distances, near = np.arange(length), buckets // 2
    # In float32, as in the original: at a border the last bit decides.
    far = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(near)) / np.float32(math.log(furthest / near))
    bucket = near + (far * np.float32(buckets - near)).astype(np.int32)
    return np.where(distances < near, distances, np.minimum(bucket, buckets - 1)).astype(np.int32)


class RelativePositions(nn.Module):
    """A bias of each head for how far a key is from a query; keys before and after are told apart if ``both_ways``."""

    heads: int
    both_ways: bool
    init_scale: float
    buckets: int = 32
    furthest: int = 128
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        """Gives [1, heads, queries, keys]."""
        after = jnp.arange(length)[None] - jnp.arange(length)[:, None]
        half = self.buckets // 2 if self.both_ways else self.buckets
        bucket = jnp.asarray(distance_buckets(length, half, self.furthest))[jnp.abs(after)]
        # Where only what is before is seen, what is after is masked.
        bucket = jnp.where(after > 0, bucket + half if self.both_ways else 0, bucket)
        init = nn.initializers.normal(self.init_scale)
        embed = nn.Embed(self.buckets, self.heads, self.dtype, self.param_dtype, init, name="bucket")
        return embed(bucket).transpose(2, 0, 1)[None]


class T5Attention(nn.Module):
    """Multi-head attention whose scores are not scaled: the query's initial weights are the smaller.

    Taps as of ``SelfAttention``; heads side by side have [batch, tokens, heads * head_width].
    """

    heads: int
    head_width: int
    dropout: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, train: bool, bias: jax.Array | None) -> jax.Array:
        """Gives [batch, tokens, width]; keys and values are of ``memory`` [batch, keys, width]."""
        dense = functools.partial(nn.Dense, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        init = {"query": nn.initializers.variance_scaling(1 / self.head_width, "fan_in", "normal")}
        query, key, value = (
            dense(self.heads * self.head_width, kernel_init=init.get(name, FAN_IN), name=name)(tokens).reshape(
                *tokens.shape[:2], self.heads, self.head_width
            )
            for name, tokens in (("query", x), ("key", memory), ("value", memory))
        )
        attended = attend(self, query, key, value, bias, train, self.dropout, scaled=False)
        return dense(x.shape[-1], kernel_init=FAN_IN, name="out")(attended.reshape(*x.shape[:2], -1))


class T5FeedForward(nn.Module):
    """A dense layer of ``width`` with ReLU, or if ``gated`` with GELU (tanh) times another one; then one back."""

    width: int
    gated: bool
    dropout: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, tokens, features] of as many."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = functools.partial(nn.Dense, use_bias=False, kernel_init=FAN_IN, **dtypes)
        inner = dense(self.width, name="in")(x)
        inner = nn.gelu(inner) * dense(self.width, name="gate")(x) if self.gated else nn.relu(inner)
        return dense(x.shape[-1], name="out")(nn.Dropout(self.dropout)(inner, deterministic=not train))


class T5Block(nn.Module):
    """Attention, in a decoder also to the encoder's states, and feed-forward: each of normalised tokens, and added."""

    heads: int
    head_width: int
    feed_forward: int
    gated: bool
    dropout: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        bias: jax.Array,
        memory: jax.Array | None = None,
        memory_bias: jax.Array | None = None,
    ) -> jax.Array:
        """Gives [batch, tokens, width]; ``memory`` are the encoder's states."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = functools.partial(T5Attention, self.heads, self.head_width, self.dropout, **dtypes)

        def normalized(name: str) -> jax.Array:
            return nn.RMSNorm(epsilon=1e-6, **dtypes, name=f"{name}_norm")(x)

        def plus(added: jax.Array) -> jax.Array:
            return x + nn.Dropout(self.dropout)(added, deterministic=not train)

        tokens = normalized("attention")
        x = plus(attention(name="attention")(tokens, tokens, train, bias))
        if memory is not None:
            tokens = normalized("cross_attention")
            x = plus(attention(name="cross_attention")(tokens, memory, train, memory_bias))
        tokens = normalized("feed_forward")
        layer = T5FeedForward(self.feed_forward, self.gated, self.dropout, **dtypes, name="feed_forward")
        return plus(layer(tokens, train))
