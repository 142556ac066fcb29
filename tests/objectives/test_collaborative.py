"""The teacher that peers make together, against plain loops and against all mixtures of a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from jaxkd.objectives import collaborative_target

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 6, 5)).astype(np.float32) * 3
LABEL = np.array([0, 4, 2, -1, 1, 3])
LABELLED = LABEL >= 0


def made(variant, logits=LOGITS, **batch):
    batch = {"label": jnp.asarray(LABEL)} | batch
    return np.asarray(jax.jit(collaborative_target(variant))(jnp.asarray(logits), batch), np.float64)


def cross_entropy(logits, label=LABEL):
    return -np.take_along_axis(log_softmax(np.asarray(logits, np.float64), -1), label[..., None], -1)[..., 0]


@pytest.mark.parametrize("variant", ["naive", "min_logit"])
def test_example_by_example(variant):
    got = made(variant)
    for i in np.flatnonzero(LABELLED):
        z = LOGITS[:, i].astype(np.float64)
        if variant == "naive":
            expected = z[np.argmin([logsumexp(own) - own[LABEL[i]] for own in z])]
        else:
            expected = np.min([own - own[LABEL[i]] for own in z], 0)
        np.testing.assert_allclose(got[i], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[~LABELLED], LOGITS[:, ~LABELLED].mean(0), rtol=1e-5)


@pytest.mark.parametrize("peers", [2, 3])
def test_no_mixture_is_better_than_the_linear_one(peers):
    logits, shares = LOGITS[:peers].astype(np.float64), np.linspace(0, 1, 201)
    grid = [(a, 1 - a, 0)[:peers] for a in shares]
    if peers == 3:
        grid = [(a, b, 1 - a - b) for a in shares for b in shares if a + b <= 1]
    mixtures = np.einsum("gp,pbc->gbc", np.array(grid), logits)
    best = cross_entropy(mixtures, np.broadcast_to(LABEL, mixtures.shape[:-1])).min(0)[LABELLED]
    got = made("linear", LOGITS[:peers])
    own = cross_entropy(got)[LABELLED]
    assert (own <= best + 1e-5).all()
    assert (own >= best - 1e-3).all()
    # It is a mixture: on the line, or in the plane, of the peers' logits.
    for i in np.flatnonzero(LABELLED):
        weights = np.linalg.lstsq(np.vstack([logits[:, i].T, np.ones(peers)]), np.append(got[i], 1), rcond=None)[0]
        np.testing.assert_allclose(weights @ logits[:, i], got[i], atol=1e-4)
        assert weights.min() > -1e-4


@pytest.mark.parametrize("variant", ["naive", "linear", "min_logit"])
def test_it_is_never_worse_than_a_peer(variant):
    of_peers = cross_entropy(LOGITS, np.broadcast_to(LABEL, LOGITS.shape[:-1]))
    assert (cross_entropy(made(variant))[LABELLED] <= of_peers.min(0)[LABELLED] + 1e-5).all()


@pytest.mark.parametrize("variant", ["naive", "linear", "min_logit"])
def test_padding_and_extremes(variant):
    where = np.arange(6) != 2
    spoilt = np.where(where[:, None], LOGITS, np.nan)
    got = made(variant, spoilt, where=jnp.asarray(where), label=jnp.where(where, LABEL, 1000))
    np.testing.assert_allclose(got[where], made(variant)[where], rtol=1e-5, atol=1e-5)
    assert np.isfinite(got).all()
    assert np.isfinite(made(variant, np.where(LOGITS > 0, 1e4, -1e4))).all()


def test_what_is_no_label_is_told():
    with pytest.raises(ValueError, match="variant='mean': there are"):
        collaborative_target("mean")
    with pytest.raises(ValueError, match=r'target needs integers \[6\] as batch\["label"\], and got float32 \[6,5\]'):
        made("naive", label=jnp.ones((6, 5)))
    with pytest.raises(ValueError, match=r'target needs integers \[6\] as batch\["label"\]$'):
        collaborative_target("naive")(jnp.asarray(LOGITS), {})
