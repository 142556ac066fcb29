"""Softmax regression representation learning: the student's features through the teacher's classifier."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import shape_of
from jaxkd.networks import Variables
from jaxkd.objectives._blocks import norm
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps, convolve, draw_conv, normalize, pooled, valid_taps


def srrl(
    student: str,
    teacher: str,
    *,
    head: Callable[[Variables, jax.Array], jax.Array],
    regression: Number = 1.0,
) -> Objective:
    """SRRL: the teacher's features, and its logits from the student's features through the teacher's classifier.

    With r = ReLU(BN(a 1x1 convolution without bias of the student's last map)), GAP the average over positions, and h
    the teacher's frozen classifier, its bias included, the terms are

      * ``"feature"``: mean over examples and channels of (GAP(r) - GAP(f_t))^2;
      * ``"logits"``: mean over examples and classes of (h(GAP(r)) - t)^2, of weight ``regression``: its gradient
        passes through the classifier to the student, and leaves the classifier as it is.

    The convolution comes before the average, and a ReLU between them: other code averages first, which is another loss.
    BatchNorm normalizes by the statistics of the global batch, padding left out. Published weights: 1 beside a
    cross-entropy of weight 1, ``regression`` 1; 5 in some later code.

    Args:
      student: a tap of the student, its last map before the average, [batch, *spatial, channels].
      teacher: a tap of the teacher: its last map, or what its classifier takes, [batch, channels]. The size of the
        map may differ from the student's.
      head: ``(teacher's variables, features [batch, channels]) -> logits``: the teacher network's ``head``.
      regression: the weight of ``"logits"``: a number, a schedule of the step, or a traced array.

    Raises:
      ValueError: if ``head`` is None; in ``init``: if a tap has no channels or batches differ, or the classifier does
        not give logits of the teacher's shape.

    References:
      Yang, Martinez, Bulat, Tzimiropoulos, "Knowledge distillation via softmax regression representation learning",
      2021, https://openreview.net/forum?id=ZzwDy_wiWv
    """
    if head is None:
        raise ValueError("srrl needs the teacher's classifier: pass head=network.head of a network that has one")

    def init(key: jax.Array, signals: Signals) -> Variables:
        def cure(of_student: tuple[int, ...], of_teacher: tuple[int, ...]) -> str | None:
            if min(len(of_student), len(of_teacher)) < 2 or of_student[0] != of_teacher[0]:
                return "tap maps [batch, *spatial, channels] of the same examples, or [batch, channels]"
            return None

        of_student, of_teacher = check_taps(signals, student, teacher, cure)
        features = jax.ShapeDtypeStruct((of_teacher[0], of_teacher[-1]), jnp.float32)
        try:
            given = jax.eval_shape(head, signals.teacher_variables, features)
        except Exception as error:
            raise ValueError(
                f'head does not take features {shape_of(features)}, the teacher tap "{teacher}" '
                f"[{','.join(map(str, of_teacher))}] averaged over positions: tap the map before the teacher's pooling"
            ) from error
        if given.shape != signals.teacher.logits.shape:
            raise ValueError(
                f"head gives logits {shape_of(given)}, the teacher's logits are {shape_of(signals.teacher.logits)}: "
                "give the head of this teacher"
            )
        return {"params": {"conv": draw_conv(key, 1, of_student[-1], of_teacher[-1]), "norm": norm(of_teacher[-1])}}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params = variables["params"]
        of_student, of_teacher = valid_taps(signals, student, teacher)
        connected = jax.nn.relu(normalize(params["norm"], convolve(params["conv"], of_student), signals))
        features = pooled(connected)
        logits = head(signals.teacher_variables, features)
        regressed = losses.hint(logits, without_padding(signals.teacher.logits, signals.batch))
        of_logits = mean_over_examples(regressed, signals.batch)
        terms = {
            "feature": mean_over_examples(losses.hint(features, pooled(of_teacher)), signals.batch),
            "logits": of_logits._replace(weight=value_at(regression, signals.step)),
        }
        return terms, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)
