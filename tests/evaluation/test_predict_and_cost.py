"""Predictions of a whole split, and what a forward pass costs."""

import jax
import numpy as np
import pytest

from jaxkd import data, evaluation
from jaxkd.networks import Outputs

PARAMETERS = 4 * 3


def test_every_example_once_in_order_from_one_program(batches, images, linear):
    traces = []
    network = linear(traces.append)
    variables = network.init(jax.random.key(0), None)
    logits, labels = evaluation.predict_labelled(network, variables, batches)
    np.testing.assert_allclose(logits, images @ variables["params"]["kernel"], rtol=1e-5)
    np.testing.assert_array_equal(labels, np.arange(11) % 3)
    np.testing.assert_array_equal(evaluation.predict(network, variables, batches), logits)
    assert traces == [(4, 2, 2, 1)]


def test_a_set_that_streams(batches, images, linear):
    network = linear()
    variables = network.init(jax.random.key(0), None)
    streamed = data.padded_batches(batches.examples, 4, resident=False)
    expected = evaluation.predict(network, variables, batches)
    np.testing.assert_array_equal(evaluation.predict(network, variables, streamed), expected)


@pytest.mark.parametrize("devices", [2, 3])  # of which 3 do not divide a batch of 4
def test_a_split_that_stays_on_the_devices(batches, images, linear, devices):
    mesh = jax.make_mesh((devices,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices])
    network = linear()
    variables = network.init(jax.random.key(0), None)
    expected = evaluation.predict_labelled(network, variables, batches)
    for placed in (evaluation.on_device(batches), evaluation.on_device(batches, mesh)):
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(placed.source))
        logits, labels = evaluation.predict_labelled(network, variables, placed)
        np.testing.assert_allclose(logits, expected[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(labels, expected[1])
    where = placed.chunk(0, 1)["where"]
    assert {part.data.shape for part in where.addressable_shards} == {(1, 4 // devices if 4 % devices == 0 else 4)}


def test_stacked_variables(batches, images, linear):
    network = linear()
    stacked = jax.vmap(network.init, in_axes=(0, None))(jax.random.split(jax.random.key(0), 2), None)
    mapped = network._replace(apply=lambda v, batch, train: jax.vmap(lambda v: network.apply(v, batch))(v))
    logits = evaluation.predict(mapped, stacked, batches)
    np.testing.assert_allclose(logits, np.einsum("nf,sfc->snc", images, stacked["params"]["kernel"]), rtol=1e-5)


def test_what_cannot_be_predicted(batches, linear):
    network = linear()
    variables = network.init(jax.random.key(0), None)
    heads = network._replace(apply=lambda v, batch, train: (Outputs({"a": batch["image"]}), {}))
    with pytest.raises(ValueError, match=r"logits \{'a': \[4, 2, 2, 1\]\}.*one array"):
        evaluation.predict(heads, variables, batches)


def test_costs_of_a_matrix_product(images, linear):
    network = linear()
    variables = network.init(jax.random.key(0), None)
    batch = {"image": np.float32(images[:5].reshape(5, 2, 2, 1)), "label": np.zeros(5, int)}
    assert evaluation.parameter_count(variables) == PARAMETERS
    compiled = evaluation.compile_forward(network, variables, batch)
    assert evaluation.flops(compiled) == 2 * 5 * PARAMETERS
    # Labels and statistics are not read, so they are no arguments of the program: images, kernel and logits are.
    assert evaluation.memory(compiled) == 4 * (5 * 4 + PARAMETERS + 5 * 3)
    latency = evaluation.latency(compiled, variables, batch, calls=20)
    assert latency.calls == 20
    assert 0 < latency.median <= latency.p95
    assert evaluation.latency(compiled, variables, batch, seconds=0.0).calls == 5


def test_parameters_of_shapes(linear):
    shapes = jax.eval_shape(linear().init, jax.random.key(0), None)
    assert evaluation.parameter_count(shapes) == PARAMETERS
    assert evaluation.parameter_count({}) == 0
