"""MobileNetV1 and MobileNetV2, for images as large as ImageNet's."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family
from jaxkd.models._inverted_residual import InvertedGroup, LayerOptions, divisible_by_8
from jaxkd.models._layers import ConvNorm


class SeparableGroup(nn.Module):
    """Depthwise 3x3 and pointwise convolutions in turn, each with a ReLU6; sows what the last one sees as ``pre_relu``.

    There are as many pairs as ``blocks``; the first depthwise convolution has the strides.
    """

    features: int
    blocks: int
    strides: int
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype, param_dtype=self.param_dtype)
        for i in range(1, self.blocks + 1):
            channels, strides = x.shape[-1], self.strides if i == 1 else 1
            x = nn.relu6(conv(channels, 3, strides, groups=channels, name=f"depthwise{i}")(x, train))
            before = conv(self.features, 1, name=f"pointwise{i}")(x, train)
            x = nn.relu6(before)
        self.sow("intermediates", "pre_relu", before)
        return x


class MobileNetV1(nn.Module):
    """Depthwise and pointwise convolutions in turn, with ReLU6.

    Taps: ``"group1"`` ... ``"group5"`` after ReLU6, one for each resolution; ``stages`` are the last four, maps of 1/4,
    1/8, 1/16 and 1/32 of the image; ``"group1/pre_relu"`` ... before it; ``"pooled"`` before dropout.

    Attributes:
      classes: number of classes.
      width: factor of all channels, which are rounded to multiples of 8.
      dropout: rate before the classifier, active with ``train=True`` only, from the stream ``"dropout"``.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    References:
      Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017,
      arXiv:1704.04861.
    """

    classes: int = 1000
    width: float = 1.0
    dropout: float = 0.0
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``ImageNetResNet``."""
        stages = ("group2", "group3", "group4", "group5")
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "norms": tuple(f"{s}/pointwise{n}/norm" for s, n in zip(stages, (2, 2, 6, 2), strict=True)),
            "map_before_pool": ("group5",),
            "penultimate": ("pooled",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        options = {"axis_name": self.axis_name, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stem = ConvNorm(divisible_by_8(32 * self.width), 3, 2, **options)
        self.groups = [
            SeparableGroup(divisible_by_8(features * self.width), blocks, strides, **options, name=f"group{i}")
            for i, (features, blocks, strides) in enumerate(
                [(64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2)], 1
            )
        ]
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(self.classes, dtype=self.dtype, param_dtype=self.param_dtype)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.relu6(self.stem(image, train))
        for group in self.groups:
            x = group(x, train)
        x = x.mean((1, 2))
        self.sow("intermediates", "pooled", x)
        return self.head(self.drop(x, deterministic=not train))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


# (expand, features, blocks, strides): table 2 of the paper.
_V2_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """Inverted residuals with ReLU6 inside and none at their end, as torchvision has them.

    Taps: ``"group1"`` ... ``"group7"``, the rows of the paper's table, of which ``stages`` are the last of each
    resolution: maps of 1/4, 1/8, 1/16 and 1/32 of the image. No ReLU follows them: ``pre_relu`` are the same.
    ``"map"`` is the map that is pooled, ``"pooled"`` its mean before dropout.

    Attributes:
      classes: number of classes.
      width: factor of all channels, which are rounded to multiples of 8; the last map's 1280 do not shrink.
      groups: (expand, features, blocks, strides) of each group; seven.
      dropout: rate before the classifier, active with ``train=True`` only, from the stream ``"dropout"``.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    References:
      Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv:1801.04381.
    """

    classes: int = 1000
    width: float = 1.0
    groups: Sequence[tuple[int, int, int, int]] = _V2_GROUPS
    dropout: float = 0.2
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for; ``norms`` are the BatchNorms that end the stages."""
        ends = (2, 3, 5, 7)
        stages = tuple(f"group{i}" for i in ends)
        return {
            "stages": stages,
            "pre_relu": stages,
            "norms": tuple(f"group{i}/block{self.groups[i - 1][2]}/project/norm" for i in ends),
            "map_before_pool": ("map",),
            "penultimate": ("pooled",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        options = LayerOptions(self.axis_name, self.dtype, self.param_dtype)
        self.stem = ConvNorm(divisible_by_8(32 * self.width), 3, 2, **options._asdict())
        self.rows = [
            InvertedGroup(
                divisible_by_8(features * self.width),
                expand,
                3,
                strides,
                nn.relu6,
                (0.0,) * blocks,
                options=options,
                name=f"group{i}",
            )
            for i, (expand, features, blocks, strides) in enumerate(self.groups, 1)
        ]
        self.final = ConvNorm(divisible_by_8(1280 * max(1.0, self.width)), 1, **options._asdict())
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(
            self.classes,
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.relu6(self.stem(image, train))
        for group in self.rows:
            x = group(x, train)
        x = nn.relu6(self.final(x, train))
        self.sow("intermediates", "map", x)
        x = x.mean((1, 2))
        self.sow("intermediates", "pooled", x)
        return self.head(self.drop(x, deterministic=not train))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


V1_FAMILY = Family(
    "mobilenet_v1",
    MobileNetV1,
    {"mobilenet_v1": {}},
    image_shape=(224, 224, 3),
    paper="arXiv:1704.04861",
    published={"mobilenet_v1": 4_231_976},
    classes=1000,
)
V2_FAMILY = Family(
    "mobilenet_v2",
    MobileNetV2,
    {"mobilenet_v2": {}},
    image_shape=(224, 224, 3),
    paper="arXiv:1801.04381",
    published={"mobilenet_v2": 3_504_872},
    classes=1000,
)
