"""What holds for all objectives with carried parts, in one learner: one device is eight, padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxkd.learners import distill
from jaxkd.networks import from_linen
from jaxkd.objectives import (
    be_your_own_teacher,
    class_wise_self,
    crd,
    norm_and_direction,
    progressive_self,
    weighted_sum,
)
from jaxkd.training import example_batch, fit, parallel

from .. import small

STEPS = 4  # an epoch is three
DATA = 48
CLASSES_OF_DATA = np.arange(DATA) % 4
CENTERS = np.random.default_rng(0).standard_normal((small.CLASSES, 6)).astype(np.float32)


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3), name="shallow")(x))
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=2, name="deep")(x))
        return nn.Dense(small.CLASSES, name="classifier")(x.mean((1, 2)))


TEACHER = from_linen(Net(6))


def prepared(variables, batch, keys):
    """Padding and noise, and labels such that all pairs are of one class, some of none."""
    batch = small.noisy(variables, batch, keys)
    return {**batch, "label": jnp.where(batch["index"] % 4 == 0, -1, 2)}


def spoilt(variables, batch, keys):
    """The same batch, but for what stands in padded examples."""
    batch = prepared(variables, batch, keys)
    where = batch["where"]
    image = jnp.where(where[:, None, None, None], batch["image"], 1e3)
    index, label = jnp.where(where, batch["index"], 7 * DATA), jnp.where(where, batch["label"], 3)
    return {**batch, "image": image, "index": index, "label": label}


def learner(prepare=prepared, accumulate=1):
    taps = {"student": "classifier:in", "teacher": "classifier:in"}
    objective = weighted_sum(
        crd=(0.1, crd(**taps, labels=CLASSES_OF_DATA, dim=5, negatives=20)),
        queue=(0.1, crd(**taps, dim=5, negatives=24, variant="queue")),
        in_batch=(0.1, crd(**taps, dim=5, variant="in_batch")),
        pskd=(1.0, progressive_self(DATA, 0.5)),
        cskd=(1.0, class_wise_self()),
        nd=(1.0, norm_and_direction(**taps, centers=CENTERS)),
        byot=(1.0, be_your_own_teacher(("shallow",), "deep")),
    )
    return distill(from_linen(Net(4)), TEACHER, objective, optax.sgd(0.1), prepare=prepare, accumulate=accumulate)


@pytest.fixture(scope="module")
def one():
    """The start, and the learner trained on one device."""
    data = small.batches(16, n=DATA)
    frozen = jax.jit(TEACHER.init)(jax.random.key(1), example_batch(data))
    state = jax.jit(learner().init)(jax.random.key(0), frozen, example_batch(data))
    return data, state, frozen, train(learner(), data, state, frozen)


def train(made, data, state, frozen, mode="jit", mesh=None):
    compiled = parallel.compile(made, data, mesh=mesh, mode=mode)
    return fit(made, data, STEPS, state=state, frozen=frozen, compiled=compiled, chunk=STEPS)


def test_training_moves_all_parts_and_no_constants(one):
    _, state, _, trained = one
    for (path, before), after in zip(
        jax.tree_util.tree_leaves_with_path(state.collections["objective"]),
        jax.tree.leaves(trained.state.collections["objective"]),
        strict=True,
    ):
        constant = path[0].key in ("negatives", "centers")
        assert np.array_equal(before, after) == constant, jax.tree_util.keystr(path)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, trained.state.params)
    assert jax.tree.all(moved), moved


@pytest.mark.parametrize("mode", ["shard_map", "pmap"])
def test_one_device_is_eight_whatever_padding_holds(one, mode):
    """Under a mesh alone an objective sees the whole batch, as on one device: that it does is a test of learners."""
    data, state, frozen, alone = one
    trained = train(learner(spoilt), data, state, frozen, mode, parallel.make_mesh())
    small.assert_close(trained.state, alone.state)
    small.assert_close(trained.history, alone.history)


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_micro_batches_carry_what_they_write(one, mode):
    """Traced only: collections that are written keep their types over micro-batches and steps."""
    data, state, frozen, _ = one
    mesh = None if mode == "jit" else parallel.make_mesh(devices=jax.devices()[:4])
    compiled = parallel.compile(learner(accumulate=2), data, mesh=mesh, mode=mode)
    after, _ = jax.eval_shape(compiled.chunk, state, frozen, data.source, data.chunk(0, 2))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
