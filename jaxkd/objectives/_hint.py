"""Hints: inner features of the teacher that the student's have to match."""

import jax

from jaxkd import losses
from jaxkd.networks import Variables
from jaxkd.objectives._common import mean_over_examples, without_padding
from jaxkd.objectives._connectors import Connector, Kind, make_connector
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps


def hint(student: str, teacher: str, connector: Kind = "auto") -> Objective:
    """FitNets' hint: the mean squared difference between a student's feature, through a connector, and a teacher's.

    The connector (the paper's regressor) is trained with the student by the same optimizer and is not deployed.

    Args:
      student: a tap of the student.
      teacher: a tap of the teacher.
      connector: ``"identity"`` (equal shapes), ``"dense"`` (a linear map of the last axis), ``"conv"`` (a 1x1
        convolution, with resizing where height or width differ), or ``"auto"``: the least of these that does it.

    Raises:
      ValueError: in ``init``, if the shapes cannot be connected so, or there is no teacher.

    References:
      Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, https://arxiv.org/abs/1412.6550
    """

    def regressor(signals: Signals) -> Connector:
        shapes = signals.student.taps[student].shape, signals.teacher.taps[teacher].shape
        return make_connector(connector, *shapes, names=(student, teacher))

    def init(key: jax.Array, signals: Signals) -> Variables:
        # That there is a teacher; the connector says what shapes it cannot connect.
        check_taps(signals, student, teacher, lambda *shapes: None)
        params = regressor(signals).init(key)
        return {"params": params} if params else {}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        of_student = without_padding(signals.student.taps[student], signals.batch)
        of_teacher = without_padding(signals.teacher.taps[teacher], signals.batch)
        values = losses.hint(regressor(signals).apply(variables.get("params", {}), of_student), of_teacher)
        return {"hint": mean_over_examples(values, signals.batch)}, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)
