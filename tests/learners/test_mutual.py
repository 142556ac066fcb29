"""Deep mutual learning: who teaches whom, in which order, and that it is one program for equal peers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd import evaluation
from jaxkd.data import padded_batches
from jaxkd.learners import distill, ema, mutual, seeds
from jaxkd.models import MLP
from jaxkd.networks import from_linen, member_of
from jaxkd.objectives import (
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
PEERS, STEPS = 3, 8
NET = small.mlp(6)
# Of other widths, a convolution with BatchNorm among them.
MIXED = (small.mlp(8), small.conv("linen"), small.mlp(6))
DATA = small.batches(16)
BATCH = example_batch(DATA)


def start(learner):
    return jax.jit(learner.init)(KEY, {}, BATCH)


def train(learner, state, mode="jit", mesh=None, steps=STEPS):
    compiled = parallel.compile(learner, DATA, mesh=mesh, mode=mode)
    return fit(learner, DATA, steps, state=state, frozen={}, compiled=compiled, chunk=steps)


def cross_entropy(logits, label):
    labelled = label >= 0
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(label, 0)[:, None], 1)[:, 0]
    return jnp.sum(jnp.where(labelled, nll, 0)) / jnp.maximum(labelled.sum(), 1)


def divergence(teacher, student, temperature):
    p, q = (jax.nn.log_softmax(x / temperature) for x in (teacher, student))
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(p) * (p - q), -1))


def by_hand(networks, variables, temperature, order, rate=0.1, momentum=0.9):
    """The paper's algorithm, peer by peer, of networks with parameters alone; also the losses by step and peer."""
    params, count = [each["params"] for each in variables], len(networks)
    velocity = [jax.tree.map(jnp.zeros_like, each) for each in params]

    def update(k, params, velocity, seen, batch):
        others = [networks[l].apply({"params": seen[l]}, batch)[0].logits for l in range(count) if l != k]

        def loss(own):
            logits = networks[k].apply({"params": own}, batch)[0].logits
            soft = sum(divergence(other, logits, temperature) for other in others)
            return cross_entropy(logits, batch["label"]) + soft / (count - 1)

        value, gradient = jax.value_and_grad(loss)(params[k])
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity[k], gradient)
        return jax.tree.map(lambda p, v: p - rate * v, params[k], velocity), velocity, value

    update, losses = jax.jit(update, static_argnums=0), np.zeros((STEPS, count))
    for step in range(STEPS):
        batch, before = DATA.examples.decode(DATA[step]), list(params)
        for k in range(count):
            seen = params if order == "sequential" else before
            params[k], velocity[k], losses[step, k] = update(k, params, velocity, seen, batch)
    return params, losses


def peers_of(variables, mixed=False):
    """The variables of each."""
    if mixed:
        return [member_of(variables, str(k)) for k in range(PEERS)]
    return [jax.tree.map(lambda x, k=k: x[k], variables) for k in range(PEERS)]


@pytest.mark.parametrize("order", ["simultaneous", "sequential"])
@pytest.mark.parametrize(("networks", "temperature"), [((NET,) * 3, 1.0), ((small.mlp(8), NET, small.mlp()), 3.0)])
def test_it_is_the_algorithm_of_the_paper(order, networks, temperature):
    mixed = networks[0] is not NET
    learner = mutual(networks, peer_labels(temperature), optax.sgd(0.1, 0.9), order=order)
    state = start(learner)
    expected, losses = by_hand(networks, peers_of(learner.deploy(state, {}), mixed), temperature, order)
    trained = train(learner, state)
    for got, params in zip(peers_of(learner.deploy(trained.state, {}), mixed), expected, strict=True):
        small.assert_close(got["params"], params)
    np.testing.assert_allclose(trained.history["loss"], losses.sum(1), rtol=1e-5)
    of_peers = np.stack([trained.history[f"hard/{k}"] + trained.history[f"soft/{k}"] for k in range(PEERS)], 1)
    np.testing.assert_allclose(of_peers, losses, rtol=1e-5)


def test_the_orders_differ_from_the_second_peer_on():
    learners = [
        mutual((NET,) * 3, peer_labels(), optax.sgd(0.5), order=order) for order in ("simultaneous", "sequential")
    ]
    state = start(learners[0])
    small.assert_same_bits(state, start(learners[1]))
    together, in_turn = (peers_of(jax.jit(learner.step)(state, {}, BATCH)[0].params) for learner in learners)
    small.assert_close(together[0], in_turn[0], 1e-6)
    for k in (1, 2):
        apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), together[k]["student"], in_turn[k]["student"])
        assert max(jax.tree.leaves(apart)) > 1e-3


def test_by_default_the_temperature_is_3_and_the_kl_times_9():
    learner = mutual((NET,) * 2, peer_labels(), optax.sgd(0.1))
    state = start(learner)
    logits = learner.network.apply(learner.deploy(state, {}), BATCH)[0].logits
    _, metrics = jax.jit(learner.step)(state, {}, BATCH)
    for k in (0, 1):
        np.testing.assert_allclose(metrics[f"soft/{k}"], divergence(logits[1 - k], logits[k], 3.0), rtol=1e-4)
        np.testing.assert_allclose(metrics[f"hard/{k}"], cross_entropy(logits[k], BATCH["label"]), rtol=1e-5)


