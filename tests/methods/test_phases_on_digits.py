"""Generations, assistants, first phases, peers and averages on real images: what each teaches is learnt."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import data, learners, methods, objectives

from .on_digits import BATCH, PAIRS, STEPS, first, norm

ADAM = optax.adam(3e-2)
# By method: the parameter that weighs its term, the term, and what else is given.
WEIGHED = {
    "ban": ("alpha", "soft", {"generations": 2}),
    "takd": ("alpha", "soft", {"assistants": ("other",)}),
    "progressive": ("alpha", "soft", {"medium": ("other",)}),
    "online": ("alpha", "student/soft", {}),
    "ema": ("alpha", "soft", {}),
    "cskd": ("weight", "cskd/class_wise", {}),
}


def stages_of(name, kind="mlp", **given):
    student, teacher = PAIRS[kind]

    def learner(make, frozen="same"):
        return learners.seeds(make(optimizer=ADAM, prepare=None, accumulate=1), 1, frozen=frozen)

    training = methods.Training(learner, STEPS, None, None, lambda: None, None, lambda name: teacher)
    return methods.create(name, student, teacher, training=training, **given)


def trained(stage, results, batches):
    """What it starts from, metrics [steps], and what is deployed."""
    learner = stage.phase.learner
    state, frozen = stage.phase.enter(jax.random.key(1), results, first(batches))
    last, metrics = jax.lax.scan(lambda state, batch: learner.step(state, frozen, batch), state, batches)
    return learner.deploy(state, frozen), metrics, learner.deploy(last, frozen)


@pytest.fixture(scope="module")
def pairs(digits):
    batches = data.PairedBatches(digits[0], BATCH)
    source = jax.device_put(batches.source)
    return jax.vmap(functools.partial(batches.fetch, source))(batches.chunk(0, STEPS))


@pytest.mark.parametrize("name", WEIGHED)
def test_what_is_weighed_is_learnt(name, digits, frozen, pairs):
    parameter, term, given = WEIGHED[name]
    batches = pairs if name == "cskd" else digits[1]["few"]
    teacher = frozen("mlp")
    own = jax.tree.map(lambda x: x[None], teacher)
    results = {"teacher": teacher, "assistant other": own, "teacher other": own}
    for stage in stages_of(name, **given)[:-1]:
        if stage.phase.name not in results:
            batches_of = digits[1]["all"] if stage.phase.name == "generation 1" else batches
            *_, results[stage.phase.name] = jax.jit(functools.partial(trained, stage))(results, batches_of)

    def run(point, *given_then):
        *_, last = stages_of(name, **given, **{parameter: point})
        return trained(last, *given_then)[1:]

    points = jnp.array([methods.find(name).parameters[parameter], 0.0])
    metrics, deployed = jax.jit(lambda *x: jax.lax.map(lambda point: run(point, *x), points))(results, batches)
    value = np.asarray(metrics[term])[..., 0]
    assert np.isfinite(metrics["loss"]).all()
    assert value[0].max() > 0
    trunk = [x[0] - x[1] for path, x in jax.tree_util.tree_leaves_with_path(deployed) if "hidden" in str(path)]
    assert norm(trunk) > 1e-3
    with_it, without_it = value[:, -10:].mean(1)
    assert with_it < 0.8 * without_it


@pytest.mark.parametrize(("name", "kind"), [("fitnets_staged", "mlp"), ("ab", "cnn"), ("fsp", "cnn")])
def test_a_first_phase_moves_the_trunk_to_what_it_matches(name, kind, digits, frozen):
    batches = jax.tree.map(lambda x: x[:30], digits[1]["few"])
    stage, _ = stages_of(name, kind)
    before, metrics, after = jax.jit(functools.partial(trained, stage))({"teacher": frozen(kind)}, batches)
    value = np.asarray(sum(x for term, x in metrics.items() if term.split("/")[0] == name))[:, 0]
    # Nothing else trains there: with a weight of 0 the term would stay as it is.
    assert value[0] > 0
    assert value[-5:].mean() < 0.8 * value[0]
    moved = jax.tree.map(jnp.subtract, before["params"], after["params"])
    assert norm([x for path, x in jax.tree_util.tree_leaves_with_path(moved) if "classifier" not in str(path)]) > 1e-2


def test_peers_agree_more_than_students_alone(digits):
    batches = jax.tree.map(lambda x: x[:60], digits[1]["few"])
    (stage,) = stages_of("dml")
    alone = objectives.weighted_sum(hard=(1.0, objectives.hard_label()), soft=(0.0, objectives.soft_label(3.0)))
    apart = learners.seeds(learners.mutual([PAIRS["mlp"][0]] * 2, alone, optimizer=ADAM, keep=0), 1)
    of_alone = stage._replace(phase=stage.phase._replace(learner=apart, enter=learners.fresh(apart)))
    together, separate = (jax.jit(functools.partial(trained, one))({}, batches)[1] for one in (stage, of_alone))
    for peer in ("soft/0", "soft/1"):
        assert np.mean(together[peer][-10:]) < 0.8 * np.mean(separate[peer][-10:])
