"""What holds for all objectives with trained parts, in one learner: one device is eight, padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxkd.learners import distill
from jaxkd.networks import from_linen
from jaxkd.objectives import (
    correlation_congruence,
    curriculum_temperature,
    factor_transfer,
    masked_generative,
    orthogonal_projection,
    overhaul,
    review,
    semantic_calibration,
    srrl,
    vid,
    weighted_sum,
)
from jaxkd.training import example_batch, fit, parallel

from .. import small

STEPS = 3


class Net(nn.Module):
    width: int

    def setup(self):
        self.conv = nn.Conv(self.width, (3, 3))
        self.norm = nn.BatchNorm(use_running_average=True)
        self.classifier = nn.Dense(small.CLASSES)

    def __call__(self, x, train=False):
        return self.head(nn.relu(self.norm(self.conv(x))).mean((1, 2)))

    def head(self, features):
        return self.classifier(features)


TEACHER = from_linen(Net(6))


def learner(prepare=small.noisy, only=None):
    parts = {
        "srrl": (1.0, srrl("norm", "norm", head=TEACHER.head)),
        "vkd": (1.0, orthogonal_projection("norm", "norm")),
        "mgd": (1e-2, masked_generative("norm", "norm")),
        # A range in which three steps are seen in theta: at high temperatures T^2 KL hardly depends on T.
        "ctkd": (1.0, curriculum_temperature(2, start=0.1, end=0.5)),
        "semckd": (0.3, semantic_calibration("norm", ("conv", "norm"))),
        "vid": (1.0, vid("norm", "norm")),
        "ft": (1.0, factor_transfer("norm", "norm")),
        "cc": (1e-2, correlation_congruence("classifier:in", "classifier:in", width=8)),
        "ofd": (1e-3, overhaul("norm", "norm", norms="norm")),
        "review": (1.0, review(("norm", "classifier:in"), ("norm", "classifier:in"))),
    }
    objective = weighted_sum(**{name: parts[name] for name in only or parts})
    return distill(from_linen(Net(4)), TEACHER, objective, optax.sgd(1e-2), prepare=prepare)


def train(made, given, mode="jit", mesh=None):
    data, frozen, state = given
    compiled = parallel.compile(made, data, mesh=mesh, mode=mode)
    return fit(made, data, STEPS, state=state, frozen=frozen, compiled=compiled, chunk=STEPS)


def started(made, frozen, data):
    # init looks at the teacher's variables: they are no argument of the compiled function.
    return jax.jit(lambda key: made.init(key, frozen, example_batch(data)))(jax.random.key(0))


@pytest.fixture(scope="module")
def given():
    data = small.batches()
    frozen = jax.jit(TEACHER.init)(jax.random.key(1), example_batch(data))
    return data, frozen, started(learner(), frozen, data)


@pytest.fixture(scope="module")
def one(given):
    return train(learner(), given)


def test_all_of_it_trains(given, one):
    before, after = given[2].params["objective"], one.state.params["objective"]
    assert set(before) == {"srrl", "vkd", "mgd", "ctkd", "semckd", "vid", "ft", "cc", "ofd", "review"}
    still = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
        if not np.any(a != b)
    ]
    assert not still
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), one.history))


def test_no_type_is_weak(given):
    """The first step would make a strong one of it, and the second be compiled anew."""
    leaves = jax.tree_util.tree_leaves_with_path(given[2])
    assert not [jax.tree_util.keystr(path) for path, leaf in leaves if getattr(leaf, "weak_type", False)]


def spoilt(variables, batch, keys):
    """The same batch, but for what stands in padded examples."""
    batch = small.noisy(variables, batch, keys)
    return {**batch, "image": jnp.where(batch["where"][:, None, None, None], batch["image"], 100.0)}


def test_one_device_is_eight_whatever_padding_holds(given, one):
    trained = train(learner(spoilt), given, "shard_map", parallel.make_mesh())
    small.assert_close(trained.state, one.state)
    small.assert_close(trained.history, one.history)


def test_what_talks_across_devices_does_under_pmap(given):
    """SemCKD has both ways to do it: BatchNorm's sums, and a gather that gradients go through."""
    data, frozen, _ = given
    talking = ("semckd",)
    made = learner(only=talking)
    start = data, frozen, started(made, frozen, data)
    alone = train(made, start)
    mapped = train(learner(spoilt, talking), start, "pmap", parallel.make_mesh())
    small.assert_close(mapped.state, alone.state)
    small.assert_close(mapped.history, alone.history)
