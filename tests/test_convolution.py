"""Convolutions in other forms, against XLA's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd._convolution import conv, conv_by_matmul

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [((8, 8), 3, 1), ((8, 8), 3, 2), ((7, 5), 3, 2), ((6, 6), 1, 2), ((9, 9), 5, 3)]
)
def test_a_convolution_is_a_matrix_product(size, kernel, stride):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, 3, 4))
    padding = [(kernel // 2, kernel // 2)] * 2
    numbers = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, weights, (stride, stride), padding, dimension_numbers=numbers)
    found = conv_by_matmul(x, weights, (stride, stride), padding, dimension_numbers=numbers, precision=None)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "channels", "features", "groups", "kernel", "stride"),
    [
        ((2, 2), 3, 4, 1, 3, 1),  # the map is smaller than the kernel
        ((4, 3), 3, 4, 1, 3, 2),  # what comes out is
        ((9, 9), 3, 4, 1, 3, 2),
        ((7, 6), 4, 4, 4, 3, 1),
        ((8, 7), 4, 4, 4, 5, 2),
        ((2, 2), 4, 4, 4, 5, 1),
        ((5, 4), 6, 12, 3, 1, 1),
        ((8, 8), 6, 12, 3, 1, 2),
        ((8, 8), 4, 8, 4, 3, 1),
    ],
)
def test_every_form_and_its_gradients_are_those_of_the_convolution(size, channels, features, groups, kernel, stride):
    x = jax.random.normal(jax.random.key(0), (2, *size, channels))
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, channels // groups, features))
    options = {
        "window_strides": (stride, stride),
        "padding": [(kernel // 2, kernel // 2)] * 2,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "feature_group_count": groups,
    }

    def ours(x, weights):
        given = {name: value for name, value in options.items() if name not in ("window_strides", "padding")}
        return conv(x, weights, options["window_strides"], options["padding"], train=True, **given)

    def value_and_gradients(f):
        y, pull = jax.vjp(f, x, weights)
        return y, pull(jnp.cos(y))

    found, expected = jax.jit(
        lambda: (value_and_gradients(ours), value_and_gradients(lambda *a: jax.lax.conv_general_dilated(*a, **options)))
    )()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_16_bit_channels_are_added_up_in_float32():
    """As a convolution does it: 256 + 1 is 256 in bfloat16, and 256 + 1 + 1 is 258."""
    x = jnp.ones((1, 1, 3, 2), jnp.bfloat16)
    weights = jnp.array([[[256.0, 256.0]], [[1.0, 1.0]], [[1.0, 1.0]]], jnp.bfloat16)[None]
    y = jax.jit(lambda x, w: conv(x, w, (1, 1), [(0, 0), (0, 0)], feature_group_count=2, train=True, **LAYOUT))(
        x, weights
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32), 258)


def test_groups_are_a_convolution_unless_they_train_on_a_cpu():
    x, weights = jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1, 4), jnp.float32)

    def lowered(platform, train):
        f = functools.partial(conv, strides=(1, 1), padding=[(1, 1)] * 2, feature_group_count=4, train=train, **LAYOUT)
        text = jax.jit(f).trace(x, weights).lower(lowering_platforms=(platform,)).as_text()
        return "stablehlo.convolution" in text, "stablehlo.while" in text

    assert lowered("cpu", train=True) == (False, True)
    assert lowered("cpu", train=False) == lowered("cuda", train=True) == lowered("tpu", train=True) == (True, False)
