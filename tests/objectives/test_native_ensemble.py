"""ONE's gated ensemble of branches, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxkd.networks import Outputs
from jaxkd.objectives import Signals, native_ensemble

RNG = np.random.default_rng(0)
LOGITS, TRUNK = RNG.normal(size=(3, 4, 5)) * 2, RNG.normal(size=(4, 2, 2, 6))
LABEL = np.array([1, -1, 4, 0])
WHERE = np.array([True, True, True, False])
T = 3.0


def signals(logits=LOGITS, trunk=TRUNK, label=LABEL):
    spoilt = [np.where(WHERE[:, None], logits, np.nan), np.where(WHERE[:, None, None, None], trunk, np.nan)]
    logits, trunk = (jnp.asarray(x, jnp.float32) for x in spoilt)
    batch = {"label": jnp.asarray(label), "where": jnp.asarray(WHERE)}
    return Signals(Outputs(logits, {"trunk": trunk}), Outputs(None), {}, batch, jnp.int32(3), jax.random.key(0))


def started(objective):
    variables = objective.init(jax.random.key(0), signals())
    # Not the ones and zeros that norms start from.
    return jax.tree.map(lambda x: x + 0.3 * RNG.standard_normal(x.shape).astype(np.float32), variables)


def values(objective, params, logits):
    given = signals()
    given = given._replace(student=given.student._replace(logits=logits))
    terms, _, _ = objective.apply({"params": params}, given)
    return {name: (term.weight, term.sum / term.count) for name, term in terms.items()}


def by_hand(params):
    """The ensemble's logits of the valid examples, in float64."""
    gate = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = TRUNK[WHERE].mean((1, 2)) @ gate["linear"]["kernel"] + gate["linear"]["bias"]
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * gate["norm"]["scale"] + gate["norm"]["bias"]
    return np.einsum("bk,kbc->bc", softmax(np.maximum(x, 0), -1), LOGITS[:, WHERE])


def test_its_terms_by_hand():
    objective = native_ensemble("trunk", weight=lambda step: 0.1 * step, temperature=T)
    params = started(objective)["params"]
    got = values(objective, params, signals().student.logits)
    ensemble, z = by_hand(params), LOGITS[:, WHERE]
    labelled = np.array([0, 2])  # of the valid ones

    def cross_entropy(logits):
        return -np.mean(log_softmax(logits, -1)[labelled, LABEL[labelled]])

    p = softmax(ensemble / T, -1)
    divergence = [T**2 * np.sum(p * (np.log(p) - log_softmax(own / T, -1)), -1).mean() for own in z]
    np.testing.assert_allclose(got["hard"], [1, sum(map(cross_entropy, z))], rtol=1e-5)
    np.testing.assert_allclose(got["ensemble"], [1, cross_entropy(ensemble)], rtol=1e-5)
    np.testing.assert_allclose(got["soft"], [0.3, sum(divergence)], rtol=1e-5)


def test_the_ensemble_learns_from_labels_and_teaches_without_a_gradient():
    objective = native_ensemble("trunk", temperature=T)
    params = started(objective)["params"]

    def of(term):
        def value(params, logits):
            return values(objective, params, logits)[term][1]

        return jax.grad(value, argnums=(0, 1))(params, signals().student.logits)

    of_gate = {term: any(np.any(x) for x in jax.tree.leaves(of(term)[0])) for term in ("hard", "soft", "ensemble")}
    assert of_gate == {"hard": False, "soft": False, "ensemble": True}
    target, z = softmax(by_hand(params) / T, -1), LOGITS[:, WHERE]
    got = np.asarray(of("soft")[1])
    np.testing.assert_allclose(got[:, WHERE], T * (softmax(z / T, -1) - target) / WHERE.sum(), rtol=1e-4, atol=1e-6)
    assert not np.any(got[:, ~WHERE])


@pytest.mark.parametrize(
    ("logits", "trunk"), [(LOGITS[0], TRUNK), (LOGITS, TRUNK[:3])], ids=["one branch", "another batch"]
)
def test_what_is_no_branch_is_told(logits, trunk):
    given = signals()._replace(student=Outputs(jnp.asarray(logits), {"trunk": jnp.asarray(trunk)}))
    with pytest.raises(ValueError, match=r"they have to be \[branches, batch, classes\] and \[batch, ..., features\]"):
        native_ensemble("trunk").init(jax.random.key(0), given)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"weight is -1\.0"):
        native_ensemble("trunk", weight=-1.0)
    with pytest.raises(ValueError, match=r"temperature is 0\.0"):
        native_ensemble("trunk", temperature=0.0)
