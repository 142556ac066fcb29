"""Many trainings in one compiled program: the same learner from many keys, or at many hyperparameter points."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.learners._learner import Learner
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables

Points = Mapping[str, jax.Array]


def seeds(
    learner: Learner,
    n: int,
    *,
    data: Literal["same", "own"] = "same",
    frozen: Literal["same", "own"] = "same",
    chunk: int | None = None,
) -> Learner:
    """The same learner from ``n`` keys at once: every table gets its mean and spread for the price of one program.

    Args:
      learner: any learner.
      n: how many, at least 1.
      data: ``"same"``: one batch for all, in one order, so that seeds differ in the fresh student and its own
        randomness (dropout, augmentation). ``"own"``: the batch has a leading axis [n], one order each.
      frozen: ``"same"``: one teacher for all. ``"own"``: what is frozen has a leading axis [n], a teacher each: the
        seeds of an earlier phase, say.
      chunk: how many at a time; by default all (``jax.vmap``). A chunk bounds memory, and 1 keeps a convolution from
        becoming a grouped one, which is slow on some backends; the teacher's forward is then computed once a chunk.

    Returns:
      A learner whose state, metrics and deployed variables have a leading axis [n]. Its network takes such variables
      and gives logits [n, batch, classes].
    """
    if n < 1:
        raise ValueError(f"n is {n}: at least one seed")
    for what, choice in (("data", data), ("frozen", frozen)):
        if choice not in ("same", "own"):
            raise ValueError(f'{what}={choice!r}: it is "same" or "own"')
    own_data, own_frozen = data == "own", frozen == "own"

    def of_each(function: Callable, frozen: PyTree, batch: Batch) -> tuple[Callable, tuple]:
        """``function(x, frozen, batch)`` of one seed as a function of one tuple, and what it has of each seed."""
        given = (frozen,) * own_frozen + (batch,) * own_data

        def one(xs: tuple) -> Any:
            own = list(xs[1:])
            of_frozen = own.pop(0) if own_frozen else frozen
            return function(xs[0], of_frozen, own.pop() if own_data else batch)

        return one, given

    def init(key: jax.Array, frozen: PyTree, batch: Batch) -> PyTree:
        check(frozen, batch)
        one, given = of_each(learner.init, frozen, batch)
        # One after the other: XLA takes several times as long to compile the random numbers of a vmapped init.
        return jax.lax.map(one, (jax.random.split(key, n), *given))

    def step(state: PyTree, frozen: PyTree, batch: Batch, *, axis_name: str | None = None) -> tuple[PyTree, Any]:
        one, given = of_each(functools.partial(learner.step, axis_name=axis_name), frozen, batch)
        return _batched(one, chunk)((state, *given))

    def deploy(state: PyTree, frozen: PyTree) -> Variables:
        return jax.vmap(learner.deploy, (0, 0 if own_frozen else None))(state, frozen)

    def check(frozen: PyTree, batch: Batch) -> None:
        for what, own, tree, cure in (
            ("frozen", own_frozen, frozen, 'one teacher a seed, or let all learn from one (frozen="same")'),
            ("data", own_data, batch, 'one order a seed (Batches.stack), or let all see one (data="same")'),
        ):
            shapes = sorted({str(list(jnp.shape(x))) for x in jax.tree.leaves(tree) if jnp.shape(x)[:1] != (n,)})
            if own and shapes:
                raise ValueError(
                    f'{what}="own" takes arrays with a leading axis [{n}], and got {shapes[0]}: give {cure}'
                )

    return Learner(init, step, deploy, stacked(learner.network, n))


class SweepState(NamedTuple):
    """The trainings of a sweep.

    Attributes:
      points: the hyperparameters, each [n].
      learner: the learners' states, each leaf [n, ...].
      steps: int32 scalar, the steps taken.
      diverged_at: int32 [n], the step at which a point's loss or state stopped being finite; -1 for those that go on.
    """

    points: Points
    learner: PyTree
    steps: jax.Array
    diverged_at: jax.Array


def sweep(make_learner: Callable[[Points], Learner], grid: Points, *, chunk: int | None = None) -> Learner:
    """One program that trains a learner per hyperparameter point; the teacher's forward and the batch are shared.

    All points start from the same key, hence from the same fresh student. A point whose loss or state stops being
    finite keeps its last finite state from then on, and the others go on: the metric ``"diverged_at"`` says which and
    when.

    Args:
      make_learner: ``point -> Learner``; ``point`` is ``grid`` with one scalar for each array, traced: it may be a
        weight, a temperature, a learning rate (``optax.sgd(point["lr"])``), but decide no shape and no Python branch.
      grid: arrays of one length n, by name. ``jaxkd.learners.product`` makes it from one list a name.
      chunk: how many points at a time, see ``seeds``.

    Returns:
      A learner whose state is a ``SweepState`` and whose metrics and deployed variables have a leading axis [n].

    Raises:
      ValueError: if the arrays of ``grid`` are not one-dimensional and of one length of at least 1.
    """
    grid = {name: jnp.asarray(values) for name, values in grid.items()}
    if not grid or len({x.shape for x in grid.values()}) != 1 or any(x.ndim != 1 or not x.size for x in grid.values()):
        raise ValueError(
            f"a grid is one-dimensional arrays of one length by name, and this one has "
            f"{ {name: x.shape for name, x in grid.items()} }: see jaxkd.learners.product"
        )
    n = next(iter(grid.values())).size

    def init(key: jax.Array, frozen: PyTree, batch: Batch) -> SweepState:
        states = jax.vmap(lambda point: make_learner(point).init(key, frozen, batch))(grid)
        return SweepState(grid, states, jnp.zeros((), jnp.int32), jnp.full(n, -1, jnp.int32))

    def step(
        state: SweepState, frozen: PyTree, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[SweepState, Any]:
        def one(xs: tuple) -> tuple[PyTree, Any, jax.Array]:
            point, inner, alive = xs
            new, metrics = make_learner(point).step(inner, frozen, batch, axis_name=axis_name)
            # All of the state: an infinite second moment leaves the parameters finite, and nothing to save.
            alive &= jnp.all(jnp.isfinite(metrics["loss"])) & _all_finite(new)
            return jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, inner), metrics, alive

        alive = state.diverged_at < 0
        states, metrics, still_alive = _batched(one, chunk)((state.points, state.learner, alive))
        diverged_at = jnp.where(alive & ~still_alive, state.steps, state.diverged_at)
        return SweepState(state.points, states, state.steps + 1, diverged_at), {**metrics, "diverged_at": diverged_at}

    def deploy(state: SweepState, frozen: PyTree) -> Variables:
        return jax.vmap(lambda point, inner: make_learner(point).deploy(inner, frozen))(state.points, state.learner)

    network = make_learner({name: values[0] for name, values in grid.items()}).network
    return Learner(init, step, deploy, stacked(network, n))


def product(**axes: Any) -> Points:
    """The grid of all combinations: ``product(temperature=(1, 2, 4), alpha=(0.1, 0.9))`` has 6 points.

    >>> import numpy as np
    >>> grid = product(temperature=(1.0, 2.0, 4.0), alpha=(0.1, 0.9))
    >>> np.asarray(grid["temperature"]).tolist()
    [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]

    Args:
      **axes: the values of each hyperparameter. The last one changes fastest.

    Returns:
      Arrays of one length by name, as ``sweep`` takes them.
    """
    mesh = jnp.meshgrid(*(jnp.asarray(values) for values in axes.values()), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


def stacked(network: Network, n: int, *, data: Literal["same", "own"] = "same", chunk: int | None = None) -> Network:
    """``n`` copies of a network side by side: variables, logits and taps get a leading axis [n].

    Args:
      network: any network.
      n: how many copies.
      data: ``"same"``: they share a batch; ``"own"``: each has one, on a leading axis [n].
      chunk: how many at a time in a forward pass; by default all (``jax.vmap``), see ``seeds``.
    """
    own_data = data == "own"

    def init(key: jax.Array, batch: Batch) -> Variables:
        return jax.vmap(network.init, (0, 0 if own_data else None))(jax.random.split(key, n), batch)

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: tuple[str, ...] = (),
    ) -> tuple[Outputs, Variables]:
        def one(xs: tuple[Variables, jax.Array | None, Batch]) -> tuple[Outputs, Variables]:
            return network.apply(xs[0], xs[2] if own_data else batch, train=train, rng=xs[1], taps=taps)

        keys = None if rng is None else jax.random.split(rng, n)
        return _batched(one, chunk)((variables, keys, batch if own_data else {}))

    head = None if network.head is None else jax.vmap(network.head)
    return Network(init, apply, network.roles, head)


def _batched(function: Callable, chunk: int | None) -> Callable:
    return jax.vmap(function) if chunk is None else lambda xs: jax.lax.map(function, xs, batch_size=chunk)


def _all_finite(tree: PyTree) -> jax.Array:
    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    # One reduction of numbers a leaf: several times as fast as one of booleans. The largest of anything and NaN is NaN.
    return jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in floating])) < jnp.inf
