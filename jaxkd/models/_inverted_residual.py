"""Inverted residuals, of which MobileNetV2 and EfficientNet are made."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._layers import ConvNorm


class LayerOptions(NamedTuple):
    """What every `ConvNorm` of a network is told alike.

    Attributes:
      axis_name: mapped axis to average BatchNorm's batch statistics over.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.
      momentum: how much of the running statistics a step keeps.
      epsilon: added to the variance.
    """

    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in (0, 1) that two dense layers compute from the means of all channels."""

    width: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Gives the scaled map, of the shape of ``x`` [batch, height, width, channels]."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        gate = nn.silu(dense(self.width, name="squeeze")(x.mean((1, 2), keepdims=True)))
        return x * nn.sigmoid(dense(x.shape[-1], name="excite")(gate))


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two 1x1 convolutions, the last without activation; a residual if it fits.

    Attributes:
      features: output channels.
      expand: factor of the input's channels between the 1x1 convolutions; 1: the first of them is left out.
      kernel: side of the depthwise convolution.
      strides: of the depthwise convolution.
      activation: after the first 1x1 and the depthwise convolution.
      squeeze: whether the depthwise map is scaled by squeeze-and-excitation of a quarter of the input's channels.
      drop_path: rate at which an example skips the block in training, where there is a residual.
      options: of the convolutions.
    """

    features: int
    expand: int
    kernel: int
    strides: int
    activation: Callable[[jax.Array], jax.Array]
    squeeze: bool = False
    drop_path: float = 0.0
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        entering, channels = x, x.shape[-1]
        conv = functools.partial(ConvNorm, **self.options._asdict())
        inner = channels * self.expand
        if self.expand != 1:
            x = self.activation(conv(inner, 1, name="expand")(x, train))
        x = conv(inner, self.kernel, self.strides, groups=inner, name="depthwise")(x, train)
        x = self.activation(x)
        if self.squeeze:
            dtypes = {"dtype": self.options.dtype, "param_dtype": self.options.param_dtype}
            x = SqueezeExcite(max(1, channels // 4), **dtypes, name="gate")(x)
        x = conv(self.features, 1, name="project")(x, train)
        if self.strides != 1 or channels != self.features:
            return x
        skip = nn.Dropout(self.drop_path, broadcast_dims=(1, 2, 3), name="drop_path")
        return entering + skip(x, deterministic=not train)


class InvertedGroup(nn.Module):
    """As many inverted residuals as ``drop_paths`` has rates; the first has the strides."""

    features: int
    expand: int
    kernel: int
    strides: int
    activation: Callable[[jax.Array], jax.Array]
    drop_paths: Sequence[float]
    squeeze: bool = False
    options: LayerOptions = LayerOptions()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        for i, drop_path in enumerate(self.drop_paths):
            block = InvertedResidual(
                self.features,
                self.expand,
                self.kernel,
                self.strides if i == 0 else 1,
                self.activation,
                self.squeeze,
                drop_path,
                self.options,
                name=f"block{i + 1}",
            )
            x = block(x, train)
        return x


def divisible_by_8(channels: float) -> int:
    """Rounds a number of channels to a multiple of 8, but by no more than a tenth downwards."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
