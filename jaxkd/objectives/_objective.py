"""What is minimised: an objective looks at signals and gives terms; the learner makes the global means."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from jaxkd.networks import Batch, Network, Outputs, Variables


class Taps(NamedTuple):
    """The inner features an objective needs, by tap name."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


# Only ever read, as its type says.
_NO_VARIABLES: Variables = {}


class Signals(NamedTuple):
    """All that an objective may look at.

    Attributes:
      student: the student's outputs; gradients flow through them.
      teacher: the teacher's outputs, gradient stopped; ``Outputs(None)`` where there is no teacher.
      teacher_variables: the frozen variables, for objectives that reuse a part of the teacher.
      batch: the batch both have seen.
      step: int32 scalar, for schedules.
      rng: a key for this step, the same on all devices.
      axis_name: the mapped axis the batch is split over (pmap, shard_map), or None (one device, jit).
      student_variables: the student's variables, for objectives that run its classifier on other features; gradients
        flow through them.
    """

    student: Outputs
    teacher: Outputs
    teacher_variables: Variables
    batch: Batch
    step: jax.Array
    rng: jax.Array
    axis_name: str | None = None
    student_variables: Variables = _NO_VARIABLES


class Term(NamedTuple):
    """One summand of the loss, as this device sees it.

    The learner adds ``sum`` and ``count`` over devices and micro-batches and takes ``weight * sum / max(count, 1)``:
    a mean of local means would be wrong as soon as valid counts differ. A relational term, which already is a function
    of the global batch, gives ``(weight, value, 1)``.
    """

    weight: jax.Array | float
    sum: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, which no one calls on a term


class Deployment(NamedTuple):
    """How a method that deploys more than the student is to be kept.

    Attributes:
      network: ``student -> network``: the student with what belongs to it, as one network.
      variables: ``(the student's, the objective's, the teacher's variables) -> variables`` of that network.
    """

    network: Callable[[Network], Network]
    variables: Callable[[Variables, Variables, Variables], Variables]


class Objective(NamedTuple):
    """A loss with what it needs around it, built like an optax transformation.

    Attributes:
      taps: the features of student and teacher it asks for.
      init: ``(key, signals) -> variables``: connectors under ``"params"`` (trained by the student's optimizer), memory
        in other collections. ``signals`` holds shapes only, but ``teacher_variables`` is concrete.
      apply: ``(variables, signals) -> (terms by name, metrics by name, updated collections)``. Metrics are terms too,
        of which the weight is not used: they are averaged like losses, but not minimised.
      deployment: None where the student alone is kept, as of most methods; see ``Deployment``.
    """

    taps: Taps
    init: Callable[[jax.Array, Signals], Variables]
    apply: Callable[[Variables, Signals], tuple[Mapping[str, Term], Mapping[str, Term], Variables]]
    deployment: Deployment | None = None
