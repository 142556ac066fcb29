"""A method in several stages is a list of phases, and a phase's ``enter`` is the explicit transition to it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.learners._distill import DistillState, split
from jaxkd.learners._ema import EmaState
from jaxkd.learners._learner import Learner
from jaxkd.networks import Batch, PyTree, Variables

Results = Mapping[str, Variables]
"""What earlier phases deployed, by the phases' names."""
Enter = Callable[[jax.Array, Results, Batch], tuple[PyTree, PyTree]]


class Phase(NamedTuple):
    """One stage of a method.

    Attributes:
      name: unique in its run; names the checkpoints, the metrics and the result.
      learner: what trains.
      steps: how many steps.
      enter: ``(key, results, batch) -> (state, frozen)``, a deterministic function: a resumed run calls it again on the
        stored results and checks what is frozen by its hash. See ``fresh``.
      data: another data set for this phase, or None for that of the run.
    """

    name: str
    learner: Learner
    steps: int
    enter: Enter
    data: Any = None


def fresh(learner: Learner, frozen: Callable[[Results], PyTree] | None = None) -> Enter:
    """The transition that starts a learner anew: ``state = learner.init(key, frozen, batch)``.

    Args:
      learner: the phase's learner.
      frozen: ``results -> frozen``, for a teacher that an earlier phase trained:
        ``lambda results: results["teacher"]``. By default nothing is frozen (``{}``).
    """

    def enter(key: jax.Array, results: Results, batch: Batch) -> tuple[PyTree, PyTree]:
        of_phase = {} if frozen is None else frozen(results)
        return learner.init(key, of_phase, batch), of_phase

    return enter


def warm(
    learner: Learner, student: Callable[[Results], Variables], frozen: Callable[[Results], PyTree] | None = None
) -> Enter:
    """The transition in which the student starts as an earlier phase left it, and all else anew.

    Fresh are the optimizer's state, the step and what the objective trains. It is for learners of ``distill``, also
    within ``ema`` (whose average starts at this student) and ``seeds`` (each seed goes on with its own).

    Args:
      learner: the phase's learner.
      student: ``results -> variables`` of the same network: ``lambda results: results["hints"]``.
      frozen: see ``fresh``.

    Raises:
      TypeError: from ``enter``, for another kind of learner.
      ValueError: from ``enter``, if the variables are not of the learner's student.
    """
    start = fresh(learner, frozen)

    def enter(key: jax.Array, results: Results, batch: Batch) -> tuple[PyTree, PyTree]:
        state, of_phase = start(key, results, batch)
        return _started(state, student(results)), of_phase

    return enter


def _started(state: PyTree, variables: Variables) -> PyTree:
    """A learner's state with these variables of its student."""
    if isinstance(state, EmaState):
        average = jax.tree.map(lambda old, new: jnp.array(new, old.dtype, copy=True), state.average, variables)
        return EmaState(_started(state.learner, variables), average)
    if not isinstance(state, DistillState):
        raise TypeError(f"warm starts learners of distill, within ema and seeds or not, and this one has {type(state)}")
    params, collections = split(variables)
    for what, old, new in (
        ("params", state.params["student"], params),
        ("collections", state.collections["student"], collections),
    ):
        have, get = (jax.tree.map(jnp.shape, tree) for tree in (old, new))
        if have != get:
            raise ValueError(f"the student's {what} are of shapes {have}, and it is to start from {get}: not its own")
    # Copies, for a state may be donated, and what phases deployed is still read.
    params, collections = jax.tree.map(lambda x: jnp.array(x, copy=True), (params, collections))
    return state._replace(
        params={**state.params, "student": params}, collections={**state.collections, "student": collections}
    )
