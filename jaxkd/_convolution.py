"""A convolution as a matrix product."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def conv_by_matmul(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> jax.Array:
    """``jax.lax.conv_general_dilated`` as one matrix product with the patches of all positions: NHWC, HWIO, one group.

    The patches take the kernel's area times the memory of ``x``. For maps of a few channels that is the faster form on
    a CPU, and under ``vmap`` it stays a batched product where a convolution becomes a grouped one, which is slow there.
    """
    height, width, _, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (
        (size - window) // stride * stride
        for size, window, stride in zip(x.shape[1:3], kernel.shape, strides, strict=False)
    )
    patches = [
        x[:, i : i + rows + 1 : strides[0], j : j + columns + 1 : strides[1]]
        for i in range(height)
        for j in range(width)
    ]
    matmul = functools.partial(jnp.matmul, precision=options.get("precision"))
    return matmul(jnp.concatenate(patches, -1), kernel.reshape(-1, features))
