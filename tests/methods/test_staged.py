"""Methods in phases: who teaches whom, from where each student starts, and what is left when a run is killed."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import learners, losses, methods, objectives, training
from jaxkd.data import PairedBatches
from jaxkd.learners import Phase
from jaxkd.training import example_batch

from .. import small

STEPS, SEEDS = 12, 5
STUDENT, TEACHER = small.mlp(6), small.mlp(8)
OTHERS = {"medium": small.mlp(7), "less": small.mlp(5)}
STAGED = {method.name for method in methods.methods() if method.staged}


@pytest.fixture(scope="module")
def data():
    return small.batches(16)


@pytest.fixture(scope="module")
def settings(data):
    def learner(make, frozen="same"):
        return learners.seeds(make(optimizer=optax.adam(1e-2), prepare=None, accumulate=1), SEEDS, frozen=frozen)

    return methods.Training(learner, STEPS, data, data, small_pairs, data, OTHERS.__getitem__)


def small_pairs():
    return PairedBatches(small.examples(labelled=1.0), 16)


@pytest.fixture(scope="module")
def results(data):
    """The teacher, as a run has it."""
    return {"teacher": TEACHER.init(jax.random.key(7), example_batch(data))}


def phases_of(stages, results):
    """The phases of a run, of which the first gives the teacher."""
    ready = learners.distill(TEACHER, None, objectives.hard_label(), optax.sgd(0.0))

    def enter(key, earlier, batch):
        state, frozen = learners.fresh(ready)(key, earlier, batch)
        return state._replace(params={**state.params, "student": results["teacher"]["params"]}), frozen

    return [Phase("teacher", ready, 1, enter), *(stage.phase for stage in stages)]


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def entered(stage, results, data):
    return stage.phase.enter(jax.random.key(3), results, example_batch(data))


@pytest.fixture(scope="module")
def stages(settings):
    return methods.ban(STUDENT, training=settings, generations=4)


class TestBornAgain:
    def test_killed_in_generation_3_and_resumed_is_as_if_nothing_was(self, stages, data, tmp_path):
        phases = [stage.phase for stage in stages]
        run = functools.partial(training.run, phases, data, key=jax.random.key(0), chunk=4, every=4)
        whole = run(workdir=tmp_path / "whole")
        now = []

        def stop(step):
            return "kill" if now[-1:] == ["generation 3"] and step >= 8 else None

        with pytest.raises(training.InterruptedTraining):
            run(workdir=tmp_path / "cut", stop=stop, on_phase=lambda phase, start: now.append(phase.name))
        starts = {}
        resumed = run(workdir=tmp_path / "cut", on_phase=lambda phase, start: starts.update({phase.name: start}))
        assert starts == {"generation 3": 8, "generation 4": 0}
        assert same(whole, resumed)
        assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "cut/metrics.jsonl").read_text()
        # Each seed has a teacher of its own, the one before it, and is drawn anew.
        for before, stage in itertools.pairwise(stages):
            state, frozen = entered(stage, whole, data)
            assert same(frozen, whole[before.phase.name])
            assert not same(stage.phase.learner.deploy(state, frozen), frozen)
        kernels = [jax.tree.leaves(one)[1] for one in whole.values()]
        assert len({np.asarray(kernel[i]).tobytes() for kernel in kernels for i in range(SEEDS)}) == 4 * SEEDS

    def test_generations_share_one_program(self, stages, data, tmp_path):
        first, reborn, *others = (stage.phase for stage in stages)
        assert all(phase.learner is reborn.learner and phase.data is reborn.data for phase in others)
        traces = []

        def step(*arguments, **axis):
            traces.append(1)
            return reborn.learner.step(*arguments, **axis)

        counted = reborn.learner._replace(step=step)
        phases = [first, *(phase._replace(learner=counted) for phase in (reborn, *others))]
        training.run(phases, data, key=jax.random.key(0), workdir=tmp_path, chunk=4)
        assert len(traces) == 1

    def test_seed_by_seed_it_is_a_line_of_single_students(self, stages, data):
        """The step of generation 2 is that of ``distill`` from the seed's own teacher."""
        objective = methods.kd(STUDENT, STUDENT, temperature=3.0, alpha=0.5)
        single = learners.distill(STUDENT, STUDENT, objective, optax.adam(1e-2))
        frozen = stages[0].phase.learner.deploy(*entered(stages[0], {}, data))
        state, _ = stages[1].phase.enter(jax.random.key(3), {"generation 1": frozen}, example_batch(data))
        batch = data.examples.decode(data[0])
        after, metrics = jax.jit(stages[1].phase.learner.step)(state, frozen, batch)
        step = jax.jit(single.step)
        for seed in range(SEEDS):
            own = jax.tree.map(lambda x, seed=seed: x[seed], (state, frozen))
            expected, of_seed = step(*own, batch)
            np.testing.assert_allclose(metrics["loss"][seed], of_seed["loss"], rtol=1e-5)
            for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected.params), strict=True):
                np.testing.assert_allclose(x[seed], y, atol=1e-5)


