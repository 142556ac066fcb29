"""Layers that families share, with the numbers that weights trained elsewhere expect."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from jaxkd._convolution import conv

HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015b, as the literature's code has it: normal (not truncated), by fan-out."""

TORCH_DEFAULT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""What PyTorch draws where nothing else is said: uniform within 1 / sqrt(fan-in)."""

BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
"""PyTorch's: what it calls a momentum of 0.1 is 0.9 here."""


class ConvNorm(nn.Module):
    """A convolution, without bias unless asked for, then BatchNorm. No ReLU."""

    features: int
    kernel: int
    strides: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = HE_FAN_OUT
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5
    conv_general_dilated: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            self.strides,
            # Symmetric, as weights trained elsewhere expect: "SAME" would pad only one side of a strided convolution.
            padding=self.kernel // 2,
            feature_group_count=self.groups,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=self.conv_general_dilated or functools.partial(conv, train=train),
            name="conv",
        )(x)
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="norm",
        )(x)


def torch_dense(inputs: int, features: int, *, dtype: Any, param_dtype: Any) -> nn.Dense:
    """A dense layer of so many inputs, drawn as PyTorch draws it: kernel and bias within 1 / sqrt(inputs)."""

    def bias(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        del out_sharding
        bound = inputs**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, kernel_init=TORCH_DEFAULT, bias_init=bias, dtype=dtype, param_dtype=param_dtype)


def shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deals channels in turn: the first of each group, then the second of each group, and so on."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)
