"""Correlation congruence, on trained embeddings of both sides."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.networks import Variables
from jaxkd.objectives._blocks import linear
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import check_taps, convolve, valid_taps


def correlation_congruence(
    student: str,
    teacher: str,
    *,
    width: int = 128,
    variant: Literal["adjacent", "kernel", "kernel_norm"] = "adjacent",
) -> Objective:
    """CC: linear embeddings of student and teacher features, both trained, have to be congruent over the batch.

    L = ``losses.correlation_congruence`` of the embeddings, linear maps with bias of the flattened features: a function
    of the global batch, over its valid examples, and not the same under ``accumulate``. Of the variant ``"adjacent"``
    the order of the examples matters. The teacher's embedding is trained as well, as in RepDistiller: what is there in
    both may shrink together.

    Published weights: 0.02 beside a cross-entropy of weight 1 (CIFAR-100, RepDistiller), embeddings of 128.

    Args:
      student: a tap of the student, [batch, ...], usually the features before the classifier.
      teacher: a tap of the teacher, [batch, ...].
      width: of the embeddings, at least 1.
      variant: of ``losses.correlation_congruence``.

    Raises:
      ValueError: if ``width`` or ``variant`` is out of range; in ``init``: if the taps are not [batch, ...] of one
        batch.

    References:
      Peng et al., "Correlation Congruence for Knowledge Distillation", 2019, https://arxiv.org/abs/1904.01802
    """
    if width < 1:
        raise ValueError(f"width is {width}: it has to be at least 1")
    if variant not in ("adjacent", "kernel", "kernel_norm"):
        raise ValueError(f'variant={variant!r}: there are "adjacent", "kernel" and "kernel_norm"')

    def cure(of_student: tuple[int, ...], of_teacher: tuple[int, ...]) -> str | None:
        if min(len(of_student), len(of_teacher)) < 2 or of_student[0] != of_teacher[0]:
            return "tap features [batch, ...] of the same examples"
        return None

    def init(key: jax.Array, signals: Signals) -> Variables:
        check_taps(signals, student, teacher, cure)
        features = {"student": signals.student.taps[student], "teacher": signals.teacher.taps[teacher]}
        params = {
            side: linear(one, x.size // x.shape[0], width)
            for (side, x), one in zip(features.items(), jax.random.split(key), strict=True)
        }
        return {"params": params}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params = variables["params"]
        of_student, of_teacher = (x.reshape(x.shape[0], -1) for x in valid_taps(signals, student, teacher))
        value = losses.correlation_congruence(
            convolve(params["student"], of_student),
            convolve(params["teacher"], of_teacher),
            variant=variant,
            where=signals.batch.get("where"),
            axis_name=signals.axis_name,
        )
        return {"correlation_congruence": Term(1.0, value, jnp.ones_like(value))}, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)
