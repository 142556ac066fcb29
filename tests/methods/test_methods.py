"""Every method on real images: its own term is there, reaches the trunk, and does what it is for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import data, learners, methods

from .on_digits import BATCH, EXAMPLES, PAIRS, STEPS, first, norm

STEPS_ON_MAPS = 30
NAMES = [method.name for method in methods.methods() if not method.staged]
# Of which the mean is over labelled examples, or over all of which the memory is.
WITH_LABELS = {"dkd", "nkd", "wsld", "sdd", "ofa", "nd", "tfkd", "pskd", "byot"}
ON_MAPS = {
    *("at", "nst", "kdsvd", "ickd", "ofd", "reviewkd", "ft", "semckd", "mgd", "srrl", "simkd", "cat_kd", "sdd", "byot")
}
SLOW = {"cat_kd", "ofd", "sdd"}  # to learn
SMALL = {"crd": {"negatives": 64}}  # of 320 examples


def kind(name):
    return "cnn" if name in ON_MAPS else "mlp"


def facts(name, examples):
    """What the method asks to know of this training."""
    known = {
        "n_data": len(examples),
        "labels": examples.labels(),
        "classes": examples.classes,
        "split": data.padded_batches(examples, 100),
        "steps": STEPS,
        "steps_per_epoch": EXAMPLES / BATCH,
    }
    return {one: known[one] for one in methods.find(name).from_training}


def weights(name):
    """Points of a sweep: as published, with the method's own term of weight 0, and that term alone."""
    parameters = methods.find(name).parameters
    if name == "byot":
        return {"others": jnp.array([1.0, 1.0, 0.0]), "alpha": jnp.array([0.3, 0.3, 0.3])}
    if "alpha" in parameters and "weight" not in parameters:  # kd, pskd
        return {"alpha": jnp.array([parameters["alpha"], 0.0, 1.0])}
    beside = {one: jnp.array([parameters[one]] * 2 + [0.0]) for one in ("hard", "soft") if parameters.get(one)}
    return {"weight": jnp.array([1.0, 0.0, 1.0]) * parameters["weight"], **beside}


def trunk_gradient():
    """Keeps the norm of the gradient of all of the student but its classifier."""

    def of_trunk(grads):
        return norm({name: x for name, x in grads["student"].items() if name != "classifier"})

    return optax.GradientTransformation(
        lambda params: jnp.zeros(()), lambda grads, _, params=None: (grads, of_trunk(grads))
    )


def without_hard(objective, weight):
    """The cross-entropy of the deepest classifier of BYOT, which is its student's own, times a weight."""

    def apply(variables, signals):
        terms, metrics, updated = objective.apply(variables, signals)
        of_student = terms["byot/hard"]
        return {**terms, "byot/hard": of_student._replace(weight=weight * of_student.weight)}, metrics, updated

    return objective._replace(apply=apply)


@pytest.fixture(scope="module")
def trained(digits, frozen):
    """``trained(name)``: metrics [steps, 3] and gradient norms [steps, 3] of the three points, and their variables."""
    examples, stacks = digits

    @functools.cache
    def train(name):
        steps = STEPS_ON_MAPS if name in ON_MAPS - SLOW else STEPS
        batches = jax.tree.map(lambda x: x[:steps], stacks["all" if name in WITH_LABELS else "few"])
        student, teacher = PAIRS[kind(name)]
        rate = 3e-2 if name in ON_MAPS else 1e-2
        fixed = facts(name, examples) | SMALL.get(name, {})
        if "warmup" in methods.find(name).parameters:
            fixed["warmup"] = 1.0

        def learner_at(point):
            given = {one: value for one, value in point.items() if one != "others"}
            objective = methods.create(name, student, teacher, **fixed, **given)
            if "others" in point:
                objective = without_hard(objective, point["others"])
            return learners.distill(student, teacher, objective, optax.chain(trunk_gradient(), optax.adam(rate)))

        def run(point, variables, batches):
            learner = learner_at(point)

            def step(state, batch):
                state, metrics = learner.step(state, variables, batch)
                return state, (metrics, state.opt_state[0])

            return jax.lax.scan(step, learner.init(jax.random.key(1), variables, first(batches)), batches)

        # One after the other in one program: vmapped convolutions take several times as long to compile and run.
        points = jax.jit(lambda points, *given: jax.lax.map(lambda point: run(point, *given), points))
        state, (metrics, gradients) = points(weights(name), frozen(kind(name)), batches)
        metrics, gradients = jax.tree.map(lambda x: np.asarray(x).T, (metrics, gradients))
        own = {one: x for one, x in metrics.items() if one == name or one.startswith(f"{name}/")}
        return (metrics, own, gradients), state

    return train


def own_term(name, own):
    """The sum of what the method adds to the labels, [steps, 3], of what it weighs."""
    left_out = {"ctkd/temperature", "byot/hard", "ft/reconstruction"}
    return sum(x for term, x in own.items() if term not in left_out)


@pytest.mark.parametrize("name", NAMES)
def test_the_own_term_is_there_reaches_the_trunk_and_does_what_it_is_for(name, trained, digits):
    (metrics, own, gradients), state = trained(name)
    assert np.isfinite(metrics["loss"]).all()
    value = metrics["soft"] if name == "kd" else own_term(name, own)
    assert value[0, 0] > 0
    assert gradients[0, 2] > 1e-6, "of that term alone"
    EFFECTS.get(name, falls)(value=value, metrics=metrics, state=state, digits=digits)


def falls(value, **_):
    """It ends at least a fifth lower than where nothing trains it."""
    with_it, without_it = value[-10:, 0].mean(), value[-10:, 1].mean()
    assert with_it < without_it - 0.2 * abs(without_it)


def temperature_is_trained(value, metrics, **_):
    """The temperature moves, against the student, which learns the soft labels all the same."""
    temperature = metrics["ctkd/temperature"][:, 0]
    assert abs(temperature[-1] - temperature[0]) > 1e-2
    falls(value)


def predictions_are_softer(state, digits, **_):
    """What the student said an epoch ago, which is less sure than the label, makes it less sure."""
    # The log of the likeliest class's probability.
    sure = jnp.max(jax.nn.log_softmax(predicted(state, digits)), -1).mean(1)
    assert sure[0] < 1.2 * sure[1]


def shallow_classifiers_learn(metrics, **_):
    """The classifier on the first stage, of two channels, learns the labels."""
    hard = metrics["byot/hard_0"][:, 0]
    assert hard[-5:].mean() < 0.97 * hard[:5].mean()


EFFECTS = {
    "ctkd": temperature_is_trained,
    "pskd": predictions_are_softer,
    "byot": shallow_classifiers_learn,
}


def predicted(state, digits):
    """Logits of the three points on all examples, in inference mode, [3, examples, classes]; of MLPs."""
    return jax.vmap(lambda params: PAIRS["mlp"][0].apply({"params": params}, whole(digits))[0].logits)(
        state.params["student"]
    )


def whole(digits):
    return {"image": digits[0].decode(digits[0].read(np.arange(EXAMPLES)))["image"]}
