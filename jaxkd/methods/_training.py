"""What methods in phases are made of: stages, what they are told of a training, and the common ways to learn."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd import learners, objectives
from jaxkd.learners import Enter, Learner, Phase, Results
from jaxkd.networks import Batch, Network, Variables
from jaxkd.networks._side_by_side import by_collection
from jaxkd.objectives import Objective

TEACHER = "teacher"
"""The phase whose result is the teacher's variables."""


class Ensemble(NamedTuple):
    """Several stages as one classifier: a further row of a comparison, which nothing is trained for.

    Attributes:
      name: of the row.
      members: the positions of its members among the stages of the method.
      network: of one seed of each.
    """

    name: str
    members: tuple[int, ...]
    network: Network

    def variables(self, deployed: Sequence[Variables]) -> Variables:
        """The network's variables, of what the stages of the method have deployed, in order."""
        return by_collection({str(i): deployed[member] for i, member in enumerate(self.members)})


class Stage(NamedTuple):
    """A phase of a method.

    Attributes:
      phase: what trains.
      network: of one seed of what it deploys; None: that is no classifier yet.
      ensembles: those that this stage completes.
    """

    phase: Phase
    network: Network | None
    ensembles: tuple[Ensemble, ...] = ()


class Training(NamedTuple):
    """What a method in phases needs to know of a training: a job, or a script, decides it once for all phases.

    Attributes:
      learner: ``(make, frozen="same", steps=...) -> learner``; ``make(optimizer=..., prepare=..., accumulate=...)`` is
        what makes it for one seed; all learners are of as many seeds. ``frozen``: see ``learners.seeds``. ``steps``: of
        its learning rate's schedule; by default those of a phase.
      steps: of a phase.
      labelled: the data of phases that learn from labels alone.
      transfer: the data of phases that learn from a teacher; its labels may be fewer.
      pairs: ``() -> data``: batches of pairs of one class (``data.PairedBatches``), of those that have a label.
      complete: the data that the teacher learnt from, with all labels.
      network: ``name -> network``, for other models than student and teacher.
      held_out: ``() -> batch`` of examples that nothing is trained on, with labels; None: there are none.
    """

    learner: Callable[..., Learner]
    steps: int
    labelled: Any
    transfer: Any
    pairs: Callable[[], Any]
    complete: Any
    network: Callable[[str], Network]
    held_out: Callable[[], Batch] | None = None


def one_stage(training: Training, learner: Learner, network: Network) -> tuple[Stage, ...]:
    """The student, by one learner that needs no teacher of its own."""
    return (Stage(Phase("student", learner, training.steps, learners.fresh(learner), training.transfer), network),)


def from_labels(training: Training, network: Network) -> Learner:
    """Learns from labels alone."""
    return training.learner(functools.partial(learners.distill, network, None, objectives.hard_label()))


def taught(
    training: Training,
    student: Network,
    teacher: Network,
    objective: Objective,
    *,
    frozen: str = "same",
    steps: int | None = None,
) -> Learner:
    """Learns from a frozen teacher: the ``"same"`` for all seeds, or each seed's ``"own"``; by default for a phase."""
    length = {} if steps in (None, training.steps) else {"steps": steps}
    return training.learner(functools.partial(learners.distill, student, teacher, objective), frozen=frozen, **length)


def result_of(name: str) -> Callable[[Results], Any]:
    """What the phase of this name has deployed."""
    return lambda results: results[name]


def taught_by_several(
    training: Training, student: Network, teachers: Network, names: Sequence[str], objective: Objective
) -> tuple[Learner, Enter]:
    """Learns from what several phases have deployed, the teacher's first; ``teachers`` is all of them, by number.

    The teacher is one for all seeds, the others are each seed's own: where there are others, it is frozen once a seed.
    """

    def frozen(results: Results) -> Variables:
        first, *others = (results[name] for name in names)
        if others:
            seeds = jax.tree.leaves(others)[0].shape[0]
            first = jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *x.shape)), first)
        return by_collection({str(i): variables for i, variables in enumerate((first, *others))})

    learner = taught(training, student, teachers, objective, frozen="own" if len(names) > 1 else "same")
    return learner, learners.fresh(learner, frozen)