def swapped(tree):
    """Peers 0 and 2 exchanged."""
    return jax.tree.map(lambda x: x[jnp.array([2, 1, 0])], tree)


def test_swapping_two_peers_swaps_the_results_and_nothing_else():
    learner = mutual((NET,) * 3, peer_labels(), optax.adam(1e-2))
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


def test_swapping_mixed_peers_swaps_the_results():
    networks = (small.mlp(8), small.mlp(6))
    optimizers = (optax.sgd(0.1), optax.adam(1e-2))
    learners = [mutual(x, peer_labels(), y) for x, y in ((networks, optimizers), (networks[::-1], optimizers[::-1]))]
    state = start(learners[0])
    exchanged = state._replace(
        params={"student": {"0": state.params["student"]["1"], "1": state.params["student"]["0"]}, "objective": {}},
        opt_state=state.opt_state[::-1],
    )
    one, other = (train(*each) for each in zip(learners, (state, exchanged), strict=True))
    for k in "01":
        small.assert_close(other.state.params["student"][str(1 - int(k))], one.state.params["student"][k])


@pytest.mark.parametrize("networks", [(NET,) * 3, MIXED], ids=["equal", "mixed"])
def test_no_peer_has_a_gradient_from_what_it_teaches(networks):
    """Without labels and with a soft loss that only peer 0 is given a weight for, the others stay as they are."""
    learner = mutual(networks, soft_label(3.0), optax.sgd(0.1))
    state = start(learner)
    for k in range(PEERS):

        def taught(params, k=k):
            """The loss of peer k alone, as a function of all."""
            _, metrics = learner.step(state._replace(params=params), {}, BATCH)
            return metrics[f"soft_label/{k}"]

        # The metric is no stopped thing: what is left of its gradient is that of the stopped targets.
        gradient = jax.jit(jax.grad(taught))(state.params)["student"]
        each = [
            jax.tree.map(lambda x, l=l: x[l], gradient) if networks[0] is NET else gradient[str(l)] for l in range(3)
        ]
        for l in range(PEERS):
            largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(each[l]))
            assert (largest > 1e-4) if l == k else (largest == 0), (k, l)


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
        sizes.append(sum(str(program).count(f" {name}[") for name in ("dot_general", "exp", "log")))
    assert sizes[0] == sizes[1] > 0


def test_peers_may_be_sharded_over_devices():
    learner = mutual([NET] * 8, peer_labels(), optax.adam(1e-2))
    state = start(learner)
    mesh = jax.make_mesh((8,), ("peers",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("peers")), NamedSharding(mesh, P())
    layout = state._replace(
        step=whole,
        key=whole,
        **{name: jax.tree.map(lambda x: split, getattr(state, name)) for name in ("params", "opt_state")},
    )
    layout = layout._replace(collections=state.collections)
    step = jax.jit(learner.step)
    one, sharded = state, jax.device_put(state, layout)
    for _ in range(3):
        one, metrics = step(one, {}, BATCH)
        sharded, of_sharded = step(sharded, {}, jax.device_put(BATCH, whole))
    small.assert_close(sharded, one)
    small.assert_close(of_sharded, metrics)
    for x in jax.tree.leaves((sharded.params, sharded.opt_state)):
        assert len({shard.index[0].start for shard in x.addressable_shards}) == 8


def with_batch_norm(axis_name):
    return small.conv("linen", axis_name)


def equal(order, axis_name=None, **options):
    peers = [with_batch_norm(axis_name)] * PEERS
    return mutual(peers, peer_labels(), optax.adam(1e-2), order=order, prepare=small.noisy, **options)


def mixed(order, axis_name=None, **options):
    peers, optimizers = (small.mlp(6), with_batch_norm(axis_name)), (optax.sgd(0.1), optax.adam(1e-2))
    relational = weighted_sum(labels=(1.0, peer_labels()), gram=(0.01, small.similarity()))
    return mutual(peers, relational, optimizers, order=order, prepare=small.noisy, **options)


@pytest.fixture(scope="module", params=[(equal, "simultaneous"), (mixed, "sequential")], ids=lambda p: p[1])
def on_one_device(request):
    """Missing labels, padding, BatchNorm, a relational term, trained on one device."""
    make, order = request.param
    state = start(make(order))
    return make, order, state, train(make(order), state)


@pytest.mark.parametrize("mode", ["jit", "shard_map", "pmap"])
def test_one_device_is_eight(on_one_device, mode):
    make, order, state, one = on_one_device
    learner = make(order, None if mode == "jit" else "data")
    trained = train(learner, state, mode, parallel.make_mesh())
    small.assert_close(trained.state, one.state)
    small.assert_close(trained.history, one.history)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, one.state.params)
    assert jax.tree.all(moved)


