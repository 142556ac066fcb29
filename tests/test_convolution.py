"""A convolution as a matrix product, against XLA's."""

import jax
import numpy as np
import pytest

from jaxkd._convolution import conv_by_matmul


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
