"""MobileNetV2 for 32x32 images."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family
from jaxkd.models._layers import ConvNorm

# Channels at width 1, blocks, strides: the table of the paper, without the stride of the second group.
_GROUPS = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
_LAST = 1280
# The groups that distillation takes for stages, by number.
_STAGES = (2, 3, 5, 7)


class InvertedResidual(nn.Module):
    """Expands the channels, convolves each alone, and projects them without a ReLU; a shortcut where shapes agree."""

    features: int
    expand: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype, param_dtype=self.param_dtype)
        width = x.shape[-1] * self.expand
        y = nn.relu(conv(width, 1, name="expand")(x, train))
        y = nn.relu(conv(width, 3, self.strides, groups=width, name="depthwise")(y, train))
        y = conv(self.features, 1, name="project")(y, train)
        return x + y if self.strides == 1 and x.shape[-1] == self.features else y


class Group(nn.Module):
    """Blocks of one width; the first has the strides."""

    features: int
    blocks: int
    expand: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        for i in range(self.blocks):
            block = InvertedResidual(
                self.features,
                self.expand,
                self.strides if i == 0 else 1,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block{i + 1}",
            )
            x = block(x, train)
        return x


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 of the CIFAR-100 tables of the distillation literature, there at half width.

    The paper's network with ReLU for ReLU6, the stride of 2 left out of the second group, and no dropout: 32x32 images
    end as maps of 2x2. The convolution before the classifier has 1280 channels at any width up to 1.

    Taps: the literature's stages are the groups 2, 3, 5 and 7, ``"group2"`` ..., whose blocks end without a ReLU: the
    same are the roles ``stages`` and ``pre_relu``, and ``norms`` are the last BatchNorms of those. ``"map"`` is the map
    of 1280 channels after its ReLU.

    Attributes:
      width: factor of the channels.
      classes: number of classes.
      expand: factor of the channels within a block; in the first group there is none.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    References:
      Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018,
      arXiv:1801.04381.
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv:1910.10699.
    """

    width: float = 0.5
    classes: int = 10
    expand: int = 6
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``CifarResNet``."""
        stages = tuple(f"group{number}" for number in _STAGES)
        return {
            "stages": stages,
            "pre_relu": stages,
            "norms": tuple(f"group{number}/block{_GROUPS[number - 1][1]}/project/norm" for number in _STAGES),
            "map_before_pool": ("map",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stem = ConvNorm(int(32 * self.width), 3, 2, axis_name=self.axis_name, **dtypes)
        self.groups = [
            Group(
                int(channels * self.width),
                blocks,
                1 if i == 0 else self.expand,
                strides,
                self.axis_name,
                **dtypes,
                name=f"group{i + 1}",
            )
            for i, (channels, blocks, strides) in enumerate(_GROUPS)
        ]
        self.last = ConvNorm(int(_LAST * max(1, self.width)), 1, axis_name=self.axis_name, **dtypes)
        self.classifier = nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), **dtypes)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.relu(self.stem(image, train))
        for group in self.groups:
            x = group(x, train)
        x = nn.relu(self.last(x, train))
        self.sow("intermediates", "map", x)
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "cifar_mobilenet",
    CifarMobileNetV2,
    {"mobilenet_v2_half": {"width": 0.5}},
    image_shape=(32, 32, 3),
    paper="arXiv:1801.04381, for 32x32 images",
    published={"mobilenet_v2_half": 812_836},
)
