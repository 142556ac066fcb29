"""Online distillation: what is minimised, whose gradient it is, and what is deployed of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.learners import ema, online, seeds
from jaxkd.models import MLP
from jaxkd.networks import UnknownTapError, from_linen, member_of
from jaxkd.objectives import distillation, hard_label, soft_label, weighted_sum
from jaxkd.training import example_batch, fit, parallel

from .. import small

KEY = jax.random.key(0)
STEPS = 6
STUDENT, TEACHER = small.mlp(6), small.mlp(12)
DATA = small.batches(16)
BATCH = example_batch(DATA)


def start(learner):
    return jax.jit(learner.init)(KEY, {}, BATCH)


def train(learner, state, mode="jit", mesh=None):
    compiled = parallel.compile(learner, DATA, mesh=mesh, mode=mode)
    return fit(learner, DATA, STEPS, state=state, frozen={}, compiled=compiled, chunk=STEPS)


# Its state is the gradient of the last step, and nothing moves.
gradient = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), lambda g, state, params: (jax.tree.map(jnp.zeros_like, g), g)
)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


def cross_entropy(logits, label):
    labelled = np.flatnonzero(label >= 0)
    return -log_softmax(logits)[labelled, np.asarray(label)[labelled]].mean()


def test_the_total_is_that_of_the_formula():
    """T = 3, alpha = .5 and a tenth of the auxiliary cross-entropy, where labels are missing."""
    learner = online(STUDENT, TEACHER, distillation(), optax.sgd(0.1), heads=("penultimate", "hidden_0"))
    state = start(learner)
    _, metrics = jax.jit(learner.step)(state, {}, BATCH)
    params, label = state.params["student"], np.asarray(BATCH["label"])
    (outputs, _), (teacher, _) = (
        network.apply({"params": params[name]}, BATCH, taps=("penultimate", "hidden_0"))
        for name, network in (("student", STUDENT), ("teacher", TEACHER))
    )
    p, q = (log_softmax(np.asarray(x, np.float64) / 3) for x in (teacher.logits, outputs.logits))
    heads = state.params["objective"]["auxiliary"]
    expected = {
        "teacher": cross_entropy(teacher.logits, label),
        "student/hard": cross_entropy(outputs.logits, label),
        "student/soft": 9 * (np.exp(p) * (p - q)).sum(-1).mean(),
        **{
            f"auxiliary/{tap}": cross_entropy(outputs.taps[tap] @ head["kernel"] + head["bias"], label)
            for tap, head in (("penultimate", heads["classifier_0"]), ("hidden_0", heads["classifier_1"]))
        },
    }
    weights = {"teacher": 1.0, "student/hard": 0.5, "student/soft": 0.5}
    expected["loss"] = sum(weights.get(name, 0.1) * value for name, value in expected.items())
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)


def test_the_student_has_no_gradient_in_the_teacher():
    """Neither its soft loss nor its heads: the teacher's gradient is that of its own cross-entropy, or exactly zero."""
    learner = online(STUDENT, TEACHER, distillation(), gradient)
    state, step = start(learner), jax.jit(learner.step)
    unlabelled, metrics = step(state, {}, {**BATCH, "label": jnp.full_like(BATCH["label"], -1)})
    assert metrics["student/soft"] > 1e-3
    of_networks = unlabelled.opt_state["student"]
    assert all((x == 0).all() for x in jax.tree.leaves(of_networks["teacher"]))
    assert all(jnp.abs(x).max() > 1e-5 for x in jax.tree.leaves(of_networks["student"]))

    def own(params):
        logits, label = TEACHER.apply({"params": params}, BATCH)[0].logits, BATCH["label"]
        nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
        return jnp.sum(jnp.where(label >= 0, nll, 0)) / jnp.sum(label >= 0)

    labelled, _ = step(state, {}, BATCH)
    small.assert_close(
        labelled.opt_state["student"]["teacher"], jax.jit(jax.grad(own))(state.params["student"]["teacher"])
    )


