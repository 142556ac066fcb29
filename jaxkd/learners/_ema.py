"""An exponential moving average of the student, kept beside it and deployed instead of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd._checks import check_number
from jaxkd.learners._learner import Learner
from jaxkd.networks import Batch, PyTree, Variables


class EmaState(NamedTuple):
    """The learner's state, and the average of what it would deploy, in at least float32."""

    learner: PyTree
    average: Variables


def ema(learner: Learner, decay: float = 0.999) -> Learner:
    """Averages what a learner would deploy: average <- decay average + (1 - decay) deploy(state), after every step.

    The average starts at the fresh student. Floating leaves are averaged, others (counters) are the newest. The average
    is kept in at least float32, as bfloat16 would round every small step away, and deployed in the student's types.

    Args:
      learner: any learner.
      decay: in [0, 1]; 0 is the learner itself. A number, or a traced array for ``sweep``.

    Returns:
      The learner that deploys the average. Its state is an ``EmaState``.

    References:
      Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992;
      Tarvainen, Valpola, "Mean teachers are better role models", 2017, https://arxiv.org/abs/1703.01780
    """
    check_number("decay", decay, within=(0, 1))

    def init(key: jax.Array, frozen: PyTree, batch: Batch) -> EmaState:
        state = learner.init(key, frozen, batch)

        def raised(x: jax.Array) -> jax.Array:
            # A copy: a donated state may not hold one buffer twice.
            return jnp.array(x, jnp.promote_types(x.dtype, jnp.float32) if _is_floating(x) else x.dtype, copy=True)

        return EmaState(state, jax.tree.map(raised, learner.deploy(state, frozen)))

    def step(state: EmaState, frozen: PyTree, batch: Batch, *, axis_name: str | None = None) -> tuple[EmaState, Any]:
        inner, metrics = learner.step(state.learner, frozen, batch, axis_name=axis_name)
        return EmaState(inner, averaged(decay, state.average, learner.deploy(inner, frozen))), metrics

    def deploy(state: EmaState, frozen: PyTree) -> Variables:
        newest = jax.eval_shape(learner.deploy, state.learner, frozen)
        return jax.tree.map(lambda average, x: average.astype(x.dtype), state.average, newest)

    return Learner(init, step, deploy, learner.network)


def averaged(decay: Any, average: PyTree, newest: PyTree) -> PyTree:
    """The average moved to the newest by 1 - decay, in its own types; leaves that do not float are the newest."""

    def leaf(old: jax.Array, new: jax.Array) -> jax.Array:
        if not _is_floating(new):
            return new
        keep = jnp.asarray(decay, old.dtype)
        return keep * old + (1 - keep) * new.astype(old.dtype)

    return jax.tree.map(leaf, average, newest)


def _is_floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
