"""Predictions of a whole split, and what a forward pass costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import evaluation
from jaxkd.networks import Network, Outputs

FEATURES, CLASSES = 6, 3


class Split:
    """The examples of a split in batches of one size, the last one padded."""

    def __init__(self, images, labels, batch_size):
        self.source = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
        self.steps = -(-len(images) // batch_size)
        self.size, self.batch_size = len(images), batch_size

    def chunk(self, start, length):
        rows = np.arange(start * self.batch_size, (start + length) * self.batch_size).reshape(length, -1)
        return {"index": np.where(rows < self.size, rows, 0), "where": rows < self.size}

    def fetch(self, source, x):
        return {**jax.tree.map(lambda array: array[x["index"]], source), **x}


def linear(traces=None):
    def init(key, batch):
        return {"params": {"kernel": jax.random.normal(key, (FEATURES, CLASSES))}, "batch_stats": {"mean": jnp.ones(9)}}

    def apply(variables, batch, *, train=False, rng=None, taps=()):
        if traces is not None:
            traces.append(batch["image"].shape)
        return Outputs(batch["image"] @ variables["params"]["kernel"]), {}

    return Network(init, apply)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(11, FEATURES)).astype(np.float32)


def test_every_example_once_in_order_from_one_program(images):
    traces = []
    network, labels = linear(traces), np.arange(11) % CLASSES
    split = Split(images, labels, 4)
    variables = network.init(jax.random.key(0), None)
    logits, got = evaluation.predict_labelled(network, variables, split)
    np.testing.assert_allclose(logits, images @ variables["params"]["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(got, labels)
    np.testing.assert_array_equal(evaluation.predict(network, variables, split), logits)
    assert traces == [(4, FEATURES)]


def test_stacked_variables(images):
    network = linear()
    stacked = jax.vmap(network.init, in_axes=(0, None))(jax.random.split(jax.random.key(0), 2), None)
    mapped = network._replace(apply=lambda v, batch, train: jax.vmap(lambda v: network.apply(v, batch))(v))
    logits = evaluation.predict(mapped, stacked, Split(images, np.zeros(11, int), 4))
    assert logits.shape == (2, 11, CLASSES)
    np.testing.assert_allclose(logits, np.einsum("nf,sfc->snc", images, stacked["params"]["kernel"]), rtol=1e-5)


def test_what_cannot_be_predicted(images):
    network = linear()
    variables = network.init(jax.random.key(0), None)
    with pytest.raises(ValueError, match="no example"):
        evaluation.predict(network, variables, Split(images[:0], np.zeros(0, int), 4))
    heads = network._replace(apply=lambda v, batch, train: (Outputs({"a": batch["image"]}), {}))
    with pytest.raises(ValueError, match=r"logits \{'a': \[4, 6\]\}.*one array"):
        evaluation.predict(heads, variables, Split(images, np.zeros(11, int), 4))


def test_costs_of_a_matrix_product(images):
    network = linear()
    variables = network.init(jax.random.key(0), None)
    batch = {"image": images[:4], "label": np.zeros(4, int)}
    assert evaluation.parameter_count(variables) == FEATURES * CLASSES
    compiled = evaluation.compile_forward(network, variables, batch)
    assert evaluation.flops(compiled) == 2 * 4 * FEATURES * CLASSES
    # Labels and statistics are not read, so they are no arguments of the program.
    assert evaluation.memory(compiled) == 4 * (4 * FEATURES + FEATURES * CLASSES + 4 * CLASSES)
    latency = evaluation.latency(compiled, variables, batch, calls=20)
    assert latency.calls == 20
    assert 0 < latency.median <= latency.p95
    assert evaluation.latency(compiled, variables, batch, seconds=0.0).calls == 5


def test_parameters_of_shapes():
    shapes = jax.eval_shape(linear().init, jax.random.key(0), None)
    assert evaluation.parameter_count(shapes) == FEATURES * CLASSES
    assert evaluation.parameter_count({}) == 0
