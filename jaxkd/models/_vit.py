"""Vision transformers: ViT, and DeiT with its distillation token."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd._checks import shape_of
from jaxkd.models._attention import KERNEL_INIT, FeedForward, SelfAttention, transformer_roles
from jaxkd.models._family import Family


class PatchTokens(nn.Module):
    """Patches of an image as tokens, after the class token (and DeiT's distillation token), with their positions."""

    width: int
    patch: int
    distilled: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Gives [batch, tokens, width]; raises ValueError of an image of another size than the positions are for."""
        batch, height, width = image.shape[:3]
        if height % self.patch or width % self.patch:
            raise ValueError(f"image {shape_of(image)}: patches are {self.patch}x{self.patch}, which do not fill it")
        names = ("class_token", "distillation_token") if self.distilled else ("class_token",)
        count = (height // self.patch) * (width // self.patch) + len(names)
        known = self.variables.get("params", {}).get("position")
        if known is not None and known.shape[1] != count:
            raise ValueError(
                f"image {shape_of(image)} makes {count} tokens, the positions are for {known.shape[1]}: give images "
                "of the size that the model was made with"
            )
        patches = nn.Conv(
            self.width,
            (self.patch, self.patch),
            self.patch,
            padding="VALID",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="patches",
        )(image).reshape(batch, -1, self.width)
        small = nn.initializers.normal(1e-6)
        tokens = [self.param(name, small, (1, 1, self.width), self.param_dtype) for name in names]
        position = self.param("position", KERNEL_INIT, (1, count, self.width), self.param_dtype)
        *tokens, position = (leaf.astype(patches.dtype) for leaf in (*tokens, position))
        tokens = [jnp.broadcast_to(token, (batch, 1, self.width)) for token in tokens]
        return jnp.concatenate([*tokens, patches], axis=1) + position


class EncoderBlock(nn.Module):
    """Attention and feed-forward, each of normalised tokens and added to them."""

    heads: int
    feed_forward: int
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, tokens, width]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        layers: dict[str, nn.Module] = {
            "attention": SelfAttention(self.heads, **dtypes, name="attention"),
            "feed_forward": FeedForward(self.feed_forward, self.dropout, **dtypes, name="feed_forward"),
        }
        for name, layer in layers.items():
            normalized = nn.LayerNorm(epsilon=1e-6, **dtypes, name=f"{name}_norm")(x)
            skip = nn.Dropout(self.drop_path, broadcast_dims=(1, 2), name=f"{name}_drop_path")
            x = x + skip(layer(normalized, train), deterministic=not train)
        return x


class ViT(nn.Module):
    """Vision transformer with a class token, and DeiT: with a second, distilled one.

    DeiT's logits are the mean of those of its two classifiers, of the class token and of the distillation token. What
    trains the second one (against the teacher's labels) taps ``"distillation_classifier"``, and ``"classifier"``.

    Taps: ``"tokens"``, the embedding, and ``"block1"`` ..., which are ``hidden_states[0]``, ``[1]`` ...; of each block
    ``"block1/attention/query"``, ``/key``, ``/value``, ``/scores`` and ``/probs``; also by role. Attention is fused
    except in blocks whose scores or probs are tapped.

    Attributes:
      width: of a token.
      layers: number of blocks.
      heads: of attention, a divisor of the width.
      classes: number of classes.
      patch: side of a patch; images have to be multiples of it, and all of one size.
      distilled: whether there are a distillation token and a classifier of it.
      dropout: rate after the embedding and each feed-forward layer in training, from the stream ``"dropout"``.
      stochastic_depth: rate at which an example skips the last block's layers in training; earlier ones' grow to it
        evenly.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if the heads do not divide the width.

    References:
      Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2020,
      arXiv:2010.11929.
      Touvron et al., "Training data-efficient image transformers & distillation through attention", 2020,
      arXiv:2012.12877.
    """

    width: int = 192
    layers: int = 12
    heads: int = 3
    classes: int = 1000
    patch: int = 16
    distilled: bool = False
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the heads where the model is made, long before it is traced."""
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"ViT: heads are {self.heads}, but have to divide the width, {self.width}")
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for: ``hidden_states`` (the embedding's first), ``query`` ... of each block, and more."""
        return {**transformer_roles("tokens", self.layers), "penultimate": ("classifier:in",)}

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.tokens = PatchTokens(self.width, self.patch, self.distilled, **dtypes)
        self.drop = nn.Dropout(self.dropout)
        self.blocks = [
            EncoderBlock(
                self.heads,
                4 * self.width,
                self.dropout,
                self.stochastic_depth * i / max(1, self.layers - 1),
                **dtypes,
                name=f"block{i + 1}",
            )
            for i in range(self.layers)
        ]
        self.norm = nn.LayerNorm(epsilon=1e-6, **dtypes)
        self.classifier = nn.Dense(self.classes, kernel_init=KERNEL_INIT, **dtypes)
        if self.distilled:
            self.distillation_classifier = nn.Dense(self.classes, kernel_init=KERNEL_INIT, **dtypes)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = self.drop(self.tokens(image), deterministic=not train)
        for block in self.blocks:
            x = block(x, train)
        x = self.norm(x)
        logits = self.head(x[:, 0])
        return (logits + self.distillation_classifier(x[:, 1])) / 2 if self.distilled else logits

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of normalised class tokens [batch, width]: their classifier alone."""
        return self.classifier(features)


_SIZES = {
    "tiny": {"width": 192, "heads": 3},
    "small": {"width": 384, "heads": 6},
    "base": {"width": 768, "heads": 12},
    "large": {"width": 1024, "heads": 16, "layers": 24},
}
VIT_FAMILY = Family(
    "vit",
    ViT,
    {f"vit_{size}": arguments for size, arguments in _SIZES.items()},
    image_shape=(224, 224, 3),
    paper="arXiv:2010.11929",
    published={"vit_tiny": 5_717_416, "vit_small": 22_050_664, "vit_base": 86_567_656, "vit_large": 304_326_632},
    classes=1000,
)
DEIT_FAMILY = Family(
    "deit",
    ViT,
    {f"deit_{size}": _SIZES[size] | {"distilled": True} for size in ("tiny", "small", "base")},
    image_shape=(224, 224, 3),
    paper="arXiv:2012.12877",
    published={"deit_tiny": 5_910_800, "deit_small": 22_436_432, "deit_base": 87_338_192},
    classes=1000,
)