@pytest.mark.parametrize("order", ["simultaneous", "sequential"])
def test_only_its_own_update_changes_the_statistics_of_a_peer(order):
    learner = equal(order)
    state = start(learner)
    after, _ = jax.jit(learner.step)(state, {}, BATCH)
    alone = distill(with_batch_norm(None), None, hard_label(), optax.adam(1e-2), prepare=small.noisy)
    for k, variables in enumerate(peers_of(learner.deploy(state, {}))):
        own = alone.init(KEY, {}, BATCH)._replace(
            params={"student": variables["params"], "objective": {}},
            collections={"student": {"batch_stats": variables["batch_stats"]}, "objective": {}},
            key=state.key,
        )
        once, _ = jax.jit(alone.step)(own, {}, BATCH)
        small.assert_close(peers_of(after.collections["student"])[k], once.collections["student"])


@pytest.mark.parametrize("order", ["simultaneous", "sequential"])
def test_one_batch_is_four_and_padding_is_nothing(order):
    def padded(garbage):
        def prepare(variables, batch, keys):
            batch = small.noisy(variables, batch, keys)
            where = batch["where"]
            image = jnp.where(where[:, None, None, None], batch["image"], garbage)
            return {**batch, "image": image, "label": jnp.where(where, batch["label"], 3)}

        return prepare

    def learner(garbage=0.0, accumulate=1):
        options = {"order": order, "prepare": padded(garbage), "accumulate": accumulate}
        return mutual([NET] * PEERS, peer_labels(), optax.adam(1e-2), **options)

    state = start(learner())
    whole = train(learner(), state)
    small.assert_same_bits(train(learner(garbage=100.0), state), whole)
    accumulated = train(learner(accumulate=4), state)
    small.assert_close(accumulated.state, whole.state)
    small.assert_close(accumulated.history, whole.history)


@pytest.mark.parametrize("order", ["simultaneous", "sequential"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_peers_draw_dropout_of_their_own(order, dropout):
    """Peers that start as copies of one: dropout alone makes them differ."""
    learner = mutual([small.mlp(12, dropout=dropout)] * 2, hard_label(), optax.sgd(0.1), order=order)
    state = start(learner)
    state = state._replace(params=jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), state.params))
    after, _ = jax.jit(learner.step)(state, {}, BATCH)
    apart = jax.tree.map(lambda x: float(jnp.abs(x[0] - x[1]).max()), after.params)
    assert (max(jax.tree.leaves(apart)) > 1e-3) == (dropout > 0)


def test_seeds_and_averages_of_peers():
    learner = mutual([NET] * PEERS, peer_labels(), optax.adam(1e-2))
    many = ema(seeds(learner, 2), 0.5)
    together = train(many, start(many))
    key = jax.random.split(KEY, 2)[1]
    alone = train(learner, jax.jit(learner.init)(key, {}, BATCH))
    small.assert_close(jax.tree.map(lambda x: x[1], together.state.learner), alone.state)
    variables = many.deploy(together.state, {})
    assert many.network.apply(variables, BATCH)[0].logits.shape == (2, PEERS, 16, small.CLASSES)


@pytest.mark.parametrize("networks", [(NET,) * 3, MIXED], ids=["equal", "mixed"])
def test_all_peers_are_deployed_or_the_one_that_is_kept(networks):
    learners = [mutual(networks, peer_labels(), optax.sgd(0.1), keep=keep) for keep in (None, 1)]
    state = start(learners[0])
    variables = [learner.deploy(state, {}) for learner in learners]
    small.assert_same_bits(variables[1], peers_of(variables[0], networks is MIXED)[1])
    logits = [learner.network.apply(own, BATCH)[0].logits for learner, own in zip(learners, variables, strict=True)]
    assert logits[0].shape == (3, 16, small.CLASSES)
    small.assert_close(logits[0][1], logits[1], 1e-6)
    assert learners[1].network is networks[1]


def test_peers_are_compared_as_seeds_are():
    learner = mutual([NET] * PEERS, peer_labels(), optax.sgd(0.1))
    variables = learner.deploy(start(learner), {})
    split = padded_batches(small.examples(labelled=1.0), 48)
    teacher = evaluation.Participant("teacher", NET, peers_of(variables)[0])
    peers = evaluation.Participant("peers", NET, variables, seeds=PEERS)
    entry = evaluation.compare(teacher, [peers], split, seconds=0.0).students[0]
    accuracies = evaluation.accuracy(*evaluation.predict_labelled(learner.network, variables, split))
    assert entry.accuracy.n == PEERS
    np.testing.assert_allclose(entry.accuracy.mean, np.mean(accuracies), rtol=1e-6)


def test_what_does_not_fit_is_told():
    sgd = optax.sgd(0.1)
    cases = [
        (lambda: mutual([NET], peer_labels(), sgd), r"peers has 1 network\(s\): give at least two"),
        (lambda: mutual([NET] * 3, peer_labels(), [sgd] * 2), "optimizer has 2 for 3 peers: give one for all, or one"),
        (lambda: mutual([NET] * 2, peer_labels(), sgd, order="turns"), "order='turns': there are \"simultaneous\" and"),
        (lambda: mutual([NET] * 2, peer_labels(), sgd, keep=2), "keep is 2: the peers are 0 to 1, or None"),
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
