"""A student that learns from the average of what it has been."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkd._checks import check_number
from jaxkd.learners._distill import DistillState, Prepare, distill, drawn, variables_of
from jaxkd.learners._ema import averaged
from jaxkd.learners._learner import Learner
from jaxkd.networks import Batch, Network, PyTree, Variables
from jaxkd.objectives import Objective


class MeanTeacherState(NamedTuple):
    """A student and its teacher.

    Attributes:
      learner: the student's state.
      teacher: the average of its variables.
    """

    learner: DistillState
    teacher: Variables


def mean_teacher(
    student: Network,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    decay: Any = 0.999,
    prepare: Prepare | None = None,
    accumulate: int = 1,
) -> Learner:
    """A student whose teacher is the moving average of its own variables.

        teacher <- decay teacher + (1 - decay) student

    A step is that of ``distill`` with the average, in inference mode, as the frozen teacher; the average moves after
    it. It starts at the fresh student and gets no gradient.

    Args:
      student: the network that learns.
      objective: what it minimises, of itself and of the average: ``distillation()``. Its ``init`` is given the fresh
        student as the teacher's variables.
      optimizer: see ``distill``.
      decay: in [0, 1]: a number, or a traced array for ``sweep``.
      prepare: see ``distill``; both see its batch.
      accumulate: see ``distill``.

    Returns:
      A learner whose state is a ``MeanTeacherState`` and whose metrics are those of ``distill``. ``frozen`` is not
      looked at (pass ``{}``). It deploys the teacher.

    Raises:
      ValueError: for a decay out of range, or an objective that deploys more than the student; see ``distill``.

    References:
      Tarvainen, Valpola, "Mean teachers are better role models: Weight-averaged consistency targets improve
      semi-supervised deep learning results", 2017, https://arxiv.org/abs/1703.01780
    """
    check_number("decay", decay, within=(0, 1))
    if objective.deployment is not None:
        raise ValueError("the objective deploys more than the student: it needs a frozen teacher, see distill")
    learner = distill(student, student, objective, optimizer, prepare=prepare, accumulate=accumulate)

    def init(key: jax.Array, frozen: PyTree, batch: Batch) -> MeanTeacherState:
        del frozen
        # The objective may look at its teacher, which is the student that this very init draws.
        state = learner.init(key, drawn(student, key, batch), batch)
        # A copy: a donated state may not hold one buffer twice.
        return MeanTeacherState(state, jax.tree.map(lambda x: jnp.array(x, copy=True), variables_of(state)))

    def step(
        state: MeanTeacherState, frozen: PyTree, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[MeanTeacherState, Any]:
        del frozen
        new, metrics = learner.step(state.learner, state.teacher, batch, axis_name=axis_name)
        return MeanTeacherState(new, averaged(decay, state.teacher, variables_of(new))), metrics

    def deploy(state: MeanTeacherState, frozen: PyTree) -> Variables:
        del frozen
        return state.teacher

    return Learner(init, step, deploy, student)