def test_assistants_are_taught_from_above(settings, data, results):
    stages = methods.takd(STUDENT, TEACHER, training=settings, assistants=("medium", "less"))
    assert [stage.phase.name for stage in stages] == ["assistant medium", "assistant less", "student"]
    assert [stage.network for stage in stages] == [OTHERS["medium"], OTHERS["less"], STUDENT]
    results = dict(results)
    above = "teacher"
    for stage in stages:
        state, frozen = entered(stage, results, data)
        assert same(frozen, results[above])
        above = stage.phase.name
        results[above] = stage.phase.learner.deploy(state, frozen)
        assert jax.eval_shape(stage.phase.learner.step, state, frozen, example_batch(data))


def test_a_progressive_student_goes_on(settings, data, results, tmp_path):
    stages = methods.progressive(STUDENT, TEACHER, training=settings, medium=("medium",))
    of_run = training.run(phases_of(stages, results), data, key=jax.random.key(0), workdir=tmp_path, chunk=STEPS)
    assert list(of_run) == ["teacher", "teacher medium", "from teacher", "from teacher medium"]
    state, frozen = entered(stages[-1], of_run, data)
    assert same(frozen, of_run["teacher medium"])
    assert same(stages[-1].phase.learner.deploy(state, frozen), of_run["from teacher"])
    assert not same(of_run["from teacher"], of_run["from teacher medium"])
    # Its optimizer has seen nothing.
    assert all(not np.any(x) for x in jax.tree.leaves(state.opt_state))


MAPS = small.conv("linen"), small.conv("linen")
ON_MAPS = {"fitnets_staged": ("norm",), "ab": ("norm",), "fsp": ("norm", "norm")}


@pytest.mark.parametrize("name", ON_MAPS)
def test_a_first_phase_trains_the_trunk_for_the_second(name, settings, data, tmp_path):
    student, teacher = MAPS
    taps = {"student_taps": ON_MAPS[name], "teacher_taps": ON_MAPS[name]}
    first, second = methods.create(name, student, teacher, training=settings, **taps)
    assert (first.network, second.network) == (None, student)
    of_run = {"teacher": teacher.init(jax.random.key(7), example_batch(data))}
    state, frozen = entered(first, of_run, data)
    start = first.phase.learner.deploy(state, frozen)
    step = jax.jit(first.phase.learner.step)
    terms = []
    for i in range(30):
        state, metrics = step(state, frozen, data.examples.decode(data[i]))
        assert set(metrics) >= {"loss", name}
        terms.append(metrics[name])
    assert np.all(np.mean(terms[-3:], 0) < 0.8 * terms[0])
    of_run["first phase"] = first.phase.learner.deploy(state, frozen)
    before, after = (tree["params"]["Conv_0"]["kernel"] for tree in (start, of_run["first phase"]))
    assert np.all(np.max(np.abs(before - after), axis=(1, 2, 3, 4)) > 0)
    state, frozen = entered(second, of_run, data)
    assert same(second.phase.learner.deploy(state, frozen), of_run["first phase"])
    _, metrics = jax.jit(second.phase.learner.step)(state, frozen, data.examples.decode(data[0]))
    assert "hard" in metrics
    assert jnp.all(jnp.isfinite(metrics["loss"]))


def by_number(*variables):
    return {collection: {str(i): own[collection] for i, own in enumerate(variables)} for collection in variables[0]}


def for_seeds(tree):
    return jax.tree.map(lambda x: np.stack([x] * SEEDS), tree)


