"""Peers weighed by their errors on held-out examples: the weights by hand, when they change, and what is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from jaxkd.learners import collaborative, ema, mutual, seeds
from jaxkd.networks import member_of
from jaxkd.objectives import peer_labels
from jaxkd.training import example_batch, fit, parallel

from .. import small

KEY = jax.random.key(0)
PEERS = 3
NET, MIXED = small.mlp(6), (small.mlp(8), small.mlp())
DATA = small.batches(16)
BATCH = example_batch(DATA)
HELD_OUT = example_batch(small.batches(24, n=24, labelled=0.8, seed=5))


def made(networks=(NET,) * PEERS, every=2, **options):
    return collaborative(networks, peer_labels(2.0), optax.sgd(0.5), every=every, **options)


def start(learner, frozen=HELD_OUT):
    return jax.jit(lambda key: learner.init(key, frozen, BATCH))(KEY)


def predictions(learner, state):
    """Of the held-out examples that have a label: probabilities [peers, n, classes], and the labels."""
    logits = learner.network.apply(learner.deploy(state, {}), HELD_OUT)[0].logits
    labelled = HELD_OUT["label"] >= 0
    return softmax(np.asarray(logits, np.float64), -1)[:, labelled], HELD_OUT["label"][labelled]


@pytest.mark.parametrize("networks", [(NET,) * PEERS, MIXED], ids=["equal", "mixed"])
def test_no_other_weights_have_a_smaller_error(networks):
    learner = made(networks)
    state = start(learner)
    p, label = predictions(learner, state)
    onehot = np.eye(small.CLASSES)[label]

    def error(weights):
        return np.mean(np.sum((np.tensordot(weights, p, 1) - onehot) ** 2, -1))

    _, metrics = jax.jit(learner.step)(state, HELD_OUT, BATCH)
    weights = np.array([metrics[f"weight/{k}"] for k in range(len(networks))], np.float64)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    best = minimize(error, weights, constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, tol=1e-12)
    assert best.fun <= error(weights) < 1.001 * best.fun + 1e-9
    assert error(weights) < min(error(np.eye(len(networks))[k]) for k in range(len(networks)))


def test_a_step_is_that_of_peers_with_this_mixture_as_their_target():
    learner = made()
    state = start(learner)
    after, metrics = jax.jit(learner.step)(state, HELD_OUT, BATCH)
    weights = jnp.array([metrics[f"weight/{k}"] for k in range(PEERS)])
    plain = mutual(
        (NET,) * PEERS,
        peer_labels(2.0),
        optax.sgd(0.5),
        target=lambda logits, batch: jnp.tensordot(weights, logits, 1),
    )
    expected, of_plain = jax.jit(plain.step)(state.learner, {}, BATCH)
    small.assert_close(after.learner, expected)
    np.testing.assert_allclose(metrics["loss"], of_plain["loss"], rtol=1e-6)


def test_weights_stay_for_as_many_steps():
    learner = made(every=3)
    state, step, seen = start(learner), jax.jit(learner.step), []
    for i in range(7):
        state, metrics = step(state, HELD_OUT, DATA.examples.decode(DATA[i]))
        seen.append(float(metrics["weight/0"]))
    assert [len(set(part)) for part in (seen[:3], seen[3:6])] == [1, 1]
    assert len({seen[0], seen[3], seen[6]}) == 3


def test_peers_that_are_one_have_equal_weights():
    learner = made()
    state = start(learner)
    params = jax.tree.map(lambda x: jnp.stack([x[0]] * PEERS), state.learner.params)
    _, metrics = jax.jit(learner.step)(state._replace(learner=state.learner._replace(params=params)), HELD_OUT, BATCH)
    np.testing.assert_allclose([metrics[f"weight/{k}"] for k in range(PEERS)], [1 / PEERS] * PEERS, rtol=1e-3)


def test_one_device_is_eight():
    """With missing labels, padding, and views of their own."""
    learner = made((NET,) * 2, views="own", prepare=small.noisy)
    state = start(learner)

    def train(learner, mode, mesh=None):
        compiled = parallel.compile(learner, DATA, mesh=mesh, mode=mode)
        return fit(learner, DATA, 4, state=state, frozen=HELD_OUT, compiled=compiled, chunk=4)

    one, eight = train(learner, "jit"), train(learner, "shard_map", parallel.make_mesh())
    # The weights are an inverse: what devices round otherwise is larger in them.
    small.assert_close(eight.state, one.state, 2e-4)
    small.assert_close(eight.history, one.history, 2e-4)


def test_one_peer_is_deployed():
    for networks in ((NET,) * PEERS, MIXED):
        learners = [made(networks, keep=keep) for keep in (None, 1)]
        state = start(learners[0])
        whole, one = (learner.deploy(state, {}) for learner in learners)
        small.assert_same_bits(one, member_of(whole, "1") if networks is MIXED else jax.tree.map(lambda x: x[1], whole))
        assert learners[1].network is networks[1]
    many = ema(seeds(made(keep=0), 2), 0.5)
    shapes = jax.eval_shape(lambda: many.deploy(many.step(many.init(KEY, HELD_OUT, BATCH), HELD_OUT, BATCH)[0], {}))
    assert jax.tree.leaves(shapes)[0].shape[0] == 2


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="every is 0: it is how many steps the weights stay"):
        made(every=0)
    with pytest.raises(ValueError, match="keep is 3: the peers are 0 to 2"):
        made(keep=3)
    with pytest.raises(ValueError, match=r'the held-out examples, a batch with integers \[n\] as "label"'):
        start(made(), {})
    with pytest.raises(ValueError, match=r"and its labels are float32 \[24,5\]"):
        start(made(), {**HELD_OUT, "label": jnp.ones((24, 5))})
