"""Convolutions in the form that a CPU is fast at: NHWC, HWIO, no dilation."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    train: bool = False,
    **options: Any,
) -> jax.Array:
    """``jax.lax.conv_general_dilated``, except where XLA leaves it to plain loops on a CPU, 10 to 100 times as slow.

    That is, of one group, a kernel larger than the map that it reads or (for the gradient) than the map that it makes:
    there it is a matrix product, on every platform, as these maps are tiny. And it is groups: in training, and on a CPU
    alone, single channels are sums of products, and groups at single positions are batched matrix products. Without
    ``train`` groups stay a convolution, which is what an exported program should have.
    """
    groups = feature_group_count

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, feature_group_count=groups, **options)

    if groups == 1:
        sides = zip(x.shape[1:3], kernel.shape, strides, padding, strict=False)
        small = any(min(side, (side + sum(pad) - size) // stride + 1) < size for side, size, stride, pad in sides)
        return conv_by_matmul(x, kernel, strides, padding, **options) if small else plain(x, kernel)
    if train and kernel.shape[2] == 1 and kernel.shape[3] == groups:
        on_cpu = functools.partial(_conv_of_channels, strides=strides, padding=padding)
    elif train and kernel.shape[:2] == (1, 1) and tuple(strides) == (1, 1):
        on_cpu = functools.partial(_conv_of_positions, groups=groups, precision=options.get("precision"))
    else:
        return plain(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)


def conv_by_matmul(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    """``jax.lax.conv_general_dilated`` as one matrix product with the patches of all positions: NHWC, HWIO, one group.

    The patches take the kernel's area times the memory of ``x``. For maps of a few channels that is the faster form on
    a CPU, and under ``vmap`` it stays a batched product where a convolution becomes a grouped one, which is slow there.
    """
    height, width, _, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = _reach(x, kernel, strides)
    patches = [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]] for i in range(height) for j in range(width)
    ]
    matmul = functools.partial(jnp.matmul, precision=options.get("precision"))
    return matmul(jnp.concatenate(patches, -1), kernel.reshape(-1, features))


def _conv_of_channels(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]]
) -> jax.Array:
    """A kernel for each channel: over the kernel's positions the sum of the shifted map times a weight a channel.

    A loop, which compiles in half the time of a sum that is written out; its body is computed anew for the gradient, or
    it would keep the map once for each position.
    """
    height, width, _, features = kernel.shape
    # A convolution adds up 16-bit products in float32, too.
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = _reach(padded, kernel, strides)

    def product(position: jax.Array, weights: jax.Array) -> jax.Array:
        i, j = position // width, position % width
        shifted = jax.lax.dynamic_slice(padded, (0, i, j, 0), (len(x), rows, columns, features))
        return shifted[:, :: strides[0], :: strides[1]].astype(dtype) * weights

    @jax.checkpoint
    def add(total: jax.Array, position_and_weights: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + product(*position_and_weights), None

    positions, weights = jnp.arange(height * width), kernel.reshape(-1, features).astype(dtype)
    total, _ = jax.lax.scan(add, product(positions[0], weights[0]), (positions[1:], weights[1:]))
    return total.astype(x.dtype)


def _conv_of_positions(x: jax.Array, kernel: jax.Array, groups: int, precision: Any) -> jax.Array:
    """A 1x1 kernel of groups: a matrix product for each."""
    _, _, inputs, features = kernel.shape
    weights = kernel.reshape(inputs, groups, features // groups)
    product = jnp.einsum("bhwgi,igo->bhwgo", x.reshape(*x.shape[:3], groups, inputs), weights, precision=precision)
    return product.reshape(*x.shape[:3], features)


def _reach(padded: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> list[int]:
    """How many rows and columns there are from the first position of the kernel's corner to its last."""
    sides = zip(padded.shape[1:3], kernel.shape, strides, strict=False)
    return [(side - size) // stride * stride + 1 for side, size, stride in sides]
