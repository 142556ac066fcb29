"""What the tests of evaluation share: a tiny split of images, and networks whose logits are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import data
from jaxkd.networks import Network, Outputs

CLASSES = 3


@pytest.fixture(scope="package")
def batches():
    """11 images of 2x2 pixels in 3 batches of 4: the last one holds one padded row."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (11, 2, 2, 1), dtype=np.uint8)
    examples = data.from_arrays("noise", "test", image, np.arange(11) % CLASSES, tuple("abc"))
    return data.padded_batches(examples, 4)


@pytest.fixture(scope="package")
def images(batches):
    """The same images as the networks see them, float64 [11, 4]."""
    return np.asarray(batches.examples.decode(batches.examples.arrays)["image"], np.float64).reshape(11, 4)


def linear_network(on_trace=None):
    """Logits are flattened pixels times a kernel; ``on_trace`` gets the images' shape at every trace."""

    def init(key, batch):
        return {"params": {"kernel": jax.random.normal(key, (4, CLASSES))}, "batch_stats": {"mean": jnp.ones(9)}}

    def apply(variables, batch, *, train=False, rng=None, taps=()):
        if on_trace is not None:
            on_trace(batch["image"].shape)
        return Outputs(batch["image"].reshape(-1, 4) @ variables["params"]["kernel"]), {}

    return Network(init, apply)


@pytest.fixture(scope="package")
def linear():
    return linear_network
