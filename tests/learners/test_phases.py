"""Transitions between phases: what is drawn anew, and what goes on."""

import jax
import numpy as np
import optax
import pytest

from jaxkd import learners, objectives
from jaxkd.training import example_batch

from .. import small

STUDENT = small.conv("linen")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batch():
    return example_batch(small.batches(16))


def plain():
    return learners.distill(STUDENT, None, objectives.hard_label(), optax.adam(1e-2))


WRAPPED = {
    "distill": plain,
    "ema": lambda: learners.ema(plain(), 0.9),
    "seeds": lambda: learners.seeds(plain(), 2),
    "seeds of ema": lambda: learners.seeds(learners.ema(plain(), 0.9), 2),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_warm_deploys_what_it_starts_from(wrapped, batch):
    learner = WRAPPED[wrapped]()
    state, _ = learners.fresh(learner)(jax.random.key(5), {}, batch)
    earlier = jax.tree.map(lambda x: x + 1, learner.deploy(state, {}))
    state, frozen = learners.warm(learner, lambda results: results["before"])(KEY, {"before": earlier}, batch)
    anew, _ = learners.fresh(learner)(KEY, {}, batch)
    assert frozen == {}
    jax.tree.map(np.testing.assert_array_equal, learner.deploy(state, frozen), earlier)
    assert jax.tree.structure(state) == jax.tree.structure(anew)
    inner, fresh = (getattr(x, "learner", x) for x in (state, anew))
    jax.tree.map(np.testing.assert_array_equal, inner.opt_state, fresh.opt_state)
    # Nothing is shared: the state may be donated, and the result is still read.
    pointers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(earlier)}
    assert not pointers & {x.unsafe_buffer_pointer() for x in jax.tree.leaves((inner.params, inner.collections))}


def test_warm_takes_the_variables_of_its_student_only(batch):
    other = small.mlp(4).init(KEY, batch)
    with pytest.raises(ValueError, match="it is to start from"):
        learners.warm(plain(), lambda results: results["before"])(KEY, {"before": other}, batch)


def test_warm_of_another_kind_of_learner(batch):
    sweep = learners.sweep(lambda point: plain(), {"lr": np.ones(2, np.float32)})
    with pytest.raises(TypeError, match="warm starts learners of distill"):
        learners.warm(sweep, lambda results: results["before"])(KEY, {"before": {}}, batch)


@pytest.mark.parametrize("data", ["same", "own"])
def test_seeds_with_a_teacher_each(data, batch):
    student, teacher, seeds = small.mlp(4), small.mlp(6), 2
    learner = learners.distill(student, teacher, objectives.soft_label(2.0), optax.sgd(0.1))
    both = learners.seeds(learner, seeds, data=data, frozen="own")
    teachers = jax.vmap(teacher.init, (0, None))(jax.random.split(jax.random.key(1), seeds), batch)
    image = jax.random.normal(jax.random.key(2), (seeds, *batch["image"].shape))
    each = [{**jax.tree.map(np.zeros_like, batch), "image": image[i if data == "own" else 0]} for i in range(seeds)]
    given = jax.tree.map(lambda *x: np.stack(x), *each) if data == "own" else each[0]
    state = both.init(KEY, teachers, given)
    after, metrics = jax.jit(both.step)(state, teachers, given)
    step = jax.jit(learner.step)
    for i in range(seeds):
        state_i, teacher_i = jax.tree.map(lambda x, i=i: x[i], (state, teachers))
        expected, of_seed = step(state_i, teacher_i, each[i])
        np.testing.assert_allclose(metrics["loss"][i], of_seed["loss"], rtol=1e-5)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y, atol=1e-6), after.params, expected.params)
    assert abs(metrics["loss"][0] - metrics["loss"][1]) > 1e-4


def test_seeds_without_a_teacher_each(batch):
    teacher = small.mlp(6)
    learner = learners.distill(small.mlp(4), teacher, objectives.soft_label(2.0), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"leading axis \[3\], and got .* one teacher a seed"):
        learners.seeds(learner, 3, frozen="own").init(KEY, teacher.init(KEY, batch), batch)
    with pytest.raises(ValueError, match=r"leading axis \[3\], and got \[16.* one order a seed \(Batches.stack\)"):
        learners.seeds(learner, 3, data="own").init(KEY, teacher.init(KEY, batch), batch)
    with pytest.raises(ValueError, match='frozen=\'shared\': it is "same" or "own"'):
        learners.seeds(learner, 3, frozen="shared")


def test_a_batch_of_no_example(batch):
    empty = jax.tree.map(lambda x: x[:0], batch)
    learner = plain()
    with pytest.raises(ValueError, match="the batch is empty"):
        learner.init(KEY, {}, empty)
    with pytest.raises(ValueError, match="the batch is empty"):
        learner.step(learner.init(KEY, {}, batch), {}, empty)


def test_an_example_may_have_no_box(batch):
    learner = plain()
    given = {**batch, "boxes": np.zeros((len(batch["label"]), 0, 4), np.float32)}
    state, _ = learner.step(learner.init(KEY, {}, given), {}, given)
    assert int(state.step) == 1
