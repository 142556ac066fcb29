"""Branches of one network: what they share, what they learn, and what is left of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.learners import branched, ema, seeds
from jaxkd.networks import Outputs, UnknownTapError
from jaxkd.objectives import Objective, Taps, hard_label, native_ensemble
from jaxkd.training import example_batch, parallel
from jaxkd.training import fit as fit_learner

from .. import small

KEY = jax.random.key(0)
DATA = small.batches(16)
BATCH = example_batch(DATA)
MLP = small.mlp(6, 7)
BRANCHES = 3


def labels_of_each():
    """The sum of the branches' cross-entropies."""
    hard = hard_label()

    def apply(variables, signals):
        terms = [
            hard.apply({}, signals._replace(student=Outputs(own)))[0]["hard_label"] for own in signals.student.logits
        ]
        return {f"hard/{k}": term for k, term in enumerate(terms)}, {}, {}

    return Objective(Taps(), lambda key, signals: {}, apply)


def start(learner):
    return jax.jit(learner.init)(KEY, {}, BATCH)


def once(learner, state, batch=BATCH):
    return jax.device_get(jax.jit(learner.step)(state, {}, batch))


def of_mlp(**options):
    return branched(MLP, labels_of_each(), optax.sgd(1.0), trunk="stages[0]", branches=BRANCHES, **options)


def branch_of(params, k):
    """The MLP's own parameters, with one branch."""
    return {**params["trunk"], **jax.tree.map(lambda x: x[k], params["branches"])}


def test_a_step_is_that_of_networks_with_one_trunk():
    learner = of_mlp()
    state = start(learner)
    params = state.params["student"]
    assert set(params["trunk"]) == {"hidden_0"}
    assert set(params["branches"]) == {"hidden_1", "classifier"}
    kernels = params["branches"]["hidden_1"]["kernel"]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-2

    def loss(params):
        logits = [MLP.apply({"params": branch_of(params, k)}, BATCH)[0].logits for k in range(BRANCHES)]
        label = BATCH["label"]
        nll = [-jnp.take_along_axis(jax.nn.log_softmax(z), jnp.maximum(label, 0)[:, None], 1)[:, 0] for z in logits]
        return sum(jnp.sum(jnp.where(label >= 0, one, 0)) / jnp.sum(label >= 0) for one in nll)

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    after, metrics = once(learner, state)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    small.assert_close(after.params["student"], jax.tree.map(lambda p, g: p - g, params, grads))


@pytest.mark.parametrize("keep", [0, 2])
def test_one_branch_is_deployed_as_the_student(keep):
    learner = of_mlp(keep=keep)
    state = start(learner)
    deployed = learner.deploy(state, {})
    assert learner.network is MLP
    assert jax.eval_shape(lambda: deployed) == jax.eval_shape(lambda: MLP.init(KEY, BATCH))
    small.assert_same_bits(deployed["params"], branch_of(state.params["student"], keep))


def test_the_trunk_is_computed_once():
    learner = of_mlp()
    state = jax.eval_shape(learner.init, KEY, {}, BATCH)
    program = str(jax.make_jaxpr(learner.step)(state, {}, BATCH))
    for shape, there in (("[16,6]", True), ("[3,16,6]", False), ("[3,16,7]", True)):
        assert (f"f32{shape} = dot_general" in program) == there, shape


def test_statistics_are_those_of_the_trunk():
    """Of a convolution with BatchNorm, where the classifier alone is branched."""
    network = small.conv("nnx")
    learner = branched(network, labels_of_each(), optax.sgd(0.1), trunk="norm")
    state = start(learner)
    _, expected = network.apply(learner.deploy(state, {}), BATCH, train=True)
    after, metrics = once(learner, state)
    got = learner.deploy(after, {})
    small.assert_close({name: got[name] for name in expected}, jax.device_get(dict(expected)))
    assert {"hard/0", "hard/2"} <= set(metrics)


def test_one_device_is_eight():
    """With BatchNorm, missing labels and padding."""

    def made(axis_name=None):
        objective = native_ensemble("norm", temperature=2.0)
        network = small.conv("linen", axis_name)
        return branched(network, objective, optax.sgd(0.1), trunk="norm", prepare=small.noisy)

    state = start(made())

    def train(learner, mode, mesh=None):
        compiled = parallel.compile(learner, DATA, mesh=mesh, mode=mode)
        return fit_learner(learner, DATA, 4, state=state, frozen={}, compiled=compiled, chunk=4)

    one, eight = train(made(), "jit"), train(made("data"), "shard_map", parallel.make_mesh())
    small.assert_close(eight.state, one.state)
    small.assert_close(eight.history, one.history)
    assert {"hard", "soft", "ensemble", "loss"} <= set(one.history)


def test_seeds_and_averages():
    many = ema(seeds(of_mlp(), 2), 0.5)
    shapes = jax.eval_shape(lambda: many.deploy(many.step(many.init(KEY, {}, BATCH), {}, BATCH)[0], {}))
    alone = jax.eval_shape(lambda: MLP.init(KEY, BATCH))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(lambda x: (2, *x.shape), alone)


def test_what_does_not_fit_is_told():
    sgd = optax.sgd(0.1)
    cases = [
        (lambda: branched(MLP, labels_of_each(), sgd, trunk="stages[0]", branches=1), "branches is 1: give at least"),
        (lambda: of_mlp(keep=3), "keep is 3: the branches are 0 to 2"),
        (
            lambda: start(branched(MLP, labels_of_each(), sgd, trunk="classifier")),
            'nothing of the student is trained after the tap "classifier"',
        ),
        (
            lambda: start(branched(MLP, labels_of_each(), sgd, trunk="hidden_0:in")),
            'nothing of the student is trained before the tap "hidden_0:in"',
        ),
    ]
    for call, says in cases:
        with pytest.raises(ValueError, match=says):
            call()
    with pytest.raises(UnknownTapError):
        start(branched(MLP, labels_of_each(), sgd, trunk="stage1"))
