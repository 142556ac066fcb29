"""Deep mutual learning: who teaches whom, in which order, and that it is one program for equal peers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd.learners import distill, ema, mutual, seeds
from jaxkd.models import MLP
from jaxkd.networks import Outputs, from_linen, member_of
from jaxkd.objectives import (
    Signals,
    collaborative_target,
    curriculum_temperature,
    distillation,
    hard_label,
    hint,
    peer_labels,
    soft_label,
    weighted_sum,
)
from jaxkd.training import example_batch, fit, parallel

from .. import small

KEY = jax.random.key(0)
PEERS, STEPS = 3, 6
ORDERS = ("simultaneous", "sequential")
NET = small.mlp(6)
MIXED = (small.mlp(8), small.mlp())
DATA = small.batches(16)
BATCH = example_batch(DATA)


def start(learner):
    return jax.jit(learner.init)(KEY, {}, BATCH)


def train(learner, state, mode="jit", mesh=None):
    compiled = parallel.compile(learner, DATA, mesh=mesh, mode=mode)
    return fit(learner, DATA, STEPS, state=state, frozen={}, compiled=compiled, chunk=STEPS)


def once(learner, state, batch=BATCH):
    return jax.device_get(jax.jit(learner.step)(state, {}, batch))


def peers_of(tree, mixed=False):
    """The variables (or any trees) of each."""
    tree = jax.device_get(tree)
    if mixed:
        return [member_of(tree, str(k)) for k in range(2)]
    return [jax.tree.map(lambda x, k=k: x[k], tree) for k in range(PEERS)]


def largest(tree):
    return max(float(np.abs(x).max()) for x in jax.tree.leaves(tree))


def by_hand(networks, params, temperature, rates, order):
    """The paper's algorithm with SGD (momentum .9), of networks with parameters alone; also losses [steps, peers]."""
    params, count, losses = list(params), len(networks), []
    velocity = [jax.tree.map(jnp.zeros_like, each) for each in params]

    def said(apply, params, batch):
        return jax.nn.log_softmax(apply({"params": params}, batch)[0].logits / temperature)

    def loss(own, apply, others, batch):
        logits, label = apply({"params": own}, batch)[0].logits, batch["label"]
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(label, 0)[:, None], 1)[:, 0]
        hard = jnp.sum(jnp.where(label >= 0, nll, 0)) / jnp.sum(label >= 0)
        q = jax.nn.log_softmax(logits / temperature)
        return hard + temperature**2 / (count - 1) * sum(jnp.mean(jnp.sum(jnp.exp(p) * (p - q), -1)) for p in others)

    said, gradient = jax.jit(said, static_argnums=0), jax.jit(jax.value_and_grad(loss), static_argnums=1)
    for step in range(STEPS):
        batch, before = DATA.examples.decode(DATA[step]), list(params)
        for k in range(count):
            seen = params if order == "sequential" else before
            others = [said(networks[l].apply, seen[l], batch) for l in range(count) if l != k]
            value, grads = gradient(params[k], networks[k].apply, others, batch)
            velocity[k] = jax.tree.map(lambda v, g: 0.9 * v + g, velocity[k], grads)
            params[k] = jax.tree.map(lambda p, v, k=k: p - rates[k] * v, params[k], velocity[k])
            losses.append(float(value))
    return params, np.reshape(losses, (STEPS, count))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("peers", ["equal", "mixed"])
def test_it_is_the_algorithm_of_the_paper(order, peers):
    """At the paper's temperature, and for mixed peers at the default one, 3."""
    mixed = peers == "mixed"
    networks, rates = (MIXED, (0.1, 0.3)) if mixed else ((NET,) * PEERS, (0.1,) * PEERS)
    optimizers = [optax.sgd(rate, 0.9) for rate in rates] if mixed else optax.sgd(0.1, 0.9)
    learner = mutual(networks, peer_labels() if mixed else peer_labels(1.0), optimizers, order=order)
    state = start(learner)
    fresh = [each["params"] for each in peers_of(learner.deploy(state, {}), mixed)]
    expected, losses = by_hand(networks, fresh, 3.0 if mixed else 1.0, rates, order)
    trained = train(learner, state)
    for got, params in zip(peers_of(learner.deploy(trained.state, {}), mixed), expected, strict=True):
        small.assert_close(got["params"], params)
    np.testing.assert_allclose(trained.history["loss"], losses.sum(1), rtol=1e-5)
    of_peers = np.stack([trained.history[f"hard/{k}"] + trained.history[f"soft/{k}"] for k in range(len(networks))], 1)
    np.testing.assert_allclose(of_peers, losses, rtol=1e-5)
    # The order makes a difference, from the second peer on.
    other = by_hand(networks, fresh, 3.0 if mixed else 1.0, rates, next(x for x in ORDERS if x != order))[1]
    assert other[0, 0] == losses[0, 0]
    assert abs(other[0, 1:] - losses[0, 1:]).min() > 1e-3