def test_all_that_are_larger_teach(settings, data, results):
    stages = methods.dgkd(STUDENT, TEACHER, training=settings, assistants=("medium", "less"))
    assert [stage.phase.name for stage in stages] == ["assistant medium", "assistant less", "student"]
    results = dict(results)
    above = [results["teacher"]]
    for i, stage in enumerate(stages):
        state, frozen = entered(stage, results, data)
        assert same(frozen, by_number(*above))
        _, metrics = jax.eval_shape(stage.phase.learner.step, state, frozen, example_batch(data))
        assert {"hard", "dgkd"} <= set(metrics)
        deployed = results[stage.phase.name] = stage.phase.learner.deploy(state, frozen)
        # The teacher is one for all seeds, the others are each seed's own.
        above = [for_seeds(results["teacher"]), *above[1:], deployed] if i == 0 else [*above, deployed]


COMBINED = {"probabilities": {"weights": (1.0, 3.0)}, "logits": {"weights": (1.0, 3.0)}, "random": {}}


@pytest.mark.parametrize("combine", COMBINED)
def test_several_teachers_at_once(combine, settings, data, results):
    """The soft part of the first step is what the teachers' logits make of it."""
    given = COMBINED[combine]
    other, last = methods.several(
        STUDENT, TEACHER, training=settings, others=("medium",), combine=combine, temperature=2.0, **given
    )
    assert [other.phase.name, last.phase.name] == ["teacher medium", "student"]
    assert [other.network, last.network] == [OTHERS["medium"], STUDENT]
    state, frozen = entered(other, results, data)
    of_run = {**results, "teacher medium": other.phase.learner.deploy(state, frozen)}
    state, frozen = entered(last, of_run, data)
    assert same(frozen, by_number(for_seeds(results["teacher"]), of_run["teacher medium"]))
    batch = data.examples.decode(data[0])
    _, metrics = jax.jit(last.phase.learner.step)(state, frozen, batch)
    student = last.phase.learner.deploy(state, frozen)
    for seed in range(SEEDS):
        own = jax.tree.map(lambda x, seed=seed: x[seed], (student, of_run["teacher medium"]))
        z, second = (net.apply(v, batch)[0].logits for net, v in zip((STUDENT, OTHERS["medium"]), own, strict=True))
        first = TEACHER.apply(results["teacher"], batch)[0].logits
        each = [losses.soft_label_kl(z, t, 2.0).mean() for t in (first, second)]
        if combine == "random":
            assert min(abs(metrics["several"][seed] - one) for one in each) < 1e-5
        elif combine == "logits":
            mean = losses.soft_label_kl(z, 0.25 * first + 0.75 * second, 2.0).mean()
            np.testing.assert_allclose(metrics["several"][seed], mean, rtol=1e-4)
        else:
            np.testing.assert_allclose(metrics["several"][seed], 0.25 * each[0] + 0.75 * each[1], rtol=1e-4)


def test_a_paraphraser_is_trained_before_the_student(settings, data):
    student, teacher = MAPS
    taps = {"student_taps": "norm", "teacher_taps": "norm"}
    first, second = methods.ft_staged(student, teacher, training=settings, **taps)
    assert (first.network, second.network) == (None, student)
    of_run = {"teacher": teacher.init(jax.random.key(7), example_batch(data))}
    state, frozen = entered(first, of_run, data)
    assert same(frozen, of_run["teacher"])
    state, metrics = jax.jit(first.phase.learner.step)(state, frozen, data.examples.decode(data[0]))
    assert np.all(metrics["paraphraser"] > 0)
    deployed = of_run["paraphraser"] = first.phase.learner.deploy(state, frozen)
    # Each seed has the teacher, and a paraphraser of its own beside it.
    assert same({name: deployed[name] for name in frozen}, for_seeds(frozen))
    kernel = deployed["paraphraser"]["encoder"]["conv1"]["kernel"]
    assert np.any(kernel[0] != kernel[1])
    batch = example_batch(data)
    of_seeds, alone = (
        network.apply(variables, batch)[0].logits
        for network, variables in ((first.phase.learner.network, deployed), (teacher, frozen))
    )
    np.testing.assert_allclose(of_seeds[1], alone, rtol=1e-5, atol=1e-6)
    state, frozen = entered(second, of_run, data)
    assert same(frozen, deployed)
    state, metrics = jax.jit(second.phase.learner.step)(state, frozen, data.examples.decode(data[0]))
    assert {"hard", "ft_staged"} <= set(metrics)
    assert set(state.params["objective"]["ft_staged"]) == {"translator"}


