"""Soft labels of several teachers at once, of which a step may listen to a few alone."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import losses
from jaxkd._checks import check_number, shape_of
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding, without_parameters
from jaxkd.objectives._objective import Objective, Signals, Taps, Term


def soft_labels(
    temperature: Number = 4.0, *, weights: Sequence[float] | None = None, keep: int | None = None
) -> Objective:
    """Soft labels of several teachers: sum_k w_k T^2 KL(teacher_k || student), the mean over examples.

    The teacher is several networks side by side (``networks.side_by_side``). The gradient is that of one teacher whose
    softened predictions are the mean of theirs, by these weights, times their sum: the sum of divergences differs from
    the divergence of the mean by what the student has no part in.

    Args:
      temperature: T > 0: a number, a schedule of the step, or a traced array.
      weights: w_k, one a teacher and in their order, none negative; 1 each by default.
      keep: how many teachers a step listens to, drawn anew each time, all alike, by the objective's key of the step
        (``Signals.rng``), which is the same on all devices; the others are left out of its sum. With ``accumulate``
        each micro-batch draws. By default all.

    Raises:
      ValueError: if the temperature is a number not above 0, a weight negative, or ``keep`` below 1; in ``init``: if
        there are not several teachers, of the student's classes, as many as weights and no less than ``keep``.

    References:
      You, Xu, Xu, Tao, "Learning from Multiple Teacher Networks", KDD 2017;
      Son, Na, Choi, Hwang, "Densely Guided Knowledge Distillation using Multiple Teacher Assistants", 2020,
      https://arxiv.org/abs/2009.08825
    """
    check_number("temperature", temperature, above=0)
    if weights is not None:
        check_number("weights", np.asarray(weights, float), within=(0, np.inf))
    if keep is not None and keep < 1:
        raise ValueError(f"keep is {keep}: a step listens to a teacher at least")

    def term(signals: Signals) -> Term:
        student = without_padding(signals.student.logits, signals.batch)
        each = []
        for logits in signals.teacher.logits.values():
            taught = without_padding(logits, signals.batch)
            each.append(losses.soft_label_kl(student, taught, value_at(temperature, signals.step)))
        values = jnp.stack(each)
        scale = jnp.ones(len(each)) if weights is None else jnp.asarray(weights)
        if keep is not None:
            scale *= jax.random.permutation(signals.rng, len(each)) < keep
        return mean_over_examples(jnp.tensordot(scale.astype(values.dtype), values, 1), signals.batch)

    def check(signals: Signals) -> None:
        student, teachers = signals.student.logits, signals.teacher.logits
        if not isinstance(teachers, Mapping):
            raise ValueError("this objective takes several teachers: give distill their networks.side_by_side")
        if other := {name: shape_of(x) for name, x in teachers.items() if x.shape != student.shape}:
            raise ValueError(f"student logits {shape_of(student)}, teachers' {other}: all need the same classes")
        if weights is not None and len(weights) != len(teachers):
            raise ValueError(f"weights has {len(weights)} for {len(teachers)} teachers: give one for each")
        if keep is not None and keep > len(teachers):
            raise ValueError(f"keep is {keep}, and there are {len(teachers)} teachers: keep as many at most")

    return without_parameters(Taps(), "soft_labels", term, check)
