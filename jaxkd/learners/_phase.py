"""A method in several stages is a list of phases, and a phase's ``enter`` is the explicit transition to it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

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
