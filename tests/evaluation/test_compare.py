"""Comparisons of linear classifiers whose every number can be had by hand."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

from jaxkd import models
from jaxkd.evaluation import Comparison, Participant, Statistic, compare
from jaxkd.networks import Outputs, from_linen


@pytest.fixture(scope="module")
def kernels():
    """A teacher's kernel and three seeds of a student's."""
    generator = np.random.default_rng(1)
    return generator.normal(size=(4, 3)), generator.normal(size=(3, 4, 3))


def variables(kernel):
    return {
        "params": {"kernel": jnp.asarray(kernel, jnp.float32)},
        "batch_stats": {"mean": jnp.ones((*kernel.shape[:-2], 9))},
    }


@pytest.fixture(scope="module")
def participants(linear, kernels):
    teacher, students = kernels
    network = linear()
    return [
        Participant("teacher", network, variables(teacher)),
        Participant("alone", network, variables(students[:2]), seeds=2),
        Participant("distilled", network, variables(students), seeds=3, alone=("alone",)),
    ]


@pytest.fixture(scope="module")
def comparison(participants, batches):
    return compare(participants[0], participants[1:], batches, title="noise: a to b", seconds=0.0)


def test_accuracy_retention_and_gain(comparison, kernels, images):
    labels = np.arange(11) % 3
    teacher, *students = [np.mean((images @ kernel).argmax(-1) == labels) for kernel in [kernels[0], *kernels[1]]]
    alone, distilled = comparison.students
    assert comparison.examples == 11
    assert comparison.teacher.accuracy == Statistic(pytest.approx(teacher), None, 1)
    assert distilled.accuracy == Statistic(pytest.approx(np.mean(students)), pytest.approx(np.std(students, ddof=1)), 3)
    retention = np.array(students) / teacher
    assert distilled.retention == Statistic(pytest.approx(retention.mean()), pytest.approx(retention.std(ddof=1)), 3)
    assert distilled.gains["alone"] == pytest.approx(np.mean(students) - np.mean(students[:2]))
    assert alone.gains == {}
    assert alone.accuracy.n == 2


def test_likeness_and_calibration(comparison, kernels, images):
    def log_softmax(logits):
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    teacher = log_softmax(images @ kernels[0])
    log_q = [log_softmax(images @ kernel) for kernel in kernels[1]]
    distilled = comparison.students[1]
    agrees = np.array([q.argmax(-1) == teacher.argmax(-1) for q in log_q])
    assert distilled.agreement.mean == pytest.approx(agrees.mean())
    assert distilled.kl_to_teacher.mean == pytest.approx(
        np.mean([(np.exp(teacher) * (teacher - q)).sum(-1) for q in log_q]), rel=1e-4
    )
    assert distilled.per_class_agreement == pytest.approx([agrees[:, c::3].mean() for c in range(3)])
    assert sum(distilled.reliability.counts) == 3 * 11
    filled = np.array(distilled.reliability.counts) > 0
    right = np.array(distilled.reliability.counts)[filled] @ np.array(distilled.reliability.accuracy)[filled]
    assert right == pytest.approx(33 * distilled.accuracy.mean, rel=1e-5)
    assert comparison.teacher.agreement.mean == 1
    assert comparison.teacher.kl_to_teacher.mean == 0


def test_costs(comparison):
    alone, distilled = comparison.students
    assert (distilled.parameters, distilled.compression, distilled.flops) == (12, 1.0, 24.0)
    assert [timing.batch_size for timing in distilled.timings] == [1, 4]
    # Of one network with variables of one shape the costs are one measurement.
    assert alone.timings == distilled.timings
    assert distilled.timings[0].speed_up == 1.0


def test_compression_and_speed_up_of_a_smaller_student(batches):
    image = jnp.zeros((1, 2, 2, 1))
    big, small = models.create("mlp_32", 3), models.create("mlp_2", 3)
    teacher = Participant("big", from_linen(big), big.init(jax.random.key(0), image))
    student = Participant("small", from_linen(small), small.init(jax.random.key(0), image))
    got = compare(teacher, [student], batches, seconds=0.0)
    assert (got.teacher.parameters, got.students[0].parameters) == (4 * 32 + 32 + 32 * 3 + 3, 4 * 2 + 2 + 2 * 3 + 3)
    assert got.students[0].compression == pytest.approx(259 / 19)
    for ours, theirs in zip(got.students[0].timings, got.teacher.timings, strict=True):
        assert ours.speed_up == pytest.approx(theirs.median / ours.median)
    assert "1/13.6 of its parameters" in got.verdict()
    assert "seeds" not in got.verdict()


def test_json_round_trip(comparison):
    missing = dataclasses.replace(comparison.students[0], per_class_agreement=(0.5, math.nan, 1.0), flops=None)
    one = dataclasses.replace(comparison, students=(missing, comparison.students[1]))
    text = one.to_json()
    json.loads(text, parse_constant=pytest.fail)  # no NaN, which is no JSON
    back = Comparison.from_json(text)
    assert back.to_json() == text
    assert back.students[1].accuracy == one.students[1].accuracy
    assert math.isnan(back.students[0].per_class_agreement[1])
    assert back.rows() == one.rows()
    with pytest.raises(ValueError, match="not the JSON of a comparison"):
        Comparison.from_json('{"teacher": 1}')


def printed(comparison):
    console = rich.console.Console(width=200)
    with console.capture() as capture:
        console.print(comparison.table())
    return capture.get()


def test_tables_show_the_same_cells(comparison):
    terminal, markdown = printed(comparison), comparison.to_markdown()
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    for name, cells in comparison.rows():
        assert len(cells) == 3
        for text in [name, *filter(None, cells)]:
            assert text in terminal
            assert text in markdown
    rows = dict(comparison.rows())
    mean, spread = comparison.students[1].accuracy.mean, comparison.students[1].accuracy.spread
    assert rows["accuracy"][2] == f"{100 * mean:.1f} ± {100 * spread:.1f} %"
    assert rows["gain over alone"] == ["", "", f"{100 * comparison.students[1].gains['alone']:+.1f} points"]


def test_names_are_not_markup(comparison):
    odd = dataclasses.replace(
        comparison, title="[red]", teacher=dataclasses.replace(comparison.teacher, name="a|b [bold]")
    )
    text = printed(odd)
    assert "[red]" in text
    assert "a|b [bold]" in text
    assert r"a\|b \[bold\]" in odd.to_markdown()


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.3, "beats “alone” by 30.0 points"),
        (-0.3, "is 30.0 points behind “alone”"),
        (0.01, "within the spread over seeds"),
    ],
)
def test_verdict(comparison, gain, words):
    alone = dataclasses.replace(comparison.students[0], accuracy=Statistic(0.5, 0.02, 3))
    best = dataclasses.replace(
        comparison.students[1],
        accuracy=Statistic(0.5 + gain, 0.01, 3),
        retention=Statistic(0.625 + gain, 0.02, 3),
        gains={"alone": gain},
    )
    verdict = dataclasses.replace(comparison, students=(alone, best)).verdict()
    assert words in verdict
    assert f"keeps {62.5 + 100 * gain:.1f} % of the teacher's accuracy" in verdict
    assert "(mean of 3 seeds)" in verdict


def test_logits_that_are_not_finite(participants, batches):
    teacher, alone, distilled = participants
    kernel = teacher.variables["params"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="logits of teacher 'teacher' are not finite for 11 of 11 examples"):
        compare(teacher._replace(variables={**teacher.variables, "params": {"kernel": kernel}}), [alone], batches)
    kernel = distilled.variables["params"]["kernel"].at[2, 0, 0].set(jnp.inf)
    bad = distilled._replace(variables={**distilled.variables, "params": {"kernel": kernel}}, alone=())
    with pytest.raises(ValueError, match="student 'distilled', seed 2 are not finite"):
        compare(teacher, [bad], batches)


def test_class_counts_are_compared_before_anything_runs(participants, batches):
    teacher, alone, _ = participants
    narrow = alone._replace(variables=variables(np.ones((2, 4, 2))))
    with pytest.raises(ValueError, match="teacher 'teacher' has 3 classes, student 'alone' has 2"):
        compare(teacher, [narrow], batches)


def test_logits_by_head_are_refused(participants, batches):
    teacher, alone, _ = participants
    heads = teacher.network._replace(apply=lambda v, batch, train: (Outputs({"a": batch["image"]}), {}))
    with pytest.raises(ValueError, match=r"logits of 'teacher' are \{'a'.*one array"):
        compare(teacher._replace(network=heads), [alone], batches)


def test_participants_that_do_not_fit(participants, batches):
    teacher, alone, distilled = participants
    for students, message in [
        ([], "students is empty"),
        ([alone._replace(name="teacher")], "names have to differ"),
        ([distilled], "alone=\\('alone',\\), but the others are"),
        ([distilled._replace(alone=("distilled",))], r"alone=\('distilled',\)"),
        ([alone._replace(seeds=5)], re.escape("seeds=5, but the leading axes of its variables are [2]")),
    ]:
        with pytest.raises(ValueError, match=message):
            compare(teacher, students, batches)
    with pytest.raises(ValueError, match="teacher 'alone' has seeds=2"):
        compare(alone, [teacher], batches)


def test_labels_that_do_not_fit(participants, linear, batches):
    teacher, alone, _ = participants

    def relabelled(label):
        class Relabelled:
            source, steps, chunk = batches.source, batches.steps, batches.chunk

            def fetch(self, source, x):
                batch = batches.fetch(source, x)
                return {**batch, "label": jnp.full_like(batch["label"], label)}

        return Relabelled()

    with pytest.raises(ValueError, match="no labelled example"):
        compare(teacher, [alone], relabelled(-1))
    with pytest.raises(ValueError, match="example 0 has label 3, but there are 3 classes"):
        compare(teacher, [alone], relabelled(3))


def test_a_second_comparison_compiles_no_second_prediction(linear, kernels, batches):
    traces = []
    network = linear(traces.append)
    teacher = Participant("teacher", network, variables(kernels[0]))
    student = Participant("student", network, variables(kernels[1]), seeds=3)
    compare(teacher, [student], batches, seconds=0.0)
    first = len(traces)
    compare(teacher, [student], batches, seconds=0.0)
    # Class counts (2) and costs (2 batch sizes) are traced anew; the two predictions are not.
    assert (first, len(traces) - first) == (6, 4)
