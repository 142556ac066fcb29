"""BiT: residual networks with pre-activation, GroupNorm and standardised kernels, no BatchNorm."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd._convolution import conv
from jaxkd.models._family import Family


class StandardizedConv(nn.Module):
    """A convolution without bias whose kernel has mean 0 and variance 1 over the inputs of each filter.

    Padded by half its kernel on every side.
    """

    features: int
    kernel: int
    strides: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
        kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        kernel -= kernel.mean((0, 1, 2))
        kernel *= jax.lax.rsqrt(jnp.square(kernel).mean((0, 1, 2)) + 1e-8)
        x, kernel = nn.dtypes.promote_dtype(x, kernel.astype(self.param_dtype), dtype=self.dtype)
        padding = [(self.kernel // 2,) * 2] * 2
        layout = ("NHWC", "HWIO", "NHWC")
        return conv(x, kernel, (self.strides,) * 2, padding, dimension_numbers=layout)


class PreActivationBlock(nn.Module):
    """A bottleneck whose convolutions each follow a GroupNorm with ReLU; gives its sum with the shortcut."""

    features: int
    strides: int
    project: bool
    groups: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Gives [batch, height / strides, width / strides, 4 features], which no ReLU has seen."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(nn.GroupNorm, self.groups, epsilon=1e-5, **dtypes)
        conv = functools.partial(StandardizedConv, **dtypes)
        shortcut = x
        x = nn.relu(norm(name="norm1")(x))
        if self.project:
            shortcut = conv(4 * self.features, 1, self.strides, name="shortcut")(x)
        x = conv(self.features, 1, name="conv1")(x)
        x = conv(self.features, 3, self.strides, name="conv2")(nn.relu(norm(name="norm2")(x)))
        x = conv(4 * self.features, 1, name="conv3")(nn.relu(norm(name="norm3")(x)))
        return x + shortcut


class PreActivationStage(nn.Module):
    """Blocks of one resolution; the first has the strides and a projection for a shortcut."""

    features: int
    blocks: int
    strides: int
    groups: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Gives [batch, height / strides, width / strides, 4 features]."""
        for i in range(self.blocks):
            block = PreActivationBlock(
                self.features,
                self.strides if i == 0 else 1,
                i == 0,
                self.groups,
                self.dtype,
                self.param_dtype,
                name=f"block{i + 1}",
            )
            x = block(x)
        return x


class BiT(nn.Module):
    """Big Transfer's ResNet-v2 in four stages of bottlenecks; 50x1 and 152x2 are "blocks x width".

    Of any batch size the outputs of an example are the same, in training too: there are no batch statistics.

    Taps: ``"stage1"`` ... ``"stage4"``, sums that no norm or ReLU has seen yet; ``pre_relu`` are what the GroupNorm
    behind each gives, ``"map"`` the map that is pooled, after GroupNorm and ReLU.

    Attributes:
      blocks: the number of blocks of each of the four stages.
      classes: number of classes.
      width: factor of all channels.
      groups: of each GroupNorm.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there are not four stages of one block or more.

    References:
      Kolesnikov et al., "Big Transfer (BiT): General Visual Representation Learning", 2019, arXiv:1912.11370.
      Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", 2021, arXiv:2106.05237.
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    classes: int = 1000
    width: int = 1
    groups: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the stages where the model is made, long before it is traced."""
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(f"BiT: blocks are {tuple(self.blocks)}, but four stages need one block or more")
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for; no BatchNorm, so no ``norms``."""
        return {
            "stages": ("stage1", "stage2", "stage3", "stage4"),
            "pre_relu": ("stage2/block1/norm1", "stage3/block1/norm1", "stage4/block1/norm1", "norm"),
            "map_before_pool": ("map",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stem = StandardizedConv(64 * self.width, 7, 2, **dtypes)
        self.stages = [
            PreActivationStage(
                64 * self.width * 2**i, blocks, 1 if i == 0 else 2, self.groups, **dtypes, name=f"stage{i + 1}"
            )
            for i, blocks in enumerate(self.blocks)
        ]
        self.norm = nn.GroupNorm(self.groups, epsilon=1e-5, **dtypes)
        self.classifier = nn.Dense(self.classes, **dtypes)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]; ``train`` changes nothing."""
        # Padded with zeros, not -inf as in other residual networks: here the map has negative values.
        x = jnp.pad(self.stem(image), ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = nn.max_pool(x, (3, 3), (2, 2))
        for stage in self.stages:
            x = stage(x)
        x = nn.relu(self.norm(x))
        self.sow("intermediates", "map", x)
        return self.head(x.mean((1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "bit",
    BiT,
    {"bit_50x1": {"blocks": (3, 4, 6, 3)}, "bit_152x2": {"blocks": (3, 8, 36, 3), "width": 2}},
    image_shape=(224, 224, 3),
    paper="arXiv:1912.11370",
    published={"bit_50x1": 25_549_352, "bit_152x2": 236_335_208},
    classes=1000,
)
