"""ShuffleNetV2 for 32x32 images."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family
from jaxkd.models._layers import TORCH_DEFAULT, ConvNorm, shuffle, torch_dense

_STEM = 24


class SplitUnit(nn.Module):
    """Half of the channels passes by, the other is convolved. Gives both before the ReLU and the shuffle of the stage.

    With strides of 2 both halves are convolved, each from all of the input.
    """

    features: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        conv = functools.partial(
            ConvNorm,
            kernel_init=TORCH_DEFAULT,
            axis_name=self.axis_name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        half = self.features // 2
        if self.strides == 1:
            # It comes from a ReLU: that of the stage changes nothing of it.
            left, right = x[..., :half], x[..., half:]
        else:
            left = conv(x.shape[-1], 3, self.strides, groups=x.shape[-1], name="left_depthwise")(x, train)
            left, right = conv(half, 1, name="left_expand")(left, train), x
        right = nn.relu(conv(half, 1, name="reduce")(right, train))
        right = conv(half, 3, self.strides, groups=half, name="depthwise")(right, train)
        return jnp.concatenate([left, conv(half, 1, name="expand")(right, train)], axis=-1)


class SplitStage(nn.Module):
    """Units of one resolution, the first halves the map. Sows ``pre_relu``; its output is after ReLU and shuffle."""

    features: int
    units: int
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / 2, width / 2, features]."""
        for i in range(self.units):
            unit = SplitUnit(
                self.features,
                1 if i else 2,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"unit{i + 1}",
            )
            before = unit(x, train)
            x = shuffle(nn.relu(before), 2)
        self.sow("intermediates", "pre_relu", before)
        return x


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 1x as the CIFAR-100 tables of the distillation literature have it.

    For 32x32 images the stem is a 1x1 convolution, without pooling: the stages have maps of 16x16, 8x8 and 4x4.

    Taps: ``"stage1"``, ``"stage2"``, ``"stage3"`` after ReLU and shuffle; ``"stage1/pre_relu"`` ... before both, of
    which the first half passes the last unit by; ``"map"`` of the last convolution, after its ReLU. Also by role. There
    is no role ``norms``, for no BatchNorm has all channels of a stage.

    Attributes:
      widths: the channels of each of three stages, all even, and of the last convolution.
      classes: number of classes.
      units: of each stage, that which halves the map among them.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there are not three stages of units and a last convolution, or a stage has an odd number of
        channels.

    References:
      Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", 2018,
      arXiv:1807.11164.
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv:1910.10699.
    """

    widths: Sequence[int] = (116, 232, 464, 1024)
    classes: int = 10
    units: Sequence[int] = (4, 8, 4)
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the stages where the model is made, long before it is traced."""
        if len(self.widths) != 4 or len(self.units) != 3 or min(self.units) < 1 or any(w % 2 for w in self.widths[:3]):
            raise ValueError(
                f"ShuffleNetV2: widths is {tuple(self.widths)} and units is {tuple(self.units)}, but there are three "
                "stages of even widths and one unit at least, and a fourth width"
            )
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``CifarResNet``; there is no ``norms``."""
        stages = ("stage1", "stage2", "stage3")
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "map_before_pool": ("map",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(ConvNorm, kernel=1, kernel_init=TORCH_DEFAULT, axis_name=self.axis_name, **dtypes)
        self.stem = conv(_STEM)
        self.stages = [
            SplitStage(width, units, self.axis_name, **dtypes, name=f"stage{i + 1}")
            for i, (width, units) in enumerate(zip(self.widths[:3], self.units, strict=True))
        ]
        self.last = conv(self.widths[-1])
        self.classifier = torch_dense(self.widths[-1], self.classes, **dtypes)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.relu(self.stem(image, train))
        for stage in self.stages:
            x = stage(x, train)
        x = nn.relu(self.last(x, train))
        self.sow("intermediates", "map", x)
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "shufflenet_v2",
    ShuffleNetV2,
    {"shufflenet_v2": {}},
    image_shape=(32, 32, 3),
    paper="arXiv:1807.11164, for 32x32 images",
    published={"shufflenet_v2": 1_355_528},
)