def swapped(tree):
    """Peers 0 and 2 exchanged."""
    return jax.tree.map(lambda x: x[[2, 1, 0]], jax.device_get(tree))


def test_swapping_two_peers_swaps_the_results_and_nothing_else():
    learner = mutual((NET,) * PEERS, peer_labels(1.0), optax.sgd(0.1, 0.9))
    state = start(learner)
    exchanged = state._replace(params=swapped(state.params), opt_state=swapped(state.opt_state))
    one, other = train(learner, state), train(learner, exchanged)
    back = other.state._replace(params=swapped(other.state.params), opt_state=swapped(other.state.opt_state))
    small.assert_close(back, one.state)
    names = {"0": "2", "1": "1", "2": "0"}
    for name, values in one.history.items():
        term, slash, k = name.partition("/")
        np.testing.assert_allclose(other.history[f"{term}/{names[k]}" if slash else name], values, rtol=1e-5)
    # They are no copies of each other, so that the exchange was one.
    assert abs(one.history["soft/0"] - one.history["soft/2"]).max() > 1e-3


@pytest.mark.parametrize("networks", [(NET,) * 3, MIXED], ids=["equal", "mixed"])
def test_what_a_peer_learns_has_no_gradient_in_its_teachers(networks):
    learner = mutual(networks, soft_label(3.0), optax.sgd(0.1))
    state = start(learner)

    def losses(params):
        _, metrics = learner.step(state._replace(params=params), {}, BATCH)
        return jnp.stack([metrics[f"soft_label/{k}"] for k in range(len(networks))])

    jacobian = jax.device_get(jax.jit(jax.jacrev(losses))(state.params)["student"])
    for k in range(len(networks)):
        of_peers = peers_of({"params": jax.tree.map(lambda x, k=k: x[k], jacobian)}, networks is MIXED)
        for l, of_peer in enumerate(of_peers):
            assert (largest(of_peer) > 1e-4) if l == k else (largest(of_peer) == 0), (k, l)


def counted(network, calls):
    def apply(*arguments, **options):
        calls.append(1)
        return network.apply(*arguments, **options)

    return network._replace(apply=apply)


def test_equal_peers_are_one_program_whatever_their_number():
    sizes = []
    for count in (2, 6):
        calls = []
        learner = mutual([counted(NET, calls)] * count, peer_labels(), optax.adam(1e-2))
        state = jax.eval_shape(learner.init, KEY, {}, BATCH)
        calls.clear()
        program = jax.make_jaxpr(learner.step)(state, {}, BATCH)
        assert len(calls) == 1  # one forward pass, vmapped
        sizes.append(sum(str(program).count(f" {name}") for name in ("dot_general[", "exp ", "log ")))
    assert sizes[0] == sizes[1] > 10


