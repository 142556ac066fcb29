"""T5 of both versions: an encoder of a text and a decoder of another."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._attention import attention_roles, masking_bias
from jaxkd.models._family import Family
from jaxkd.models._t5_layers import FAN_IN, RelativePositions, T5Block
from jaxkd.models._words import check_words


class T5(nn.Module):
    """T5, which at each word of a text tells the next one, given another text.

    Version 1.0 has feed-forward layers with ReLU, and the words' vectors make the logits, of features divided by the
    root of their width. Version 1.1 has gated ones, and logits with weights of their own. Words have no positions;
    attention has a bias for distances.

    Taps of the encoder: ``"encoder_block1:in"`` and ``"encoder_block1"`` ..., which are ``hidden_states[0]``, ``[1]``
    ...; of each block ``"encoder_block1/attention/query"``, ``/key``, ``/value``, ``/scores`` (distances and mask
    added) and ``/probs``. Of the decoder the same with ``decoder_``, by role ``decoder_hidden_states`` ..., and of its
    attention to the encoder ``"decoder_block1/cross_attention/query"`` ..., by role ``cross_query`` ...;
    ``"decoder_norm"``, what the logits are made of. Attention is fused except in blocks whose scores or probs are
    tapped, and in training with dropout.

    Attributes:
      width: of a token.
      layers: number of the encoder's blocks, and of the decoder's.
      heads: of attention.
      feed_forward: width within the feed-forward layers.
      head_width: of a head.
      form: "t5" or "t5_v1_1".
      vocabulary: number of words, and of classes.
      dropout: rate after the embedding and the last norm, in attention and feed-forward, and after both, in training,
        from the stream ``"dropout"``.
      dtype: of the computation; None: of the parameters.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there is no such form.

    References:
      Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2019,
      arXiv:1910.10683.
      Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.
    """

    width: int = 512
    layers: int = 6
    heads: int = 8
    feed_forward: int = 2048
    head_width: int = 64
    form: Literal["t5", "t5_v1_1"] = "t5"
    vocabulary: int = 32128
    dropout: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the form where the model is made, long before it is traced."""
        if self.form not in ("t5", "t5_v1_1"):
            raise ValueError(f'T5: form is {self.form!r}, but there are "t5" and "t5_v1_1"')
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for; ``penultimate`` has [batch, tokens, width]."""
        encoder, decoder = ([f"{side}_block{i + 1}" for i in range(self.layers)] for side in ("encoder", "decoder"))
        return {
            "hidden_states": (f"{encoder[0]}:in", *encoder),
            **attention_roles(encoder),
            "decoder_hidden_states": (f"{decoder[0]}:in", *decoder),
            **attention_roles(decoder, prefix="decoder_"),
            **attention_roles(decoder, "cross_attention", prefix="cross_"),
            "penultimate": ("decoder_norm",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        gated = self.form == "t5_v1_1"
        sizes = (self.heads, self.head_width, self.feed_forward, gated, self.dropout)
        self.embedding = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(1.0), **dtypes)
        self.drop = nn.Dropout(self.dropout)
        scale = self.width**-0.5
        self.encoder_positions = RelativePositions(self.heads, True, scale, **dtypes)
        self.decoder_positions = RelativePositions(self.heads, False, scale, **dtypes)
        self.encoder_blocks = [T5Block(*sizes, **dtypes, name=f"encoder_block{i + 1}") for i in range(self.layers)]
        self.decoder_blocks = [T5Block(*sizes, **dtypes, name=f"decoder_block{i + 1}") for i in range(self.layers)]
        self.encoder_norm = nn.RMSNorm(epsilon=1e-6, **dtypes)
        self.decoder_norm = nn.RMSNorm(epsilon=1e-6, **dtypes)
        if gated:
            self.classifier = nn.Dense(self.vocabulary, use_bias=False, kernel_init=FAN_IN, **dtypes)

    def __call__(
        self,
        input_ids: jax.Array,
        decoder_input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        decoder_attention_mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Gives logits [batch, decoder's tokens, vocabulary].

        Args:
          input_ids: words [batch, tokens] that the encoder sees.
          decoder_input_ids: words [batch, decoder's tokens], the target's shifted by one to the right.
          attention_mask: of the shape of ``input_ids``, 0 or False for padding.
          decoder_attention_mask: the same of ``decoder_input_ids``.
          train: whether to drop.
        """
        check_words(input_ids)
        check_words(decoder_input_ids, name="decoder_input_ids")
        seen = None if attention_mask is None else attention_mask.astype(bool)[:, None, None]
        memory_bias = None if seen is None else masking_bias(seen)
        bias = self.encoder_positions(input_ids.shape[1])
        if memory_bias is not None:
            bias = bias + memory_bias
        x = self.drop(self.embedding(input_ids), deterministic=not train)
        for block in self.encoder_blocks:
            x = block(x, train, bias)
        memory = self.drop(self.encoder_norm(x), deterministic=not train)

        length = decoder_input_ids.shape[1]
        allowed = jnp.tril(jnp.ones((1, 1, length, length), bool))
        if decoder_attention_mask is not None:
            allowed &= decoder_attention_mask.astype(bool)[:, None, None]
        bias = self.decoder_positions(length) + masking_bias(allowed)
        x = self.drop(self.embedding(decoder_input_ids), deterministic=not train)
        for block in self.decoder_blocks:
            x = block(x, train, bias, memory, memory_bias)
        return self.head(self.drop(self.decoder_norm(x), deterministic=not train))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, tokens, vocabulary] of the decoder's normalised features [batch, tokens, width]."""
        return (
            self.classifier(features) if self.form == "t5_v1_1" else self.embedding.attend(features * self.width**-0.5)
        )


def _language_model(classes: int, **size: Any) -> T5:
    """Makes a model of as many words as there are classes."""
    return T5(vocabulary=classes, **size)


def _size(width: int, layers: int, heads: int, feed_forward: int) -> dict[str, Any]:
    return {"width": width, "layers": layers, "heads": heads, "feed_forward": feed_forward}


FAMILY = Family(
    "t5",
    _language_model,
    {
        "t5_small": _size(512, 6, 8, 2048),
        "t5_base": _size(768, 12, 12, 3072),
        "t5_large": _size(1024, 24, 16, 4096),
        "t5_v1_1_small": _size(512, 8, 6, 1024) | {"form": "t5_v1_1"},
        "t5_v1_1_base": _size(768, 12, 12, 2048) | {"form": "t5_v1_1"},
        "t5_v1_1_large": _size(1024, 24, 16, 2816) | {"form": "t5_v1_1"},
    },
    image_shape=(),
    paper="arXiv:1910.10683",
    published={
        "t5_small": 60_506_624,
        "t5_base": 222_903_552,
        "t5_large": 737_668_096,
        "t5_v1_1_small": 76_961_152,
        "t5_v1_1_base": 247_577_856,
        "t5_v1_1_large": 783_150_080,
    },
    classes=32128,
)