WITH_OTHERS = {
    "kdcl": (STUDENT, {"others": ("medium", "less")}, {"hard/0", "kdcl/2"}),
    "kdcl, general": (STUDENT, {"variant": "general", "peers": 3}, {"hard/0", "kdcl/2", "weight/2"}),
    "one": (small.mlp(6, 5), {"student_taps": "hidden_0"}, {"one/hard", "one/ensemble", "one/soft"}),
}


@pytest.mark.parametrize("case", WITH_OTHERS)
def test_others_learn_with_it_and_the_student_alone_is_deployed(case, settings, data):
    student, given, terms = WITH_OTHERS[case]
    held_out = example_batch(small.batches(16, seed=3))
    training = settings._replace(held_out=lambda: held_out)
    name = case.partition(",")[0]
    (stage,) = methods.create(name, student, TEACHER, training=training, steps_per_epoch=2.0, **given)
    state, frozen = entered(stage, {}, data)
    state, metrics = jax.jit(stage.phase.learner.step)(state, frozen, data.examples.decode(data[0]))
    assert terms <= set(metrics)
    assert same(frozen, held_out if case == "kdcl, general" else {})
    assert stage.network is student
    deployed = stage.phase.learner.deploy(state, frozen)
    assert jax.tree.map(jnp.shape, deployed) == jax.tree.map(
        lambda x: (SEEDS, *x.shape), student.init(jax.random.key(0), example_batch(data))
    )


def test_generations_are_also_an_ensemble(stages, data):
    """The mean of the probabilities of all that were taught, for each seed."""
    assert [[(one.name, one.members) for one in stage.ensembles] for stage in stages] == [
        [],
        [],
        [("generations 2 to 3", (1, 2))],
        [("generations 2 to 4", (1, 2, 3))],
    ]
    batch = example_batch(data)
    drawn = [learners.stacked(STUDENT, SEEDS).init(jax.random.key(i), batch) for i in range(4)]
    (ensemble,) = stages[3].ensembles
    got = learners.stacked(ensemble.network, SEEDS).apply(ensemble.variables(drawn), batch)[0].logits
    each = [learners.stacked(STUDENT, SEEDS).apply(own, batch)[0].logits for own in drawn[1:]]
    np.testing.assert_allclose(jax.nn.softmax(got), np.mean([jax.nn.softmax(z) for z in each], 0), atol=1e-6)


def test_peers_give_the_first_of_them(settings, data):
    (stage,) = methods.dml(STUDENT, training=settings, peers=3)
    state, frozen = entered(stage, {}, data)
    state, metrics = jax.jit(stage.phase.learner.step)(state, frozen, data.examples.decode(data[0]))
    assert {"hard/0", "soft/2"} <= set(metrics)
    deployed = stage.phase.learner.deploy(state, frozen)
    assert jax.tree.map(jnp.shape, deployed) == jax.tree.map(
        lambda x: (SEEDS, *x.shape), STUDENT.init(jax.random.key(0), example_batch(data))
    )


def test_online_deploys_the_student_alone(settings, data):
    (stage,) = methods.online(STUDENT, TEACHER, training=settings)
    state, frozen = entered(stage, {}, data)
    _, metrics = jax.jit(stage.phase.learner.step)(state, frozen, data.examples.decode(data[0]))
    assert {"teacher", "student/hard", "student/soft", "auxiliary"} <= set(metrics)
    deployed = stage.phase.learner.deploy(state, frozen)
    assert jax.tree.map(jnp.shape, deployed) == jax.tree.map(
        lambda x: (SEEDS, *x.shape), STUDENT.init(jax.random.key(0), example_batch(data))
    )


@pytest.mark.parametrize("variant", ["cwtm", "dkpp"])
def test_other_ways_to_be_born_again(variant, settings, data):
    stages = methods.ban(STUDENT, training=settings, generations=2, variant=variant)
    state, frozen = entered(stages[0], {}, data)
    before = stages[0].phase.learner.deploy(state, frozen)
    state, frozen = entered(stages[1], {"generation 1": before}, data)
    _, metrics = jax.jit(stages[1].phase.learner.step)(state, frozen, data.examples.decode(data[0]))
    assert np.all(metrics[variant] > 0)
    assert ("hard" in metrics) == (variant == "dkpp")


def test_pairs_of_a_class(settings):
    (stage,) = methods.cskd(STUDENT, training=settings)
    state, frozen = entered(stage, {}, stage.phase.data)
    step, terms = jax.jit(stage.phase.learner.step), []
    for i in range(20):
        state, metrics = step(state, frozen, stage.phase.data.examples.decode(stage.phase.data[i]))
        terms.append(metrics["cskd/class_wise"])
    assert np.all(np.isfinite(terms))
    assert np.all(np.asarray(terms) > 0)


