"""Successive halving: a sweep that drops the points that do worst, as one compiled program."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.learners._learner import Learner
from jaxkd.learners._stacked import Points, SweepState, sweep
from jaxkd.networks import Batch, PyTree, Variables

Score = Callable[[Variables, PyTree], jax.Array]


class Places(NamedTuple):
    """The trainings, each leaf [n, ...]. Those that go on stand first, in the order of their last scores.

    Attributes:
      points: the hyperparameters.
      learner: the learners' states.
      metrics: of the last step that each took.
      diverged_at: int32, see ``SweepState``.
      stopped_at: int32, the step at which a training was dropped; -1 for those that go on.
      number: int32, which point of the grid it is.
    """

    points: Points
    learner: PyTree
    metrics: PyTree
    diverged_at: jax.Array
    stopped_at: jax.Array
    number: jax.Array


class HalvingState(NamedTuple):
    """The trainings of a successive halving, and the steps taken, an int32 scalar."""

    places: Places
    steps: jax.Array


def successive_halving(
    make_learner: Callable[[Points], Learner],
    grid: Points,
    score: Score,
    *,
    rungs: Sequence[int],
    factor: float = 2.0,
    chunk: int | None = None,
) -> Learner:
    """A ``sweep`` in which, at every rung, only the best of the points go on: ceil(n / factor^k) of them after rung k.

    A point that is dropped keeps its state, masked as a diverged one is, so that the program is the same throughout.
    What is saved is time: points train in chunks, those that go on are moved together, and a chunk of which none goes
    on is skipped. A point that has diverged is dropped first; of equals, the first one stays. A point that stays to the
    end is what ``sweep`` makes of it.

    Args:
      make_learner: see ``sweep``.
      grid: see ``sweep``.
      score: ``(variables, held out) -> score`` of what a point's learner deploys, the higher the better, [] or of
        several seeds, whose mean counts.
      rungs: the steps after which points are dropped, ascending and above 0.
      factor: the share that goes on is 1 / factor, above 1.
      chunk: points that train side by side; by default as many as go on after the last rung.

    Returns:
      A learner that is frozen on a pair, ``(frozen, held out)``: what the points' learners are frozen on, and what
      ``score`` looks at. Its state is a ``HalvingState``; metrics and deployed variables have a leading axis [n] in the
      order of the grid. Of a point that was dropped, metrics are of its last step; ``"stopped_at"`` says which.

    Raises:
      ValueError: if ``rungs`` or ``factor`` are not as above, or the grid is none (see ``sweep``).

    References:
      Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2015,
      https://arxiv.org/abs/1502.07943
    """
    rungs = tuple(rungs)
    if not rungs or rungs[0] < 1 or any(a >= b for a, b in itertools.pairwise(rungs)):
        raise ValueError(f"rungs are {list(rungs)}: give steps in ascending order, the first of them at least 1")
    if not factor > 1:
        raise ValueError(f"factor is {factor}: it has to be above 1, for a rung keeps 1 / factor of the points")
    swept = sweep(make_learner, grid)
    n = next(iter(grid.values())).shape[0]
    survivors = [math.ceil(n / factor**k) for k in range(1, len(rungs) + 1)]
    size = min(n, chunk or survivors[-1])

    def init(key: jax.Array, frozen: PyTree, batch: Batch) -> HalvingState:
        state = swept.init(key, frozen[0], batch)
        shapes = jax.eval_shape(lambda: swept.step(state, frozen[0], batch)[1])
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        number = jnp.arange(n, dtype=jnp.int32)
        places = Places(state.points, state.learner, metrics, state.diverged_at, jnp.full(n, -1, jnp.int32), number)
        return HalvingState(places, state.steps)

    def drop(places: Places, frozen: PyTree, steps: jax.Array, keep: int) -> Places:
        """Moves the best to the front, and masks what stands behind them."""

        def scored(point_and_state: tuple) -> jax.Array:
            point, inner = point_and_state
            return jnp.mean(score(make_learner(point).deploy(inner, frozen[0]), frozen[1]))

        scores = jax.lax.map(scored, (places.points, places.learner), batch_size=size)
        scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
        out = (places.stopped_at >= 0) | (places.diverged_at >= 0)
        # The last key counts most: those that go on, then the score, then the place in the grid.
        order = jnp.lexsort((places.number, -scores, out))
        places = jax.tree.map(lambda x: x[order], places)
        dropped = (jnp.arange(n) >= keep) & (places.stopped_at < 0)
        return places._replace(stopped_at=jnp.where(dropped, steps, places.stopped_at))

    def step(
        state: HalvingState, frozen: PyTree, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[HalvingState, Any]:
        places, steps = state
        for rung, keep in zip(rungs, survivors, strict=True):
            places = jax.lax.cond(
                steps == rung, functools.partial(drop, keep=keep), lambda places, *_: places, places, frozen, steps
            )

        def train(group: Places) -> Places:
            before = SweepState(group.points, group.learner, steps, group.diverged_at)
            after, metrics = swept.step(before, frozen[0], batch, axis_name=axis_name)
            new = group._replace(learner=after.learner, metrics=metrics, diverged_at=after.diverged_at)

            def of_those_that_go_on(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where(jnp.expand_dims(group.stopped_at < 0, range(1, old.ndim)), new, old)

            return jax.tree.map(of_those_that_go_on, new, group)

        def train_if_one_goes_on(group: Places) -> Places:
            return jax.lax.cond(jnp.any(group.stopped_at < 0), train, lambda group: group, group)

        trained = jax.lax.map(train_if_one_goes_on, _in_groups(places, size))
        places = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], trained)
        metrics = {**places.metrics, "stopped_at": places.stopped_at}
        return HalvingState(places, steps + 1), _in_order(metrics, places.number)

    def deploy(state: HalvingState, frozen: PyTree) -> Variables:
        places = state.places
        sweep_state = SweepState(places.points, places.learner, state.steps, places.diverged_at)
        return _in_order(swept.deploy(sweep_state, frozen[0]), places.number)

    return Learner(init, step, deploy, swept.network)


def _in_groups(places: Places, size: int) -> Places:
    """[n, ...] as [groups, size, ...]; the last group is filled up with copies of the last place."""
    n = places.number.shape[0]
    there = jnp.minimum(jnp.arange(math.ceil(n / size) * size), n - 1).reshape(-1, size)
    return jax.tree.map(lambda x: x[there], places)


def _in_order(tree: PyTree, number: jax.Array) -> PyTree:
    """What stands at the places, in the order of the grid."""
    order = jnp.argsort(number)
    return jax.tree.map(lambda x: x[order], tree)
