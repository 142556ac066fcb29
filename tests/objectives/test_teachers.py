"""Soft labels of several teachers: sums by hand, the gradient of one mean teacher, and who is listened to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxkd.networks import Outputs
from jaxkd.objectives import Signals, soft_labels

RNG = np.random.default_rng(0)
STUDENT, TEACHERS = RNG.normal(size=(4, 5)), RNG.normal(size=(3, 4, 5)) * 2
T = 2.0


def signals(student=STUDENT, teachers=TEACHERS, seed=0, **batch):
    teachers = {str(i): jnp.asarray(x, jnp.float32) for i, x in enumerate(teachers)}
    student = Outputs(jnp.asarray(student, jnp.float32))
    return Signals(student, Outputs(teachers), {}, batch, jnp.int32(0), jax.random.key(seed))


def value(objective, given):
    assert objective.init(jax.random.key(0), given) == {}
    (term,) = objective.apply({}, given)[0].values()
    return term.sum / term.count


def divergences():
    """[teachers, batch]."""
    log_q, p = log_softmax(STUDENT / T, -1), softmax(TEACHERS / T, -1)
    return T**2 * np.sum(p * (np.log(p) - log_q), -1)


@pytest.mark.parametrize("weights", [None, (0.5, 0.25, 2.0)])
def test_sums_by_hand(weights):
    expected = np.mean(np.array(weights or (1, 1, 1)) @ divergences())
    np.testing.assert_allclose(value(soft_labels(T, weights=weights), signals()), expected, rtol=1e-5)


def test_the_gradient_is_that_of_the_mean_of_softened_predictions():
    shares = (0.2, 0.3, 0.5)
    objective = soft_labels(T, weights=shares)
    got = jax.grad(lambda z: value(objective, signals()._replace(student=Outputs(z))))(jnp.float32(STUDENT))
    mean = np.tensordot(np.array(shares), softmax(TEACHERS / T, -1), 1)
    np.testing.assert_allclose(got, T * (softmax(STUDENT / T, -1) - mean) / len(STUDENT), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_step_listens_to_as_many_as_are_kept_and_in_time_to_all(keep):
    each, listened = divergences().mean(1), []
    kept = list(itertools.combinations(range(3), keep))
    for seed in range(30):
        got = float(value(soft_labels(T, keep=keep), signals(seed=seed)))
        sums = {i: each[list(some)].sum() for i, some in enumerate(kept)}
        nearest = min(sums, key=lambda i: abs(sums[i] - got))
        np.testing.assert_allclose(got, sums[nearest], rtol=1e-5)
        listened.append(nearest)
    assert min(np.bincount(listened, minlength=3)) >= 3
    # One key, one choice.
    assert value(soft_labels(T, keep=keep), signals()) == value(soft_labels(T, keep=keep), signals())


def test_padding_is_nothing():
    where = jnp.array([True, False, True, True])
    spoilt = [np.where(np.asarray(where)[:, None], x, np.nan) for x in (STUDENT, TEACHERS)]
    got = value(soft_labels(T), signals(*spoilt, where=where))
    np.testing.assert_allclose(got, divergences().sum(0)[np.asarray(where)].mean(), rtol=1e-5)


BAD = {
    "temperature": (lambda: soft_labels(0.0), "temperature is 0.0: it has to be above 0"),
    "weight": (lambda: soft_labels(weights=(1.0, -1.0)), r"weights \[2\] has -1.0 in it: it has to lie in"),
    "keep": (lambda: soft_labels(keep=0), "keep is 0: a step listens to a teacher at least"),
    "one": (
        lambda: value(soft_labels(), signals()._replace(teacher=Outputs(jnp.zeros((4, 5))))),
        "takes several teachers: give distill their networks.side_by_side",
    ),
    "weights": (lambda: value(soft_labels(weights=(1.0,)), signals()), "weights has 1 for 3 teachers: give one for"),
    "kept": (lambda: value(soft_labels(keep=4), signals()), "keep is 4, and there are 3 teachers: keep as many at"),
    "classes": (
        lambda: value(soft_labels(), signals(teachers=[TEACHERS[0], TEACHERS[1, :, :4]])),
        r"student logits \[4,5\], teachers' \{'1': '\[4,4\]'\}: all need the same classes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()