def test_a_student_of_its_average(settings, data):
    (stage,) = methods.ema(STUDENT, training=settings, decay=0.5)
    state, frozen = entered(stage, {}, data)
    step = jax.jit(stage.phase.learner.step)
    for i in range(2):
        state, metrics = step(state, frozen, data.examples.decode(data[i]))
    # At the first step it is its own teacher.
    assert np.all(metrics["soft"] > 0)
    assert not same(stage.phase.learner.deploy(state, frozen)["params"], state.learner.params["student"])


BAD = {
    "cskd": ({"temperature": 0.0}, "temperature"),
    "ema": ({"decay": 2.0}, "decay"),
    "ban": ({"generations": 0}, "generations is 0, and labels alone teach the first: give 1 or more"),
    "dml": ({"peers": 1}, "peers is 1, and a peer learns from another one: 2 or more"),
    "takd": ({"assistants": ()}, "assistants is (): name models between teacher and student"),
    "dgkd": ({"assistants": ("medium",), "drop": -1}, "drop is -1, and it is how many teachers a batch leaves out"),
    "several": (
        {"others": ("medium",), "weights": (1.0, -1.0)},
        "weights is (1.0, -1.0), of 2 teachers: give one number",
    ),
    "kdcl": ({"steps_per_epoch": 1.0, "peers": 1}, "peers is 1, and the teacher is made of several: 2 or more"),
    "one": ({"steps_per_epoch": 1.0}, "branches part after the last stage but one, and the student has stages alone"),
    "ft_staged": ({"student_taps": "a"}, 'takes the role "map_before_pool" of the teacher, which has no such role'),
    "progressive": ({"medium": "mlp_64"}, "medium is 'mlp_64': name models to teach later"),
    "online": ({"heads": ()}, "student_taps is empty"),
    "fitnets_staged": ({"student_taps": "a"}, 'takes the role "stages" of the teacher, which has no such role'),
    "ab": ({}, 'takes the role "pre_relu" of the student, which has no such role'),
    "fsp": ({"student_taps": ("a",), "teacher_taps": ("b",)}, "needs 2 layers at least"),
}


@pytest.mark.parametrize("name", sorted(STAGED))
def test_bad_input(name, settings):
    given, message = BAD[name]
    networks = MAPS if name in ON_MAPS else (STUDENT, TEACHER)
    with pytest.raises(ValueError, match=re.escape(message)):
        methods.create(name, *networks, training=settings, **given)


MORE = {
    "several, none": ("several", {"others": ()}, "others is (): name models to teach too"),
    "several, how": ("several", {"others": ("less",), "combine": "mean"}, "combine='mean': there are"),
    "several, drawn": (
        "several",
        {"others": ("less",), "combine": "random", "weights": (1.0, 2.0)},
        'combine="random" draws all teachers alike, and weights is (1.0, 2.0)',
    ),
    "dgkd": ("dgkd", {"assistants": "less"}, "assistants is 'less': name models between teacher and student"),
    "kdcl, none": ("kdcl", {"steps_per_epoch": 1.0, "others": ()}, "others is (): name models to learn with"),
    "kdcl, how": ("kdcl", {"steps_per_epoch": 1.0, "variant": "mean"}, "variant='mean': there are"),
    "kdcl, held out": (
        "kdcl",
        {"steps_per_epoch": 1.0, "variant": "general"},
        "by held-out examples, and there are none",
    ),
    "one": ("one", {"branches": 1, "steps_per_epoch": 1.0}, "branches is 1, and an ensemble is of several: 2 or more"),
    "one, grown": ("one", {"rampup": -1.0, "steps_per_epoch": 1.0, "student_taps": "a"}, "rampup is -1.0"),
}


@pytest.mark.parametrize("case", MORE)
def test_more_of_it(case, settings):
    name, given, message = MORE[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        methods.create(name, STUDENT, TEACHER, training=settings, **given)


def test_what_is_missing_is_named(settings):
    with pytest.raises(ValueError, match="method ban needs training"):
        methods.create("ban", STUDENT, TEACHER)
    with pytest.raises(ValueError, match="method takd needs assistants"):
        methods.create("takd", STUDENT, TEACHER, training=settings)
