"""Successive halving: what stays is what a sweep gives, what goes is masked, and the worst go."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import objectives
from jaxkd.learners import distill, product, seeds, successive_halving, sweep
from jaxkd.training import example_batch, fit

from ..small import batches, mlp

STUDENT, TEACHER = mlp(4), mlp(8)
GRID = product(rate=(1e-3, 1e-2, 3e-2, 0.1, 0.3), alpha=(0.5,))
KEY = jax.random.key(3)


def at(point):
    objective = objectives.distillation(2.0, point["alpha"])
    return seeds(distill(STUDENT, TEACHER, objective, optax.adam(point["rate"])), 2)


def by_size(variables, held_out):
    """Stands in for an accuracy: what separates the points is how far their training has moved them."""
    return -jnp.abs(sum(jnp.sum(jnp.abs(x), range(1, x.ndim)) for x in jax.tree.leaves(variables)) - held_out)


def in_order(state, name):
    order = np.argsort(state.places.number)
    return jax.tree.map(lambda x: np.asarray(x)[order], getattr(state.places, name))


@pytest.fixture(scope="module")
def data():
    return batches()


@pytest.fixture(scope="module")
def frozen(data):
    batch = example_batch(data)
    return TEACHER.init(jax.random.key(9), batch)


@pytest.fixture(scope="module")
def swept(data, frozen):
    learner = sweep(at, GRID)
    result = fit(learner, data, 12, key=KEY, frozen=frozen)
    half = fit(learner, data, 4, key=KEY, frozen=frozen)
    return [learner.deploy(one.state, frozen) for one in (half, result)]


@pytest.mark.parametrize("chunk", [None, 5])
def test_those_that_stay_are_those_of_a_sweep(chunk, data, frozen, swept):
    held_out = jnp.asarray(20.0)
    learner = successive_halving(at, GRID, by_size, rungs=(4, 8), chunk=chunk)
    result = fit(learner, data, 12, key=KEY, frozen=(frozen, held_out))
    deployed = learner.deploy(result.state, (frozen, held_out))
    stopped, loss = in_order(result.state, "stopped_at"), in_order(result.state, "metrics")["loss"]
    # 5 points, then 3, then 2; the scores after 4 steps, worked out from the sweep's own students.
    scores = np.asarray(jax.vmap(by_size, (0, None))(swept[0], held_out)).mean(-1)
    assert set(np.flatnonzero(stopped == 4)) == set(np.argsort(-scores)[3:])
    assert sorted(stopped) == [-1, -1, 4, 4, 8]
    for name, reference in ((-1, swept[1]), (4, swept[0])):
        for i in np.flatnonzero(stopped == name):
            jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y[i], atol=1e-6), deployed, reference)
    assert loss.shape == (5, 2)


def test_a_diverged_point_is_dropped_before_all_others(data, frozen):
    grid = product(rate=(1e38, 1e-3, 1e-2), alpha=(0.5,))
    learner = successive_halving(at, grid, lambda variables, _: by_size(variables, 1e6), rungs=(4,), factor=1.5)
    result = fit(learner, data, 6, key=KEY, frozen=(frozen, ()))
    assert in_order(result.state, "stopped_at").tolist() == [4, -1, -1]
    diverged_at = in_order(result.state, "diverged_at")
    assert diverged_at[0] >= 0
    assert (diverged_at[1:] == -1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rungs": ()}, "rungs are \\[\\]: give steps in ascending order"),
        ({"rungs": (0, 4)}, "the first of them at least 1"),
        ({"rungs": (4, 4)}, "ascending order"),
        ({"rungs": (4,), "factor": 1.0}, "factor is 1.0: it has to be above 1"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        successive_halving(at, GRID, by_size, **options)
