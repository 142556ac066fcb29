"""Methods of several networks or phases on real images: the own term is there, reaches the trunk, and falls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import learners, methods

from .on_digits import BATCH, EXAMPLES, PAIRS, STEPS, first, norm

# The parameter that weighs the own term, the term's name, the data, the kind of networks, and what else is given.
CASES = {
    "dgkd": ("alpha", "dgkd", "few", "mlp", {"assistants": ("other",)}),
    "several": ("alpha", "several", "few", "mlp", {"others": ("other",)}),
    "ft_staged": ("weight", "ft_staged", "few", "cnn", {}),
    "kdcl": ("weight", "kdcl/0", "all", "mlp", {"views": "same", "steps_per_epoch": EXAMPLES / BATCH}),
    "one": ("weight", "one/soft", "all", "mlp", {"steps_per_epoch": EXAMPLES / BATCH, "rampup": 0.0}),
}
SHORT = {"mlp": 40, "cnn": 20}


def gradients():
    """Keeps the gradients."""
    return optax.GradientTransformation(lambda params: params, lambda grads, _, params=None: (grads, grads))


def stages_of(name, point, optimizer):
    """The stages of a method of one seed, with its own term weighted by ``point``."""
    parameter, _, _, kind, given = CASES[name]
    student, teacher = PAIRS[kind]

    def learner(make, frozen="same"):
        return learners.seeds(make(optimizer=optimizer, prepare=None, accumulate=1), 1, frozen=frozen)

    training = methods.Training(learner, STEPS, None, None, lambda: None, None, lambda name: teacher)
    return methods.create(name, student, teacher, training=training, **{parameter: point}, **given)


def trained(stage, results, batches):
    """Metrics [steps], the gradients of the first step, and what is deployed."""
    learner = stage.phase.learner

    def step(state, batch):
        state, metrics = learner.step(state, frozen, batch)
        return state, (metrics, state.opt_state[0])

    state, frozen = stage.phase.enter(jax.random.key(1), results, first(batches))
    state, (metrics, grads) = jax.lax.scan(step, state, batches)
    return metrics, first(grads), learner.deploy(state, frozen)


@pytest.mark.parametrize("name", CASES)
def test_the_own_term_is_there_reaches_the_trunk_and_falls(name, digits, frozen):
    parameter, term, labels, kind, _ = CASES[name]
    teacher = frozen(kind)
    batches = jax.tree.map(lambda x: x[: SHORT[kind]], digits[1][labels])
    own = jax.tree.map(lambda x: x[None], teacher)
    results = {"teacher": teacher, "assistant other": own, "teacher other": own}
    optimizer = optax.chain(gradients(), optax.adam(3e-2))
    if name == "ft_staged":
        paraphraser, _ = stages_of(name, 1.0, optimizer)
        metrics, grads, results["paraphraser"] = jax.jit(lambda *x: trained(paraphraser, *x))(results, batches)
        rebuilt = metrics["paraphraser"][:, 0]
        assert rebuilt[-5:].mean() < 0.8 * rebuilt[0]
        assert not jax.tree.leaves(grads["student"])

    def run(point, *given):
        *_, last = stages_of(name, point, optimizer)
        return trained(last, *given)[:2]

    parameters = methods.find(name).parameters
    points = jnp.array([parameters[parameter], 0.0, 1.0][: 3 if parameter == "alpha" else 2])
    # One after the other in one program: vmapped convolutions take several times as long to compile and run.
    metrics, grads = jax.jit(lambda *x: jax.lax.map(lambda point: run(point, *x), points))(results, batches)
    value = np.asarray(sum(x for one, x in metrics.items() if one == term or one.startswith(f"{term}/")))[..., 0]
    assert np.isfinite(metrics["loss"]).all()
    assert (value[0] > 0).all()
    # At the first step all points are at one place. With alpha 1 there is nothing but the term; beside labels that keep
    # their weight, gradients differ by the term's.
    of_term = jax.tree.map(lambda x: x[2] if parameter == "alpha" else x[0] - x[1], grads["student"])
    of_trunk = [x for path, x in jax.tree_util.tree_leaves_with_path(of_term) if "classifier" not in str(path)]
    assert norm(of_trunk) > 1e-6
    with_it, without_it = value[:2, -10:].mean(1)
    assert with_it < 0.8 * without_it
