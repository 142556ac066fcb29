"""What born-again networks learn, against loops over examples in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import objectives
from jaxkd.networks import Outputs
from jaxkd.objectives import Signals
from jaxkd.objectives._born_again import _permute_others

BATCH, CLASSES = 6, 5


def signals(student, teacher, label, where=None, key=0):
    batch = {"image": np.zeros((len(student), 1)), "label": np.asarray(label)}
    if where is not None:
        batch["where"] = np.asarray(where)
    outputs = (Outputs(jnp.asarray(x, jnp.float32)) for x in (student, teacher))
    return Signals(*outputs, {}, batch, jnp.zeros((), jnp.int32), jax.random.key(key), None, {})


def logits(seed, scale=3.0):
    return scale * np.random.default_rng(seed).normal(size=(BATCH, CLASSES))


def mean(objective, seen):
    objective.init(jax.random.key(0), jax.eval_shape(lambda: seen))
    (term,) = objective.apply({}, seen)[0].values()
    return float(term.sum / jnp.maximum(term.count, 1))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("masked", [False, True])
def test_labels_count_by_how_sure_the_teacher_is(masked):
    student, teacher, label = logits(0), logits(1, 0.2), np.array([0, 4, -1, 2, 1, -1])
    where = np.array([1, 1, 1, 0, 1, 1], bool) if masked else None
    total = weights = 0.0
    for i in range(BATCH):
        if label[i] >= 0 and (where is None or where[i]):
            weight = softmax(teacher[i]).max()
            total += -weight * np.log(softmax(student[i])[label[i]])
            weights += weight
    value = mean(objectives.confidence_weighted_label(), signals(student, teacher, label, where))
    np.testing.assert_allclose(value, total / weights, rtol=1e-6)


def test_one_labelled_example_is_its_cross_entropy():
    """Its weight is below 1, and there is no other."""
    student, teacher = logits(0), np.zeros((BATCH, CLASSES))
    value = mean(objectives.confidence_weighted_label(), signals(student, teacher, [3] + [-1] * (BATCH - 1)))
    np.testing.assert_allclose(value, -np.log(softmax(student[0])[3]), rtol=1e-6)


def test_labels_that_are_no_integers_are_refused():
    seen = signals(logits(0), logits(1), np.zeros((BATCH, CLASSES), np.float32))
    with pytest.raises(ValueError, match="needs integers"):
        objectives.confidence_weighted_label().init(jax.random.key(0), seen)


def test_permuted_keeps_the_largest_in_its_place():
    row = jnp.asarray([0.5, -1.0, 3.0, 2.0, 0.0])
    drawn = np.asarray(jax.vmap(_permute_others, (0, None))(jax.random.split(jax.random.key(0), 4000), row))
    assert np.all(drawn[:, 2] == 3.0)
    assert np.all(np.sort(drawn, 1) == np.sort(row))
    # Each of the others is everywhere equally often.
    for value in (0.5, -1.0, 2.0, 0.0):
        share = (drawn[:, [0, 1, 3, 4]] == value).mean(0)
        np.testing.assert_allclose(share, 0.25, atol=0.03)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_labels_of_permuted_logits(temperature):
    student, teacher = logits(0), logits(1)
    seen = signals(student, teacher, [-1] * BATCH)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(seen.rng, jnp.arange(BATCH))
    permuted = np.asarray(jax.vmap(_permute_others)(keys, jnp.asarray(teacher, jnp.float32)), np.float64)
    expected = []
    for i in range(BATCH):
        p, q = softmax(permuted[i] / temperature), softmax(student[i] / temperature)
        expected.append(temperature**2 * np.sum(p * np.log(p / q)))
    np.testing.assert_allclose(mean(objectives.permuted_soft_label(temperature), seen), np.mean(expected), rtol=1e-5)
    again = signals(student, teacher, [-1] * BATCH, key=1)
    assert mean(objectives.permuted_soft_label(temperature), again) != pytest.approx(np.mean(expected), rel=1e-3)


def test_no_teacher_and_temperature():
    seen = signals(logits(0), logits(1), [0] * BATCH)._replace(teacher=Outputs(None))
    for objective in (objectives.confidence_weighted_label(), objectives.permuted_soft_label()):
        with pytest.raises(ValueError, match="needs a teacher"):
            objective.init(jax.random.key(0), seen)
    with pytest.raises(ValueError, match="temperature"):
        objectives.permuted_soft_label(0.0)
