"""Metrics against float64 loops, and hand-made cases: ties, masks, nothing to count."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import evaluation

SEEDS, BATCH, CLASSES = 3, 40, 5


def softmax(row):
    top = max(row)
    exponentials = [math.exp(value - top) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def argmax(row):
    return max(range(len(row)), key=lambda i: (row[i], -i))


def mean(values):
    return sum(values) / len(values) if values else math.nan


def oracle(logits, teacher, labels, where, bins=15):
    """Every metric of one participant, from its definition, one example at a time."""
    seen = [i for i in range(len(labels)) if where[i]]
    known = [i for i in seen if labels[i] >= 0]
    p, q = [softmax(row) for row in teacher], [softmax(row) for row in logits]
    out = {
        "accuracy": mean([argmax(logits[i]) == labels[i] for i in known]),
        "negative_log_likelihood": mean([-math.log(q[i][labels[i]]) for i in known]),
        "agreement": mean([argmax(logits[i]) == argmax(teacher[i]) for i in seen]),
        "kl_to_teacher": mean([sum(a * math.log(a / b) for a, b in zip(p[i], q[i], strict=True)) for i in seen]),
        "per_class_agreement": [
            mean([argmax(logits[i]) == argmax(teacher[i]) for i in known if labels[i] == c]) for c in range(CLASSES)
        ],
        "counts": [],
        "error": 0.0 if known else math.nan,
    }
    for b in range(bins):
        members = [i for i in known if b / bins < max(q[i]) <= (b + 1) / bins]
        out["counts"].append(len(members))
        if members:
            gap = mean([argmax(logits[i]) == labels[i] for i in members]) - mean([max(q[i]) for i in members])
            out["error"] += abs(gap) * len(members) / len(known)
    return out


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (SEEDS, BATCH, CLASSES)).round(2)
    teacher = logits[0] + generator.normal(0, 1, (BATCH, CLASSES))
    labels = generator.integers(-1, CLASSES, BATCH)
    where = generator.random(BATCH) < 0.8
    assert (labels < 0).any()
    return logits, teacher, labels, where


@jax.jit  # op by op, each shape would cost dozens of small compilations
def every_metric(logits, teacher, labels, where=None):
    calibration = evaluation.expected_calibration_error(logits, labels, where=where)
    return {
        "accuracy": evaluation.accuracy(logits, labels, where=where),
        "negative_log_likelihood": evaluation.negative_log_likelihood(logits, labels, where=where),
        "agreement": evaluation.agreement(logits, teacher, where=where),
        "kl_to_teacher": evaluation.kl_to_teacher(logits, teacher, where=where),
        "per_class_agreement": evaluation.per_class_agreement(logits, teacher, labels, where=where),
        "counts": calibration.counts,
        "error": calibration.error,
    }


def test_against_loops_for_every_seed(data):
    logits, teacher, labels, where = data
    got = every_metric(logits, teacher, labels, where)
    for seed in range(SEEDS):
        for name, expected in oracle(logits[seed], teacher, labels, where).items():
            np.testing.assert_allclose(got[name][seed], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_mask_is_dropping_the_rows(data):
    logits, teacher, labels, where = data
    whole = every_metric(logits, teacher, labels, where)
    rest = every_metric(logits[:, where], teacher[where], labels[where])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, rest)


def test_masked_rows_may_hold_anything(data):
    logits, teacher, labels, where = data
    broken = np.where(where[:, None], logits, np.nan)
    got = every_metric(broken, np.where(where[:, None], teacher, np.inf), labels, where)
    jax.tree.map(np.testing.assert_array_equal, got, every_metric(logits, teacher, labels, where))


def test_a_mask_for_each_seed(data):
    logits, _, labels, _ = data
    where = np.arange(BATCH) < np.array([[10], [20], [30]])
    got = evaluation.accuracy(logits, labels, where=where)
    for seed in range(SEEDS):
        assert got[seed] == pytest.approx(oracle(logits[seed], logits[0], labels, where[seed])["accuracy"])


def test_nothing_to_count_is_nan(data):
    logits, teacher, labels, _ = data
    nothing = every_metric(logits, teacher, labels, np.zeros(BATCH, bool))
    assert not nothing.pop("counts").any()
    assert all(np.isnan(value).all() for value in nothing.values())
    unlabelled = every_metric(logits, teacher, np.full(BATCH, -1), np.ones(BATCH, bool))
    assert np.isnan(unlabelled["accuracy"]).all()
    assert np.isfinite(unlabelled["agreement"]).all()


def test_ties_go_to_the_lowest_class():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 3.0, 3.0]])
    assert evaluation.accuracy(logits, np.array([0, 1, 0])) == 1
    assert evaluation.accuracy(logits, np.array([1, 2, 2])) == 0
    assert evaluation.agreement(logits, np.array([[5.0, 1, 1], [0, 1, 9], [1, 0, 0]])) == pytest.approx(2 / 3)


def test_the_teacher_itself(data):
    _, teacher, _, _ = data
    assert evaluation.agreement(teacher, teacher) == 1
    assert evaluation.kl_to_teacher(teacher, teacher) == 0


def test_bins_are_open_below_and_closed_above():
    # Two classes with equal logits: the confidence is exactly 0.5, the upper edge of the first of two bins.
    got = evaluation.expected_calibration_error(np.zeros((4, 2)), np.array([0, 0, 0, 1]), bins=2)
    np.testing.assert_array_equal(got.counts, [4, 0])
    np.testing.assert_allclose(got.error, 0.25)
    np.testing.assert_allclose(got.edges, [0, 0.5, 1])
    np.testing.assert_array_equal(got.accuracy, [0.75, np.nan])
    np.testing.assert_array_equal(got.confidence, [0.5, np.nan])


def test_calibrated_by_construction():
    # 10 examples at confidence 0.8 of which 8 are right, 10 at 0.6 of which 3 are right: error 0.5 * 0.3.
    def at(confidence):
        return [math.log(confidence), math.log(1 - confidence)]

    logits = np.array([at(0.8)] * 10 + [at(0.6)] * 10)
    labels = np.array([0] * 8 + [1] * 2 + [0] * 3 + [1] * 7)
    got = evaluation.expected_calibration_error(logits, labels)
    np.testing.assert_allclose(got.error, 0.15, atol=1e-6)


def test_extreme_logits_are_finite_and_precise():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    values = every_metric(logits, -logits, np.array([0, 0]))
    assert np.isfinite(values["kl_to_teacher"])
    assert values["accuracy"] == 0.5
    half = jnp.asarray(logits, jnp.bfloat16)
    assert evaluation.negative_log_likelihood(half, np.array([0, 1])).dtype == jnp.float32
    assert evaluation.expected_calibration_error(half, np.array([0, 1])).error == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation.accuracy(np.zeros(3), np.zeros(3, int)), r"logits \[3\].*batch, classes"),
        (lambda: evaluation.accuracy(np.zeros((4, 3)), np.zeros(5, int)), r"labels \[5\], logits \[4, 3\]"),
        (lambda: evaluation.accuracy(np.zeros((4, 3)), np.zeros(4)), "labels are float32"),
        (lambda: evaluation.accuracy(np.zeros((4, 3)), np.zeros(4, int), where=np.ones(3)), r"where \[3\]"),
        (lambda: evaluation.agreement(np.zeros((4, 3)), np.zeros((4, 2))), r"student.*\[4, 3\].*teacher.*\[4, 2\]"),
        (lambda: evaluation.expected_calibration_error(np.zeros((4, 3)), np.zeros(4, int), bins=0), "bins is 0"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()
