"""An exponential moving average of the student, kept beside it and deployed instead of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.learners._learner import Learner
from jaxkd.losses._core import check_number
from jaxkd.networks import Batch, PyTree, Variables


class EmaState(NamedTuple):
    """The learner's state, and the average of what it would deploy."""

    learner: PyTree
    average: Variables


def ema(learner: Learner, decay: float = 0.999) -> Learner:
    """Averages what a learner would deploy: average <- decay average + (1 - decay) deploy(state), after every step.

    The average starts at the fresh student. Floating leaves are averaged, others (counters) are the newest.

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
        # A copy: a donated state may not hold one buffer twice.
        return EmaState(state, jax.tree.map(jnp.copy, learner.deploy(state, frozen)))

    def step(state: EmaState, frozen: PyTree, batch: Batch, *, axis_name: str | None = None) -> tuple[EmaState, Any]:
        inner, metrics = learner.step(state.learner, frozen, batch, axis_name=axis_name)

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return decay * old + (1 - decay) * new if jnp.issubdtype(new.dtype, jnp.floating) else new

        return EmaState(inner, jax.tree.map(average, state.average, learner.deploy(inner, frozen))), metrics

    def deploy(state: EmaState, frozen: PyTree) -> Variables:
        del frozen
        return state.average

    return Learner(init, step, deploy, learner.network)