def test_peers_may_be_sharded_over_devices():
    learner = mutual([NET] * 8, peer_labels(), optax.adam(1e-2))
    state = start(learner)
    mesh = jax.make_mesh((8,), ("peers",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("peers")), NamedSharding(mesh, P())
    layout = jax.tree.map(lambda x: split, state)._replace(step=whole, key=whole)
    sharded, of_sharded = jax.jit(learner.step)(jax.device_put(state, layout), {}, jax.device_put(BATCH, whole))
    for x in jax.tree.leaves((sharded.params, sharded.opt_state)):
        assert len({shard.index[0].start for shard in x.addressable_shards}) == 8
    small.assert_close((sharded, of_sharded), once(learner, state))


def equal(order, axis_name=None):
    peers = [small.conv("linen", axis_name)] * PEERS
    return mutual(peers, peer_labels(), optax.adam(1e-2), order=order, prepare=small.noisy)


def mixed(order, axis_name=None):
    peers, optimizers = (small.mlp(6), small.conv("linen", axis_name)), (optax.sgd(0.1), optax.adam(1e-2))
    relational = weighted_sum(labels=(1.0, peer_labels()), gram=(0.01, small.similarity()))
    return mutual(peers, relational, optimizers, order=order, prepare=small.noisy)


@pytest.mark.parametrize(("peers", "variant"), [("equal", "linear"), ("mixed", "naive")])
def test_peers_with_views_of_their_own_learn_from_one_target(peers, variant):
    """A step of SGD, against each peer by itself on its own view, with the target of what all say."""
    networks = MIXED if peers == "mixed" else (NET,) * PEERS
    learner = mutual(
        networks,
        peer_labels(2.0),
        optax.sgd(1.0),
        target=collaborative_target(variant),
        views="own",
        prepare=small.noisy,
    )
    state = start(learner)
    params = [each["params"] for each in peers_of(learner.deploy(state, {}), peers == "mixed")]
    of_prepare = jax.random.split(jax.random.fold_in(state.key, 0), 3)[0]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(of_prepare, jnp.arange(16))
    views = [small.noisy(None, BATCH, jax.vmap(jax.random.fold_in, (0, None))(keys, k)) for k in range(len(networks))]
    said = [
        network.apply({"params": own}, view)[0].logits
        for network, own, view in zip(networks, params, views, strict=True)
    ]
    target = collaborative_target(variant)(jnp.stack(said), views[0])
    objective, losses = peer_labels(2.0), []
    for k, (network, own, view) in enumerate(zip(networks, params, views, strict=True)):

        def loss(own, network=network, view=view):
            student = network.apply({"params": own}, view)[0]
            signals = Signals(student, Outputs(target), {}, view, jnp.int32(0), KEY)
            terms = objective.apply({}, signals)[0].values()
            return sum(term.weight * term.sum / term.count for term in terms)

        value, grads = jax.jit(jax.value_and_grad(loss))(own)
        losses.append(float(value))
        params[k] = jax.tree.map(lambda p, g: p - g, own, grads)
    after, metrics = once(learner, state)
    np.testing.assert_allclose(metrics["loss"], sum(losses), rtol=1e-5)
    for got, expected in zip(peers_of(learner.deploy(after, {}), peers == "mixed"), params, strict=True):
        small.assert_close(got["params"], expected)


def collaborating(order, axis_name=None):
    """With BatchNorm, missing labels, padding and views of their own."""
    peers = [small.conv("linen", axis_name)] * PEERS
    target = collaborative_target("linear")
    return mutual(peers, peer_labels(), optax.adam(1e-2), order=order, target=target, views="own", prepare=small.noisy)


@functools.cache
def on_one_device(make, order):
    """Missing labels, padding, BatchNorm, trained on one device; of mixed peers also a relational term."""
    state = start(make(order))
    return state, train(make(order), state)


@pytest.mark.parametrize(
    ("make", "order", "mode"),
    # In the simultaneous order the step is that of distill, which is tested in every mode.
    [(equal, "simultaneous", "shard_map"), (collaborating, "simultaneous", "shard_map")]
    + [(mixed, "sequential", mode) for mode in ("jit", "shard_map", "pmap")],
)
def test_one_device_is_eight(make, order, mode):
    state, one = on_one_device(make, order)
    trained = train(make(order, None if mode == "jit" else "data"), state, mode, parallel.make_mesh())
    small.assert_close(trained.state, one.state)
    small.assert_close(trained.history, one.history)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, one.state.params)
    assert jax.tree.all(moved)


def test_only_its_own_update_changes_the_statistics_of_a_peer():
    """In the sequential order, in which each is asked twice for what it says of the batch."""
    learner = mutual([small.conv("linen")] * 2, peer_labels(), optax.sgd(0.1), order="sequential")
    state = start(learner)
    apply = jax.jit(learner.network.apply, static_argnames="train")
    _, expected = apply(learner.deploy(state, {}), BATCH, train=True)
    small.assert_close(once(learner, state)[0].collections["student"], jax.device_get(expected))


@pytest.mark.parametrize("order", ORDERS)
def test_one_batch_is_four_chunks_are_all_and_padding_is_nothing(order):
    def learner(**options):
        return mutual([NET] * PEERS, peer_labels(), optax.sgd(0.1), order=order, **options)

    def padded(image, label):
        where = np.arange(16) % 3 != 0
        garbage = np.where(where[:, None, None, None], BATCH["image"], image)
        return {**BATCH, "where": where, "image": garbage, "label": np.where(where, BATCH["label"], label)}

    state = start(learner())
    small.assert_close(
        once(learner(accumulate=4, chunk=2), state, padded(100.0, 1)), once(learner(), state, padded(0.0, 3))
    )


def test_peers_draw_dropout_of_their_own():
    """Peers that start as copies of one: in the sequential order, too, dropout alone makes them differ."""
    learner = mutual([small.mlp(12, dropout=0.5)] * 2, hard_label(), optax.sgd(0.1), order="sequential")
    state = start(learner)
    state = state._replace(params=jax.tree.map(lambda x: np.stack([x[0], x[0]]), jax.device_get(state.params)))
    after, _ = once(learner, state)
    assert largest(jax.tree.map(lambda x: x[0] - x[1], after.params)) > 1e-3


