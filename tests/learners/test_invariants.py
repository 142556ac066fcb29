"""What holds for every learner, wherever it runs: one device is eight, one batch is four, nothing frozen changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxkd.learners import distill, ema, seeds, sweep
from jaxkd.networks import from_nnx
from jaxkd.objectives import hard_label, hint, soft_label, weighted_sum
from jaxkd.training import example_batch, fit, parallel

from .. import small

KEY = jax.random.key(0)
STEPS = 20
EVERY_MODE = ("jit", "shard_map", "pmap")
MEANS = {"hard": (0.3, hard_label()), "soft": (0.7, soft_label(4.0))}


def train(learner, data, state, frozen, mode="jit", mesh=None, steps=STEPS):
    """All steps in one chunk, on one device or on a mesh."""
    compiled = parallel.compile(learner, data, mesh=mesh, mode=mode)
    return fit(learner, data, steps, state=state, frozen=frozen, compiled=compiled, chunk=steps)


@functools.cache
def eight():
    return parallel.make_mesh()


@pytest.fixture(scope="module", params=["linen", "nnx"])
def convolutions(request):
    """Of a library: BatchNorm, a connector, a relational term, padding and missing labels, trained on one device."""
    teacher = small.conv(request.param)

    def learner(axis_name=None):
        objective = weighted_sum(**MEANS, hint=(0.5, hint("norm", "norm", "conv")), gram=(0.05, small.similarity()))
        student = small.conv(request.param, axis_name)
        return distill(student, teacher, objective, optax.adam(1e-2), prepare=small.noisy)

    data = small.batches()
    frozen = jax.jit(teacher.init)(jax.random.key(1), example_batch(data))
    state = jax.jit(learner("data").init)(KEY, frozen, example_batch(data))
    return learner, data, state, frozen, train(learner(), data, state, frozen)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_one_device_is_eight(convolutions, mode):
    learner, data, state, frozen, one = convolutions
    counts = (data.chunk(0, 1)["index"].reshape(8, 2) % 3 != 0).sum(1)
    assert len(set(counts)) > 1  # a mean of the devices' means would not do
    before = jax.tree.map(np.array, frozen)
    trained = train(learner(None if mode == "jit" else "data"), data, state, frozen, mode, eight())
    small.assert_close(trained.state, one.state)
    small.assert_close(trained.history, one.history)
    small.assert_same_bits(before, jax.tree.map(np.array, frozen))


def averaged(make):
    return ema(make(4.0), 0.9)


def same_data(make):
    return seeds(make(4.0), 2)


def own_data(make):
    return seeds(make(4.0), 2, data="own")


def temperatures(make):
    return sweep(lambda point: make(point["temperature"]), {"temperature": np.array([1.0, 4.0], np.float32)})


@pytest.fixture(scope="module", params=[averaged, same_data, own_data, temperatures], ids=lambda f: f.__name__)
def combined(request):
    """Learners that a combinator has made of one with BatchNorm, trained on one device."""
    teacher = small.mlp()

    def learner(axis_name=None):
        def make(temperature):
            objective = weighted_sum(hard=(0.3, hard_label()), soft=(0.7, soft_label(temperature)))
            return distill(small.conv("linen", axis_name), teacher, objective, optax.sgd(0.1), prepare=small.noisy)

        return request.param(make)

    data = small.batches()
    frozen = jax.jit(teacher.init)(jax.random.key(1), example_batch(data))
    data = data.stack(2) if request.param is own_data else data
    state = jax.jit(learner("data").init)(KEY, frozen, example_batch(data))
    return learner, data, state, frozen, train(learner(), data, state, frozen, steps=10)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_one_device_is_eight_for_what_combines_learners(combined, mode):
    learner, data, state, frozen, one = combined
    trained = train(learner(None if mode == "jit" else "data"), data, state, frozen, mode, eight(), steps=10)
    small.assert_close(trained.state, one.state)
    small.assert_close(trained.history, one.history)


def test_training_did_something(convolutions):
    _, _, state, _, one = convolutions
    assert one.history["loss"][-5:].mean() < one.history["loss"][:5].mean()
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, one.state.params)
    assert jax.tree.all(moved)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.any(a != b)), state.collections, one.state.collections))


@pytest.mark.parametrize("library", ["linen", "nnx", "dropout"])
def test_teacher_is_in_inference_mode(library):
    teacher = small.mlp(8, dropout=0.5) if library == "dropout" else small.conv(library)
    student = small.mlp()
    learner = distill(student, teacher, soft_label(2.0), optax.sgd(0.1))
    batch = example_batch(small.batches())
    frozen = jax.jit(teacher.init)(jax.random.key(1), batch)
    state = jax.jit(learner.init)(KEY, frozen, batch)
    _, metrics = jax.jit(learner.step)(state, frozen, batch)
    logits = (
        network.apply(variables, batch, train=False)[0].logits
        for network, variables in ((student, learner.deploy(state, frozen)), (teacher, frozen))
    )
    q, p = (np.exp(x / 2.0) / np.exp(x / 2.0).sum(-1, keepdims=True) for x in map(np.float64, logits))
    np.testing.assert_allclose(metrics["soft_label"], 4 * (p * np.log(p / q)).sum(-1).mean(), rtol=1e-4)


@pytest.fixture(scope="module")
def perceptrons():
    """Terms that are means over examples, no BatchNorm: what may be accumulated. Parameters large enough to shard."""
    teacher = small.mlp(64)

    def learner(accumulate=1):
        objective = weighted_sum(**MEANS, hint=(0.5, hint("penultimate", "hidden_0:in", "dense")))
        optimizer = optax.adam(1e-2)
        return distill(small.mlp(64), teacher, objective, optimizer, prepare=small.noisy, accumulate=accumulate)

    data = small.batches(32, size=8)
    frozen = jax.jit(teacher.init)(jax.random.key(1), example_batch(data))
    state = jax.jit(learner().init)(KEY, frozen, example_batch(data))
    return learner, data, state, frozen, train(learner(), data, state, frozen)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_one_batch_is_four(perceptrons, mode):
    learner, data, state, frozen, whole = perceptrons
    mesh = None if mode == "jit" else eight()
    accumulated = train(learner(accumulate=4), data, state, frozen, mode, mesh)
    small.assert_close(accumulated.state, whole.state)
    small.assert_close(accumulated.history, whole.history)


class NnxPerceptron(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(16, 8, rngs=rngs)
        self.classifier = nnx.Linear(8, small.CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.classifier(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def test_one_batch_is_four_with_nnx():
    def learner(accumulate):
        networks = from_nnx(NnxPerceptron), from_nnx(NnxPerceptron)
        return distill(*networks, weighted_sum(**MEANS), optax.adam(1e-2), prepare=small.noisy, accumulate=accumulate)

    data = small.batches()
    frozen = jax.jit(from_nnx(NnxPerceptron).init)(jax.random.key(1), example_batch(data))
    state = jax.jit(learner(1).init)(KEY, frozen, example_batch(data))
    whole, accumulated = (train(learner(n), data, state, frozen, steps=10) for n in (1, 4))
    small.assert_close(accumulated.state, whole.state)
    small.assert_close(accumulated.history, whole.history)


def test_parameters_optimizer_and_teacher_are_sharded(perceptrons):
    learner, data, state, frozen, one = perceptrons
    mesh = parallel.make_mesh(data=2, fsdp=4)
    compiled = parallel.compile(learner(), data, mesh=mesh)
    put = compiled.put((state, frozen))
    before = jax.tree.map(lambda x: x.sharding, put[0])
    source, xs = compiled.put_source(data.source), compiled.put_chunk(data.chunk(0, STEPS))
    trained, metrics = compiled.chunk(*put, source, xs)
    small.assert_close(trained, one.state)
    small.assert_close(jax.device_get(metrics), one.history)
    # Laid out as before: the next chunk is the same program.
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), trained, before))
    for tree in (trained.params["student"], trained.params["objective"], trained.opt_state, put[1]):
        large = [x for x in jax.tree.leaves(tree) if x.size >= 64 * 64]
        assert large
        for x in large:
            assert {shard.data.nbytes for shard in x.addressable_shards} == {x.nbytes // 4}


def test_padding_changes_nothing(perceptrons):
    """What stands in padded examples is of no consequence, for the state after training."""
    _, data, _, frozen, _ = perceptrons

    def prepare(garbage):
        def replaced(variables, batch, keys):
            batch = small.noisy(variables, batch, keys)
            where = batch["where"]
            image = jnp.where(where[:, None, None, None], batch["image"], garbage)
            return {**batch, "image": image, "label": jnp.where(where, batch["label"], 3)}

        return replaced

    def learner(garbage):
        return distill(small.mlp(8), small.mlp(64), weighted_sum(**MEANS), optax.sgd(0.1), prepare=prepare(garbage))

    state = jax.jit(learner(0.0).init)(KEY, frozen, example_batch(data))
    zeros, large = (train(learner(garbage), data, state, frozen) for garbage in (0.0, 100.0))
    small.assert_same_bits(zeros, large)


def test_no_key_is_used_twice():
    """Keys of examples, of the student on each device, of the objective: none is another's, in no micro-batch."""
    used = {"prepare": set(), "student": set(), "objective": set()}

    def note(name, key):
        jax.debug.callback(lambda data: used[name].add(tuple(data.tolist())), jax.random.key_data(key))

    def prepare(variables, batch, keys):
        jax.vmap(lambda key: note("prepare", key))(keys)
        return batch

    network, objective = small.mlp(), hard_label()

    def apply(variables, batch, *, train=False, rng=None, taps=()):
        if train:
            note("student", rng)
        return network.apply(variables, batch, train=train, rng=rng, taps=taps)

    def of_objective(variables, signals):
        note("objective", signals.rng)
        return objective.apply(variables, signals)

    student, noted = network._replace(apply=apply), objective._replace(apply=of_objective)
    learner = distill(student, None, noted, optax.sgd(0.1), prepare=prepare, accumulate=2)
    data = small.batches(16)
    compiled = parallel.compile(learner, data, mesh=eight(), mode="shard_map")
    fit(learner, data, 3, state=learner.init(KEY, {}, example_batch(data)), compiled=compiled, chunk=3)
    jax.effects_barrier()
    assert {name: len(keys) for name, keys in used.items()} == {
        "prepare": 3 * 16,
        "student": 3 * 16,
        "objective": 3 * 2,
    }
    assert len(set.union(*used.values())) == 3 * (16 + 16 + 2)


def test_accumulation_that_does_not_divide(perceptrons):
    learner, data, state, frozen, _ = perceptrons
    with pytest.raises(ValueError, match=r"accumulate=5 micro-batches do not divide a batch of 32 examples"):
        jax.eval_shape(learner(accumulate=5).step, state, frozen, example_batch(data))
    with pytest.raises(ValueError, match="accumulate is 0: it has to be at least 1"):
        learner(accumulate=0)
