"""Any loss as an objective: of logits, of features, of the whole batch, of what classifiers say about parts of maps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.networks import Variables
from jaxkd.objectives._blocks import linear, norm
from jaxkd.objectives._common import mean_over_examples, value_at, without_padding, without_parameters
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import check_taps, convolve, draw_conv, normalize, valid_taps

Head = Callable[[Variables, jax.Array], Any]
Loss = Callable[..., jax.Array]


def on_logits(loss: Loss, *, teacher: bool = True, labels: bool = False, **parameters: Any) -> Objective:
    """The mean over examples of ``loss(student's logits, teacher's logits, labels, **parameters)``.

    Args:
      loss: gives a value for each example.
      teacher: whether it takes the teacher's logits.
      labels: whether it takes the labels, integers [batch]. The mean is then over labelled examples.
      **parameters: of the loss; those that are schedules are taken at the step.
    """

    def values(signals: Signals) -> jax.Array:
        given = [without_padding(signals.student.logits, signals.batch)]
        if teacher:
            given.append(without_padding(signals.teacher.logits, signals.batch))
        if labels:
            given.append(labels_of(signals))
        return loss(*given, **_at(parameters, signals.step))

    def term(signals: Signals) -> Term:
        valid = signals.batch["label"] >= 0 if labels else None
        return mean_over_examples(values(signals), signals.batch, valid)

    def check(signals: Signals) -> None:
        _check_given(signals, teacher=teacher, labels=labels)
        jax.eval_shape(values, signals)

    return without_parameters(Taps(), loss.__name__, term, check)


def on_features(
    loss: Loss,
    student: Sequence[str],
    teacher: Sequence[str],
    *,
    connector: Literal["none", "width", "norm"] = "none",
    together: bool = False,
    **parameters: Any,
) -> Objective:
    """The sum over pairs of layers of the mean over examples of ``loss(student's, teacher's, **parameters)``.

    Args:
      loss: gives a value for each example.
      student: taps of the student.
      teacher: as many taps of the teacher.
      connector: of the student's features to the teacher's width, trained and not deployed: ``"width"``: a linear map
        of the channels where widths differ; ``"norm"``: one without bias and a batch normalization, always.
      together: whether the loss takes the layers of both sides at once, as lists, instead of pair by pair.
      **parameters: of the loss; those that are schedules are taken at the step.
    """
    layers = tuple(zip(student, teacher, strict=True))

    def init(key: jax.Array, signals: Signals) -> Variables:
        params: dict[str, Any] = {}
        for i, pair in enumerate(layers):
            shapes = check_taps(signals, *pair, _of_one_batch)
            of_student, of_teacher = (shape[-1] for shape in shapes)
            own = jax.random.fold_in(key, i)
            if connector == "norm":
                params[f"layer{i + 1}"] = {"conv": draw_conv(own, 1, of_student, of_teacher), "norm": norm(of_teacher)}
            elif connector == "width" and of_student != of_teacher:
                params[f"layer{i + 1}"] = {"conv": linear(own, of_student, of_teacher)}
        _check_fit(values, layers, params, signals)
        return {"params": params} if params else {}

    def values(params: Mapping[str, Any], signals: Signals) -> jax.Array:
        connected, targets = [], []
        for i, pair in enumerate(layers):
            x, target = valid_taps(signals, *pair)
            if f"layer{i + 1}" in params:
                layer = params[f"layer{i + 1}"]
                x = convolve(layer["conv"], x)
                x = normalize(layer["norm"], x, signals) if "norm" in layer else x
                x = without_padding(x, signals.batch)
            connected.append(x)
            targets.append(target)
        now = _at(parameters, signals.step)
        if together:
            return loss(connected, targets, **now)
        return jnp.sum(jnp.stack([loss(x, t, **now) for x, t in zip(connected, targets, strict=True)]), 0)

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        of_examples = values(variables.get("params", {}), signals)
        return {loss.__name__: mean_over_examples(of_examples, signals.batch)}, {}, {}

    return Objective(Taps(tuple(student), tuple(teacher)), init, apply)


def on_batch(
    loss: Loss,
    student: str | None = None,
    teacher: str | None = None,
    *,
    projector: bool = False,
    **parameters: Any,
) -> Objective:
    """``loss(student's, teacher's, where=..., axis_name=..., **parameters)``, a function of all of the global batch.

    It is not the same under ``accumulate``, which shows it one micro-batch at a time.

    Args:
      loss: gives one value.
      student: a tap of the student, or None: its logits.
      teacher: a tap of the teacher, or None: its logits.
      projector: whether a linear map takes the student's features to the teacher's width; it is trained, and not
        deployed.
      **parameters: of the loss; those that are schedules are taken at the step.
    """
    layers = () if student is None or teacher is None else ((student, teacher),)

    def value(params: Mapping[str, Any], signals: Signals) -> jax.Array:
        if student is None or teacher is None:
            of_student, of_teacher = signals.student.logits, signals.teacher.logits
        else:
            of_student, of_teacher = valid_taps(signals, student, teacher)
        if params:
            of_student = convolve(params["projector"], of_student)
        where = signals.batch.get("where")
        return loss(of_student, of_teacher, where=where, axis_name=signals.axis_name, **_at(parameters, signals.step))

    def init(key: jax.Array, signals: Signals) -> Variables:
        _check_given(signals)
        params = {}
        if projector and student is not None and teacher is not None:
            shapes = check_taps(signals, student, teacher, _of_one_batch)
            params = {"projector": linear(key, *(shape[-1] for shape in shapes))}
        _check_fit(value, layers, params, signals)
        return {"params": params} if params else {}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        of_batch = value(variables.get("params", {}), signals)
        return {loss.__name__: Term(1.0, of_batch, jnp.ones_like(of_batch))}, {}, {}

    return Objective(Taps(*zip(*layers, strict=True)), init, apply)


def on_class_maps(
    loss: Loss,
    student: str,
    teacher: str,
    *,
    heads: tuple[Head | None, Head | None],
    cells: Callable[[jax.Array], jax.Array],
    labels: bool = False,
    **parameters: Any,
) -> Objective:
    """The mean over examples of a loss of what both classifiers say about parts of the map before the average.

    The student's classifier is trained by it, the teacher's is frozen.

    Args:
      loss: ``loss(student's, teacher's, labels, **parameters)`` of logits [batch, ..., classes], a value an example.
      student: a tap of the student, the map before it is averaged for the classifier.
      teacher: the same of the teacher.
      heads: the classifiers: ``head`` of both networks.
      cells: what is made of a map before it is classified, [batch, ..., channels].
      labels: whether the loss takes the labels, integers [batch]; the mean is then over labelled examples.
      **parameters: of the loss; those that are schedules are taken at the step.

    Raises:
      ValueError: if a network has no ``head``; in ``init``: if the taps are no maps, or do not fit the loss.
    """
    if None in heads:
        whose = "student" if heads[0] is None else "teacher"
        raise ValueError(f"this method runs the classifier of the {whose} on parts of its map: give its network a head")

    def values(signals: Signals) -> jax.Array:
        classified = []
        variables_of = signals.student_variables, signals.teacher_variables
        maps = valid_taps(signals, student, teacher)
        for head, variables, x in zip(heads, variables_of, maps, strict=True):
            parts = cells(x)
            assert head is not None
            logits = head(variables, parts.reshape(-1, parts.shape[-1]))
            classified.append(without_padding(logits.reshape(*parts.shape[:-1], -1), signals.batch))
        if labels:
            classified.append(labels_of(signals))
        return loss(*classified, **_at(parameters, signals.step))

    def term(signals: Signals) -> Term:
        valid = signals.batch["label"] >= 0 if labels else None
        return mean_over_examples(values(signals), signals.batch, valid)

    def check(signals: Signals) -> None:
        _check_given(signals, labels=labels)
        check_taps(signals, student, teacher, _maps)
        _check_fit(values, ((student, teacher),), signals)

    return without_parameters(Taps((student,), (teacher,)), loss.__name__, term, check)


def _at(parameters: Mapping[str, Any], step: jax.Array) -> dict[str, Any]:
    return {name: value_at(value, step) for name, value in parameters.items()}


def labels_of(signals: Signals) -> jax.Array:
    """The labels, -1 for padding: what stands there may be no class at all."""
    label, where = signals.batch["label"], signals.batch.get("where")
    return label if where is None else jnp.where(where, label, -1)


def check_labels(signals: Signals) -> None:
    """Raises ValueError unless each example has an integer for a label."""
    label, rows = signals.batch.get("label"), signals.student.logits.shape[:1]
    if label is None or label.shape != rows or not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(
            f'this objective needs integers [{rows[0]}] as batch["label"]'
            + ("" if label is None else f", and got {label.dtype} {shape_of(label)}")
        )


def _check_given(signals: Signals, *, teacher: bool = True, labels: bool = False) -> None:
    if teacher and signals.teacher.logits is None:
        raise ValueError("this objective needs a teacher, and the learner has none: distill(student, teacher, ...)")
    if labels:
        check_labels(signals)


def _of_one_batch(student: tuple[int, ...], teacher: tuple[int, ...]) -> str | None:
    if min(len(student), len(teacher)) < 2 or student[0] != teacher[0]:
        return "tap features [batch, ..., channels] of the same examples"
    return None


def _maps(student: tuple[int, ...], teacher: tuple[int, ...]) -> str | None:
    if min(len(student), len(teacher)) < 3 or student[0] != teacher[0]:
        return "tap maps [batch, *spatial, channels] before they are averaged, of the same examples"
    return None


def _check_fit(loss: Loss, layers: Sequence[tuple[str, str]], *given: Any) -> None:
    """Runs a loss on shapes alone; what it says to features that do not fit is told with their names."""
    signals: Signals = given[-1]
    try:
        jax.eval_shape(loss, *given)
    except ValueError as error:
        sides = "; ".join(
            f'student tap "{one}" is {shape_of(signals.student.taps[one])}, '
            f'teacher tap "{other}" is {shape_of(signals.teacher.taps[other])}'
            for one, other in layers
        )
        raise ValueError(f"{sides}: {error}" if layers else str(error)) from None