def test_the_heads_are_trained_with_the_student_and_not_deployed():
    learner = online(STUDENT, TEACHER, weighted_sum(soft=(0.0, soft_label(3.0))), gradient, heads=("hidden_0",))
    state = start(learner)
    variables = learner.deploy(state, {})
    assert learner.network is STUDENT
    assert jax.tree.structure(variables) == jax.tree.structure(jax.eval_shape(STUDENT.init, KEY, BATCH))
    small.assert_same_bits(variables, member_of({"params": state.params["student"]}, "student"))
    state, _ = jax.jit(learner.step)(state, {}, BATCH)
    # Of all losses only that of the head is left: it reaches the layer below it, and not the classifier above.
    grads = state.opt_state
    largest = jax.tree.map(lambda x: float(jnp.abs(x).max()), (grads["student"]["student"], grads["objective"]))
    assert largest[0]["hidden_0"]["kernel"] > 1e-4
    assert largest[0]["classifier"]["kernel"] == 0
    assert min(jax.tree.leaves(largest[1])) > 1e-4
    none = online(STUDENT, TEACHER, distillation(), optax.sgd(0.1), heads=())
    assert not jax.tree.leaves(start(none).params["objective"])


def with_batch_norm(axis_name=None, **options):
    networks = small.conv("linen", axis_name), small.conv("linen", axis_name)
    options = {"heads": ("norm",), "prepare": small.noisy, **options}
    return online(*networks, distillation(), optax.adam(1e-2), **options)


def test_one_device_is_eight_and_both_networks_are_in_training():
    """Missing labels, padding, BatchNorm, a head on a map; the step is that of distill, tested in every mode."""
    state = start(with_batch_norm())
    one = train(with_batch_norm(), state)
    trained = train(with_batch_norm("data"), state, "shard_map", parallel.make_mesh())
    small.assert_close(trained.state, one.state)
    small.assert_close(trained.history, one.history)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state[1:3], one.state[1:3])
    assert jax.tree.all(moved)


def test_prepare_is_given_the_students_variables():
    seen = []

    def prepare(variables, batch, keys):
        seen.append(jax.tree.structure(variables))
        return batch

    learner = online(STUDENT, TEACHER, distillation(), optax.sgd(0.1), prepare=prepare, accumulate=4)
    jax.eval_shape(lambda: learner.step(learner.init(KEY, {}, BATCH), {}, BATCH))
    assert seen == [jax.tree.structure(jax.eval_shape(STUDENT.init, KEY, BATCH))]


def test_seeds_and_averages():
    many = ema(seeds(online(STUDENT, TEACHER, distillation(), optax.sgd(0.1)), 2), 0.5)

    def trained(batch):
        state = many.init(KEY, {}, batch)
        state, metrics = many.step(state, {}, batch)
        return metrics["student/soft"], many.network.apply(many.deploy(state, {}), batch)[0].logits

    soft, logits = jax.eval_shape(trained, BATCH)
    assert soft.shape == (2,)
    assert logits.shape == (2, 16, small.CLASSES)


def test_what_does_not_fit_is_told():
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match=r"auxiliary is -1\.0: it has to lie in \[0, inf\]"):
        online(STUDENT, TEACHER, distillation(), sgd, auxiliary=-1.0)
    with pytest.raises(ValueError, match=r"alpha is 1\.5: it has to lie in \[0, 1\]"):
        online(STUDENT, TEACHER, distillation(3.0, 1.5), sgd)
    wide = from_linen(MLP((6,), small.CLASSES + 2))
    with pytest.raises(
        ValueError, match=r"student logits \[16,5\], teacher logits \[16,7\]: both have to have the same"
    ):
        start(online(STUDENT, wide, distillation(), sgd))
    with pytest.raises(UnknownTapError, match='member student: tap "hiden_0" is unknown'):
        start(online(STUDENT, TEACHER, distillation(), sgd, heads=("hiden_0",)))
    with pytest.raises(ValueError, match=r"taps=\('hidden_0', 'hidden_0'\): give at least one tap, each once"):
        online(STUDENT, TEACHER, distillation(), sgd, heads=("hidden_0", "hidden_0"))
    deploying = hard_label()._replace(deployment=object())
    with pytest.raises(ValueError, match="the objective deploys more than the student"):
        online(STUDENT, TEACHER, deploying, sgd)
