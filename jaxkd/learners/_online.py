"""Online distillation: a teacher and its student are trained together."""

from collections.abc import Sequence

import jax
import optax

from jaxkd._checks import check_number
from jaxkd.learners._distill import DistillState, Prepare, distill, variables_of
from jaxkd.learners._learner import Learner
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables, member_of, side_by_side
from jaxkd.objectives import Number, Objective, Signals, Taps, auxiliary_labels, hard_label, weighted_sum

_STUDENT, _TEACHER = "student", "teacher"


def online(
    student: Network,
    teacher: Network,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    heads: Sequence[str] = ("penultimate",),
    auxiliary: Number = 0.1,
    prepare: Prepare | None = None,
    accumulate: int = 1,
) -> Learner:
    """A student that learns from a teacher while that learns from the labels, in one step and one program.

        L = CE(teacher) + objective(student, teacher) + auxiliary sum_h CE(h(student's tap))

    with ``distillation()``: CE(teacher) + .5 CE(student) + .5 T^2 KL(teacher || student) + .1 sum_h CE(h), T = 3. The
    teacher's outputs are stopped where the student learns from them: of all these terms its own cross-entropy alone has
    a gradient in it, and it is trained as it would be without a student.

    The heads are linear classifiers on features of the student (``objectives.auxiliary_labels``), trained with it and
    not deployed. Both networks run in training mode.

    Args:
      student: the network that learns from the other, and is deployed.
      teacher: the network that learns from labels alone.
      objective: what the student minimises, like that of ``distill``. Its ``teacher_variables`` are the teacher's of
        this step; in its ``init`` they are shapes like the rest.
      optimizer: trains ``{"student": {"student": ..., "teacher": ...}, "objective": ...}``: both networks, and the
        heads with what else the objective trains. ``optax.partition`` gives each its own.
      heads: taps of the student with a classifier each; ``()`` for none.
      auxiliary: the weight of their cross-entropies: a number of at least 0, a schedule of the step, or a traced array.
      prepare: see ``distill``; it is given the student's variables, and both networks see its batch.
      accumulate: see ``distill``.

    Returns:
      A learner whose state is a ``DistillState`` of both networks, and whose metrics are ``"loss"``, ``"teacher"`` (its
      cross-entropy), ``"student/..."`` (the objective's terms; ``"student"`` if it has but one) and ``"auxiliary"``
      (``"auxiliary/..."`` by tap, of several). ``frozen`` is not looked at (pass ``{}``). It deploys the student.

    Raises:
      ValueError: for a negative ``auxiliary``, or an objective that deploys more than the student; in ``init``, from
        shapes alone: see the objectives.
      UnknownTapError: in ``init``, for a feature that a network does not have.
    """
    check_number("auxiliary", auxiliary, within=(0, float("inf")))
    if objective.deployment is not None:
        raise ValueError("the objective deploys more than the student: it needs a frozen teacher, see distill")
    terms: dict[str, tuple[Number, Objective]] = {
        "teacher": (1.0, _of_both(hard_label(), _TEACHER)),
        "student": (1.0, _of_both(objective, _STUDENT, _TEACHER)),
    }
    if heads:
        terms["auxiliary"] = (auxiliary, _of_both(auxiliary_labels(heads), _STUDENT))

    def of_student(variables: Variables, batch: Batch, keys: jax.Array) -> Batch:
        assert prepare is not None
        return prepare(member_of(variables, _STUDENT), batch, keys)

    both = side_by_side({_STUDENT: student, _TEACHER: teacher})
    learner = distill(
        both,
        None,
        weighted_sum(**terms),
        optimizer,
        prepare=None if prepare is None else of_student,
        accumulate=accumulate,
    )

    def deploy(state: DistillState, frozen: PyTree) -> Variables:
        del frozen
        return member_of(variables_of(state), _STUDENT)

    return Learner(learner.init, learner.step, deploy, student)


def _of_both(objective: Objective, own: str, other: str | None = None) -> Objective:
    """The objective where student and teacher are members of one network; ``other`` teaches, and gets no gradient."""
    taps = [f"{own}/{tap}" for tap in objective.taps.student]
    taps += [f"{other}/{tap}" for tap in objective.taps.teacher]

    def member(signals: Signals, name: str, taps: Sequence[str]) -> tuple[Outputs, Variables]:
        outputs = Outputs(signals.student.logits[name], {tap: signals.student.taps[f"{name}/{tap}"] for tap in taps})
        return outputs, member_of(signals.student_variables, name)

    def seen(signals: Signals) -> Signals:
        student, variables = member(signals, own, objective.taps.student)
        teacher = (Outputs(None), {}) if other is None else member(signals, other, objective.taps.teacher)
        return signals._replace(
            student=student, student_variables=variables, teacher=teacher[0], teacher_variables=teacher[1]
        )

    def apply(variables: Variables, signals: Signals) -> tuple:
        signals = seen(signals)
        teacher, of_teacher = jax.lax.stop_gradient((signals.teacher, signals.teacher_variables))
        return objective.apply(variables, signals._replace(teacher=teacher, teacher_variables=of_teacher))

    return Objective(Taps(tuple(taps)), lambda key, signals: objective.init(key, seen(signals)), apply)
