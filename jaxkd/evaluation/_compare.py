"""Measures students beside their teacher."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.evaluation import _cost, _metrics
from jaxkd.evaluation._comparison import Comparison, Entry, Reliability, Statistic, Timing
from jaxkd.evaluation._predict import Batches, on_device, predict, predict_labelled
from jaxkd.networks import Batch, Network, Outputs, Variables


class Participant(NamedTuple):
    """A network with its weights, or with those of several seeds.

    Attributes:
      name: for the tables.
      network: the model.
      variables: its variables. With ``seeds=n`` every leaf has a leading axis of length n.
      seeds: how many seeds ``variables`` holds; None: the variables of one network, without that axis.
      alone: the names of the students, trained without the teacher, that this one is to beat.
      of: the name of the student that this one is made of, in int8 say, and is to be like; of as many seeds.
    """

    name: str
    network: Network
    variables: Variables
    seeds: int | None = None
    alone: tuple[str, ...] = ()
    of: str | None = None


def compare(
    teacher: Participant, students: Sequence[Participant], batches: Batches, *, title: str = "", seconds: float = 1.0
) -> Comparison:
    """Compares students with their teacher in accuracy, likeness, calibration and cost.

    Costs are those of one forward pass of one network, whatever the number of seeds, of one example and of a batch.
    Participants that share a network share its costs.

    Args:
      teacher: of one seed.
      students: at least one.
      batches: every example of a split once, as ``jaxkd.data.padded_batches`` gives them.
      title: what is compared on what, for headings.
      seconds: how long to time each latency for at most.

    Returns:
      The comparison: ``.table()`` for a terminal, ``.to_markdown()``, ``.to_json()``; `write_report` draws it.

    Raises:
      ValueError: if names clash, ``alone`` or ``of`` is none of them, leaves have no axis of seeds, teacher and student
        have different numbers of classes, logits are not finite, or labels are missing or out of range.
    """
    _check_names(teacher, students)
    batches = on_device(batches)
    batch = jax.jit(batches.fetch)(batches.source, jax.tree.map(lambda x: x[0], batches.chunk(0, 1)))
    classes = _check_classes(teacher, students, batch)
    teacher_logits, labels = predict_labelled(teacher.network, teacher.variables, batches)
    _check_finite(f"teacher {teacher.name!r}", teacher_logits)
    _check_labels(labels, classes)

    costs: dict[Any, _Cost] = {}
    measured: dict[str, Mapping[str, np.ndarray]] = {}
    predictions: dict[str, np.ndarray] = {}
    for participant in (teacher, *students):
        logits = teacher_logits if participant is teacher else _student_logits(participant, batches)
        predictions[participant.name] = logits.argmax(-1)
        measured[participant.name] = jax.device_get(_measure(logits, teacher_logits, labels))
        if _cost_key(participant) not in costs:
            costs[_cost_key(participant)] = _measure_cost(participant, batch, seconds)
    entries = [
        dataclasses.replace(
            _entry(participant, measured, costs[_cost_key(participant)], teacher.name, costs[_cost_key(teacher)]),
            likeness=_likeness(participant, predictions),
        )
        for participant in (teacher, *students)
    ]
    return Comparison(title, jax.devices()[0].device_kind, len(labels), entries[0], tuple(entries[1:]))


@dataclasses.dataclass(frozen=True)
class _OverSeeds:
    """An ``apply`` for variables with a leading axis of seeds.

    A dataclass rather than a closure: of one ``apply`` it is always the same key to ``jit``. One seed after the other
    (``lax.map``), because convolutions under ``vmap`` become grouped ones, which are slow.
    """

    apply: Callable[..., tuple[Outputs, Variables]]

    def __call__(self, variables: Variables, batch: Batch, *, train: bool) -> tuple[Outputs, Variables]:
        return jax.lax.map(lambda one: self.apply(one, batch, train=train)[0], variables), {}


class _Cost(NamedTuple):
    parameters: int
    bytes: int
    flops: float | None
    memory: int | None
    latencies: Mapping[int, _cost.Latency]


def _student_logits(student: Participant, batches: Batches) -> np.ndarray:
    """Gives [examples, classes], or [seeds, examples, classes]."""
    network = student.network
    if student.seeds is not None:
        network = network._replace(apply=_OverSeeds(network.apply))
    logits = predict(network, student.variables, batches)
    for seed, one in enumerate(logits if student.seeds is not None else [logits]):
        _check_finite(f"student {student.name!r}" + (f", seed {seed}" if student.seeds is not None else ""), one)
    return logits


@jax.jit
def _measure(logits: jax.Array, teacher_logits: jax.Array, labels: jax.Array) -> dict[str, Any]:
    """Gives every metric, over a leading axis of seeds that one seed has too."""
    logits = logits.reshape(-1, *teacher_logits.shape)
    calibration = _metrics.expected_calibration_error(logits, labels)
    pooled = _metrics.expected_calibration_error(
        logits.reshape(-1, logits.shape[-1]), jnp.tile(labels, logits.shape[0])
    )
    return {
        "accuracy": _metrics.accuracy(logits, labels),
        "negative_log_likelihood": _metrics.negative_log_likelihood(logits, labels),
        "agreement": _metrics.agreement(logits, teacher_logits),
        "kl_to_teacher": _metrics.kl_to_teacher(logits, teacher_logits),
        "calibration_error": calibration.error,
        "per_class_agreement": _metrics.per_class_agreement(logits, teacher_logits, labels).mean(0),
        "reliability": pooled,
    }


def _one_seed(participant: Participant) -> Variables:
    if participant.seeds is None:
        return participant.variables
    return jax.tree.map(lambda leaf: leaf[0], participant.variables)


def _cost_key(participant: Participant) -> Any:
    """Equal for participants of one network with variables of one shape: they cost the same."""
    shapes = jax.eval_shape(lambda: _one_seed(participant))
    return participant.network.apply, str(shapes)


def _measure_cost(participant: Participant, batch: Batch, seconds: float) -> _Cost:
    variables = _one_seed(participant)
    one = jax.tree.map(lambda leaf: leaf[:1], batch)
    compiled = _cost.compile_forward(participant.network, variables, one)
    latencies = {1: _cost.latency(compiled, variables, one, seconds=seconds)}
    size = len(batch["where"])
    if size > 1:
        whole = _cost.compile_forward(participant.network, variables, batch)
        latencies[size] = _cost.latency(whole, variables, batch, seconds=seconds)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    return _Cost(_cost.parameter_count(variables), size, _cost.flops(compiled), _cost.memory(compiled), latencies)


def _entry(
    participant: Participant, measured: Mapping[str, Mapping[str, Any]], cost: _Cost, teacher: str, teacher_cost: _Cost
) -> Entry:
    values, reference = measured[participant.name], measured[teacher]["accuracy"][0]
    mean = values["accuracy"].mean()
    bins = values["reliability"]
    return Entry(
        name=participant.name,
        accuracy=statistic(values["accuracy"]),
        retention=statistic(values["accuracy"] / reference if reference else np.full_like(values["accuracy"], np.nan)),
        gains={name: float(mean - measured[name]["accuracy"].mean()) for name in participant.alone},
        agreement=statistic(values["agreement"]),
        kl_to_teacher=statistic(values["kl_to_teacher"]),
        calibration_error=statistic(values["calibration_error"]),
        negative_log_likelihood=statistic(values["negative_log_likelihood"]),
        parameters=cost.parameters,
        bytes=cost.bytes,
        compression=teacher_cost.parameters / cost.parameters if teacher_cost.parameters and cost.parameters else None,
        flops=cost.flops,
        memory=cost.memory,
        timings=tuple(
            Timing(size, latency.median, latency.p95, teacher_cost.latencies[size].median / latency.median)
            for size, latency in cost.latencies.items()
        ),
        reliability=Reliability(*(tuple(bins_of.tolist()) for bins_of in bins[1:])),
        per_class_agreement=tuple(values["per_class_agreement"].tolist()),
    )


def _likeness(participant: Participant, predictions: Mapping[str, np.ndarray]) -> dict[str, Statistic]:
    """How often each seed predicts what the one that it was made of predicts."""
    if participant.of is None:
        return {}
    same = predictions[participant.name] == predictions[participant.of]
    return {participant.of: statistic(np.atleast_1d(same.mean(-1)))}


def statistic(values: Any) -> Statistic:
    """Mean and spread of values, [seeds]."""
    values = np.asarray(values, np.float64)
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return Statistic(float(values.mean()), spread, len(values))


def _check_names(teacher: Participant, students: Sequence[Participant]) -> None:
    if not students:
        raise ValueError("students is empty: there is nothing to compare the teacher with")
    if teacher.seeds is not None:
        raise ValueError(f"teacher {teacher.name!r} has seeds={teacher.seeds}: pass the variables of one seed")
    names = [participant.name for participant in (teacher, *students)]
    if len(set(names)) < len(names):
        raise ValueError(f"participants are called {', '.join(names)}: names have to differ")
    for student in students:
        if not set(student.alone) <= {other.name for other in students} - {student.name}:
            raise ValueError(f"student {student.name!r} has alone={student.alone!r}, but the others are {names}")
        original = next((other for other in students if other.name == student.of and other is not student), None)
        if student.of is not None and (original is None or original.seeds != student.seeds):
            raise ValueError(
                f"student {student.name!r} is of={student.of!r} with seeds={student.seeds}: it has to be of another "
                f"student with as many; the others are {names}"
            )
        axes = {leaf.shape[:1] for leaf in jax.tree.leaves(student.variables)}
        if student.seeds is not None and axes != {(student.seeds,)}:
            raise ValueError(
                f"student {student.name!r} has seeds={student.seeds}, but the leading axes of its variables are "
                f"{sorted(axis[0] if axis else 'none' for axis in axes)}"
            )


def _check_classes(teacher: Participant, students: Sequence[Participant], batch: Batch) -> int:
    classes: dict[str, int] = {}
    for participant in (teacher, *students):
        apply = participant.network.apply
        if participant.seeds is not None:
            apply = _OverSeeds(apply)
        outputs, _ = jax.eval_shape(functools.partial(apply, train=False), participant.variables, batch)
        if not isinstance(outputs.logits, jax.ShapeDtypeStruct):
            raise ValueError(f"the logits of {participant.name!r} are {outputs.logits}: compare needs one array")
        classes[participant.name] = outputs.logits.shape[-1]
        if classes[participant.name] != classes[teacher.name]:
            raise ValueError(
                f"teacher {teacher.name!r} has {classes[teacher.name]} classes, student {participant.name!r} has "
                f"{classes[participant.name]}: both have to classify alike"
            )
    return classes[teacher.name]


def _check_finite(who: str, logits: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(-1))
    if bad.size:
        raise ValueError(
            f"the logits of {who} are not finite for {bad.size} of {len(logits)} examples, first example {bad[0]}: "
            "its weights or its input are broken"
        )


def _check_labels(labels: np.ndarray, classes: int) -> None:
    if not (labels >= 0).any():
        raise ValueError("batches have no labelled example: there is no accuracy to compare")
    if labels.max() >= classes:
        raise ValueError(f"example {labels.argmax()} has label {labels.max()}, but there are {classes} classes")
