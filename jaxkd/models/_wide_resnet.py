"""Wide residual networks for 32x32 images."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd._convolution import conv as convolution
from jaxkd.models._family import Family
from jaxkd.models._layers import HE_FAN_OUT, TORCH_DEFAULT, BatchNorm


class PreactBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions, beside a shortcut. No ReLU after the sum."""

    features: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = functools.partial(BatchNorm, use_running_average=not train, axis_name=self.axis_name, **dtypes)
        conv = functools.partial(
            nn.Conv,
            self.features,
            use_bias=False,
            kernel_init=HE_FAN_OUT,
            conv_general_dilated=convolution,
            **dtypes,
        )
        shortcut = x
        x = nn.relu(norm(name="norm1")(x))
        if shortcut.shape[-1] != self.features:
            # Of what the ReLU gives, unlike the shortcut that changes nothing.
            shortcut = conv((1, 1), self.strides, padding=0, name="shortcut")(x)
        x = conv((3, 3), self.strides, padding=1, name="conv1")(x)
        x = nn.relu(norm(name="norm2")(x))
        return conv((3, 3), padding=1, name="conv2")(x) + shortcut


class PreactStage(nn.Module):
    """Blocks of one resolution. Gives their last sum, which the next BatchNorm reads."""

    features: int
    blocks: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        for i in range(self.blocks):
            block = PreactBlock(
                self.features,
                self.strides if i == 0 else 1,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block{i + 1}",
            )
            x = block(x, train)
        return x


class WideResNet(nn.Module):
    """WRN-depth-widen: pre-activation blocks in three stages of 16, 32 and 64 times ``widen`` channels, no dropout.

    Taps: ``"stage1"``, ``"stage2"``, ``"stage3"`` are the sums that stages end with, as the distillation literature
    takes them: neither BatchNorm nor ReLU has followed. What the next ReLU sees of them (``pre_relu``) is the output of
    the BatchNorm that follows, the first of the next stage or ``"norm"``; ``"map"`` is after the last ReLU. Also by
    role.

    Attributes:
      depth: 6n + 4 for n blocks a stage: 16, 22, 28, 40.
      classes: number of classes.
      widen: factor of the stages' channels.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if the depth is not 6n + 4.

    References:
      Zagoruyko, Komodakis, "Wide Residual Networks", 2016, arXiv:1605.07146.
    """

    depth: int = 16
    classes: int = 10
    widen: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the depth where the model is made, long before it is traced."""
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"WideResNet: depth is {self.depth}, but must be 6n + 4: 10, 16, 22, 28, 34, 40 ...")
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for: ``stages``, ``pre_relu``, ``norms`` (those that give it) and more."""
        following = ("stage2/block1/norm1", "stage3/block1/norm1", "norm")
        return {
            "stages": ("stage1", "stage2", "stage3"),
            "pre_relu": following,
            "norms": following,
            "map_before_pool": ("map",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        stage = functools.partial(PreactStage, blocks=(self.depth - 4) // 6, axis_name=self.axis_name, **dtypes)
        self.stem = nn.Conv(16, (3, 3), padding=1, use_bias=False, kernel_init=HE_FAN_OUT, **dtypes)
        self.stage1 = stage(16 * self.widen)
        self.stage2 = stage(32 * self.widen, strides=2)
        self.stage3 = stage(64 * self.widen, strides=2)
        self.norm = BatchNorm(axis_name=self.axis_name, **dtypes)
        self.classifier = nn.Dense(self.classes, kernel_init=TORCH_DEFAULT, **dtypes)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = self.stem(image)
        for stage in (self.stage1, self.stage2, self.stage3):
            x = stage(x, train)
        x = nn.relu(self.norm(x, use_running_average=not train))
        self.sow("intermediates", "map", x)
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "wide_resnet",
    WideResNet,
    {f"wrn_{depth}_{widen}": {"depth": depth, "widen": widen} for depth in (16, 40) for widen in (1, 2)},
    image_shape=(32, 32, 3),
    paper="arXiv:1605.07146",
    published={"wrn_16_1": 180_916, "wrn_16_2": 703_284, "wrn_40_1": 569_780, "wrn_40_2": 2_255_156},
)
