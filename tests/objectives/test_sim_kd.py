"""SimKD: what is trained, and that what is deployed is the student, the projector and the teacher's classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import learners, networks, objectives
from jaxkd.networks import Outputs

BATCH, SIZE, CHANNELS, CLASSES = 4, 4, 6, 3


def network(width, pool):
    """A convolution of size 1, its map averaged over 2x2 (or not), a classifier of the map's average."""

    def init(key, batch):
        keys = jax.random.split(key)
        return {
            "params": {
                "trunk": jax.random.normal(keys[0], (1, width)),
                "classifier": {"kernel": jax.random.normal(keys[1], (width, CLASSES)), "bias": jnp.ones(CLASSES)},
            }
        }

    def head(variables, features):
        return features @ variables["params"]["classifier"]["kernel"] + variables["params"]["classifier"]["bias"]

    def apply(variables, batch, *, train=False, rng=None, taps=()):
        x = jnp.tanh(batch["image"] @ variables["params"]["trunk"])
        if pool:
            x = x.reshape(len(x), SIZE // 2, 2, SIZE // 2, 2, width).mean((2, 4))
        return Outputs(head(variables, x.mean((1, 2))), {name: x for name in taps}), {}

    return networks.Network(init, apply, {"map_before_pool": ("map",)}, head)


STUDENT, TEACHER = network(2, pool=False), network(CHANNELS, pool=True)
DATA = {
    "image": np.random.default_rng(0).standard_normal((BATCH, SIZE, SIZE, 1)).astype(np.float32),
    "where": np.array([True, True, True, False]),
}


def objective(**parameters):
    return objectives.sim_kd("map", "map", head=TEACHER.head, **parameters)


@pytest.fixture(scope="module")
def trained():
    frozen = TEACHER.init(jax.random.key(0), DATA)
    learner = learners.distill(STUDENT, TEACHER, objective(), optax.sgd(0.1))
    state = learner.init(jax.random.key(1), frozen, DATA)
    step = jax.jit(learner.step)
    states, losses = [state], []
    for _ in range(3):
        state, metrics = step(state, frozen, DATA)
        states.append(state)
        losses.append(float(metrics["loss"]))
    return learner, frozen, states, losses


def reference(own, maps, statistics=None):
    """The projector in float64; without statistics by those of the first three examples, which it also gives."""
    used = {}
    for name in ("layer0", "layer1", "layer2"):
        kernel, norm = (own["params"][name][part] for part in ("conv", "norm"))
        kernel = np.asarray(kernel["kernel"], np.float64)
        if kernel.ndim == 2:
            maps = np.einsum("nhwi,io->nhwo", maps, kernel)
        else:
            padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
            out = np.zeros((*maps.shape[:3], kernel.shape[-1]))
            for y, x in np.ndindex(maps.shape[1:3]):
                out[:, y, x] = np.einsum("nabi,abio->no", padded[:, y : y + 3, x : x + 3], kernel)
            maps = out
        if statistics is None:
            mean, var = maps[:3].mean((0, 1, 2)), maps[:3].var((0, 1, 2))
            count = maps[:3, ..., 0].size
            used[name] = {"mean": mean, "var": var * count / (count - 1)}
        else:
            mean, var = (np.asarray(statistics[name][key], np.float64) for key in ("mean", "var"))
        maps = np.maximum((maps - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"], 0)
    return maps, used


def maps_of(net, variables):
    return np.asarray(net.apply(variables, DATA, taps=("map",))[0].taps["map"], np.float64)


def test_loss_and_running_statistics(trained):
    _, frozen, states, losses = trained
    before, after = states[0], states[1]
    own = {"params": before.params["objective"], **before.collections["objective"]}
    student = maps_of(STUDENT, {"params": before.params["student"]}).reshape(BATCH, 2, 2, 2, 2, 2).mean((2, 4))
    projected, used = reference(own, student)
    np.testing.assert_allclose(losses[0], np.mean((projected - maps_of(TEACHER, frozen))[:3] ** 2), rtol=1e-5)
    for name, statistics in used.items():
        for key, value in statistics.items():
            expected = 0.9 * np.asarray(own["batch_stats"][name][key]) + 0.1 * value
            np.testing.assert_allclose(after.collections["objective"]["batch_stats"][name][key], expected, rtol=1e-5)
    assert losses[-1] < losses[0]


def test_deployed_network_is_student_projector_and_the_teachers_classifier(trained):
    learner, frozen, states, _ = trained
    state = states[-1]
    variables = learner.deploy(state, frozen)
    assert set(variables["params"]) == {"student", "projector", "teacher"}
    assert set(variables["params"]["teacher"]) == {"classifier"}, "the teacher's trunk stays behind"
    logits = learner.network.apply(variables, DATA)[0].logits
    own = {"params": state.params["objective"]}
    student = maps_of(STUDENT, {"params": state.params["student"]})
    features, _ = reference(own, student, state.collections["objective"]["batch_stats"])
    classifier = frozen["params"]["classifier"]
    expected = features.mean((1, 2)) @ np.asarray(classifier["kernel"], np.float64) + classifier["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="train it with its learner"):
        learner.network.apply(variables, DATA, train=True)


def test_deploys_through_what_combines_learners_and_objectives(trained):
    _, frozen, _, _ = trained
    both = objectives.weighted_sum(sim=(1.0, objective()), hint=(0.0, objectives.hint("map", "map")))
    learner = learners.seeds(learners.ema(learners.distill(STUDENT, TEACHER, both, optax.sgd(0.1))), 2)
    state = learner.init(jax.random.key(1), frozen, DATA)
    state, _ = jax.eval_shape(learner.step, state, frozen, DATA)
    logits = jax.eval_shape(lambda: learner.network.apply(learner.deploy(state, frozen), DATA)[0].logits)
    assert logits.shape == (2, BATCH, CLASSES)
    with pytest.raises(ValueError, match="a and b each deploy"):
        objectives.weighted_sum(a=(1.0, objective()), b=(1.0, objective()))


def test_what_does_not_fit_is_told():
    frozen = TEACHER.init(jax.random.key(0), DATA)
    with pytest.raises(ValueError, match=r"has 6 channels, which factor=4 does not divide"):
        learners.distill(STUDENT, TEACHER, objective(factor=4), optax.sgd(0.1)).init(jax.random.key(0), frozen, DATA)
    with pytest.raises(ValueError, match="pass head="):
        objectives.sim_kd("map", "map", head=None)
    other = objectives.sim_kd("map", "map", head=lambda variables, x: x @ jnp.ones((5, 2)))
    with pytest.raises(ValueError, match=r'features \[4,6\].*"map" \[4,2,2,6\].*channels are the last axis.*\(5,'):
        learners.distill(STUDENT, TEACHER, other, optax.sgd(0.1)).init(jax.random.key(0), frozen, DATA)
    greedy = objectives.sim_kd("map", "map", head=lambda v, x: (v["params"]["trunk"], TEACHER.head(v, x))[1])
    with pytest.raises(ValueError, match=r"takes them apart itself.*trunk"):
        learners.distill(STUDENT, TEACHER, greedy, optax.sgd(0.1)).init(jax.random.key(0), frozen, DATA)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint])
def test_classifier_in_a_program_of_its_own_leaves_the_trunk_behind_too(wrap):
    def head(variables, features):
        unused = variables["params"].get("trunk", 0) * 2
        return (TEACHER.head(variables, features), unused)[0]

    frozen = TEACHER.init(jax.random.key(0), DATA)
    one = objectives.sim_kd("map", "map", head=wrap(head))
    learner = learners.distill(STUDENT, TEACHER, one, optax.sgd(0.1))
    variables = learner.deploy(learner.init(jax.random.key(1), frozen, DATA), frozen)
    assert set(variables["params"]["teacher"]) == {"classifier"}
    assert learner.network.apply(variables, DATA)[0].logits.shape == (BATCH, CLASSES)