@pytest.mark.parametrize("order", ORDERS)
def test_seeds_and_averages_of_peers(order):
    many = ema(seeds(mutual([NET] * PEERS, peer_labels(), optax.adam(1e-2), order=order), 2), 0.5)

    def trained(batch):
        state, metrics = many.step(many.init(KEY, {}, batch), {}, batch)
        return metrics["soft/2"], many.network.apply(many.deploy(state, {}), batch)[0].logits

    soft, logits = jax.eval_shape(trained, BATCH)
    assert soft.shape == (2,)
    assert logits.shape == (2, PEERS, 16, small.CLASSES)


@pytest.mark.parametrize("networks", [(NET,) * 3, MIXED], ids=["equal", "mixed"])
def test_all_peers_are_deployed_or_the_one_that_is_kept(networks):
    learners = [mutual(networks, peer_labels(), optax.sgd(0.1), keep=keep) for keep in (None, 1)]
    state = start(learners[0])
    variables = [learner.deploy(state, {}) for learner in learners]
    small.assert_same_bits(variables[1], peers_of(variables[0], networks is MIXED)[1])
    logits = [learner.network.apply(own, BATCH)[0].logits for learner, own in zip(learners, variables, strict=True)]
    assert logits[0].shape == (len(networks), 16, small.CLASSES)
    small.assert_close(logits[0][1], logits[1], 1e-6)
    assert learners[1].network is networks[1]


def test_stacked_peers_are_deployed_as_seeds_are():
    """So that whatever takes seeds takes them: ``evaluation.compare`` for one."""
    learners = (
        mutual([NET] * PEERS, peer_labels(), optax.sgd(0.1)),
        seeds(distill(NET, None, hard_label(), optax.sgd(0.1)), PEERS),
    )
    ours, theirs = (
        jax.eval_shape(lambda learner=learner: learner.deploy(learner.init(KEY, {}, BATCH), {})) for learner in learners
    )
    assert ours == theirs


def test_what_does_not_fit_is_told():
    sgd = optax.sgd(0.1)

    def mixed_up(variables, batch, keys):
        return {**batch, "label": jax.nn.one_hot(batch["label"], small.CLASSES)}

    relabelled = mutual([NET] * 2, peer_labels(), sgd, views="own", prepare=mixed_up)
    cases = [
        (lambda: mutual([NET], peer_labels(), sgd), r"peers has 1 network\(s\): give at least two"),
        (lambda: mutual([NET] * 3, peer_labels(), [sgd] * 2), "optimizer has 2 for 3 peers: give one for all, or one"),
        (lambda: mutual([NET] * 2, peer_labels(), sgd, order="turns"), "order='turns': there are \"simultaneous\" and"),
        (lambda: mutual([NET] * 2, peer_labels(), sgd, views="two"), 'views=\'two\': there are "same" and "own"'),
        (
            lambda: mutual([NET] * 2, peer_labels(), sgd, order="sequential", views="own"),
            'order="sequential" has no target and no views="own": both are of order="simultaneous"',
        ),
        (lambda: once(relabelled, start(relabelled)), 'views="own" has peers teach each other one label, and prepare'),
        (lambda: mutual([NET] * 2, peer_labels(), sgd, keep=2), "keep is 2: the peers are 0 to 1, or None"),
        (lambda: mutual(MIXED, peer_labels(), sgd, chunk=1), "chunk is 1, and the peers are not stacked: give one"),
        (lambda: mutual([NET] * 2, hint("penultimate", "penultimate"), sgd), "give an objective without taps"),
        (lambda: mutual([NET] * 2, distillation(3.0, 1.5), sgd), r"alpha is 1\.5: it has to lie in \[0, 1\]"),
        (lambda: mutual([NET] * 2, peer_labels(0.0), sgd), "temperature is 0.0: it has to be above 0"),
    ]
    wide = from_linen(MLP((6,), small.CLASSES + 2))
    for order in ("simultaneous", "sequential"):
        learner = mutual([NET, wide], peer_labels(), sgd, order=order)
        cases.append((lambda learner=learner: start(learner), r"peer 0 has logits \[16,5\] and peer 1 \[16,7\]: give"))
    trained = mutual([NET] * 2, curriculum_temperature(10), sgd)
    cases.append((lambda: start(trained), "give an objective without variables of its own"))
    for call, says in cases:
        with pytest.raises(ValueError, match=says) as error:
            call()
        assert "\n" not in str(error.value)
