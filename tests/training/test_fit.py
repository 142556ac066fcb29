"""The loop: any split into chunks is the same training, what goes wrong is named, what is interrupted goes on."""

import json
import random
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.data import Batches
from jaxkd.learners import Phase, distill, fresh, seeds
from jaxkd.models import MLP
from jaxkd.networks import from_function, from_linen
from jaxkd.objectives import Objective, Term, distillation, hard_label, soft_label, weighted_sum
from jaxkd.training import DivergedError, InterruptedTraining, example_batch, fit, parallel, run
from jaxkd.training._guard import check_data
from jaxkd.training.checkpoints import CheckpointMismatchError, Checkpoints, load_result, save_result

from .. import small

KEY = jax.random.key(0)
STEPS = 12


@pytest.fixture(scope="module")
def data():
    return small.batches(16)


@pytest.fixture(scope="module")
def teacher(data):
    return jax.jit(small.mlp(6).init)(jax.random.key(9), example_batch(data))


@pytest.fixture(scope="module")
def learner():
    student = small.mlp(4, dropout=0.2)
    return distill(student, small.mlp(6), distillation(2.0, 0.5), optax.adam(1e-2), prepare=small.noisy)


@pytest.fixture(scope="module")
def compiled(learner, data):
    return parallel.compile(learner, data)


@pytest.fixture(scope="module")
def state(learner, data, teacher):
    return jax.jit(learner.init)(KEY, teacher, example_batch(data))


@pytest.fixture(scope="module")
def whole(learner, data, teacher, compiled, state):
    return fit(learner, data, STEPS, state=state, frozen=teacher, compiled=compiled, chunk=4)


def counting():
    """An objective that is hard_label, and a list that grows with each trace of it."""
    inner, traces = hard_label(), []

    def apply(variables, signals):
        traces.append(1)
        return inner.apply(variables, signals)

    return Objective(inner.taps, inner.init, apply), traces


def diverging(when):
    """An objective of two terms, of which ``bad`` is NaN when ``when(step, sum of squared logits)``."""

    def apply(variables, signals):
        size = jnp.sum(signals.student.logits**2)
        bad = jnp.where(when(signals.step, size), jnp.nan, size)
        return {"fine": Term(1.0, size, jnp.ones(())), "bad": Term(1.0, bad, jnp.ones(()))}, {}, {}

    return Objective(hard_label().taps, lambda key, signals: {}, apply)


class TestFit:
    @pytest.mark.parametrize("chunk", [1, 5, 12, 100])
    def test_any_split_into_chunks_is_the_same_bits(self, learner, data, teacher, compiled, state, whole, chunk):
        split = fit(learner, data, STEPS, state=state, frozen=teacher, compiled=compiled, chunk=chunk)
        small.assert_same_bits(split, whole)

    def test_history_has_every_step(self, whole):
        assert {"loss", "hard", "soft"} == set(whole.history)
        assert all(values.shape == (STEPS,) for values in whole.history.values())
        assert int(whole.state.step) == STEPS
        np.testing.assert_allclose(
            whole.history["loss"], 0.5 * whole.history["hard"] + 0.5 * whole.history["soft"], rtol=1e-5
        )

    def test_goes_on_from_a_state(self, learner, data, teacher, compiled, state, whole):
        half = fit(learner, data, 4, state=state, frozen=teacher, compiled=compiled, chunk=4)
        rest = fit(learner, data, STEPS, state=half.state, start=4, frozen=teacher, compiled=compiled, chunk=4)
        small.assert_same_bits(rest.state, whole.state)
        np.testing.assert_array_equal(rest.history["loss"], whole.history["loss"][4:])
        assert int(half.state.step) == 4  # not consumed

    def test_no_steps_left(self, learner, data, teacher, compiled, whole):
        done = fit(learner, data, STEPS, state=whole.state, start=STEPS, frozen=teacher, compiled=compiled)
        small.assert_same_bits(done.state, whole.state)
        assert done.history == {}

    def test_borders(self, learner, data, teacher, compiled, state, whole, tmp_path):
        seen, lines = [], []

        class Log:
            def write(self, step, metrics, **extra):
                lines.append((step, sorted(metrics), extra))

            def flush(self):
                pass

        def evaluate(current, frozen):
            small.assert_same_bits(frozen, teacher)
            seen.append(int(current.step))
            return {"accuracy": jnp.float32(0.5)}

        with Checkpoints(tmp_path, keep=9) as checkpoints:
            fitted = fit(
                learner, data, STEPS, state=state, frozen=teacher, compiled=compiled, chunk=4, every=5,
                evaluate=evaluate, checkpoints=checkpoints, logs=[Log()], name="phase",
            )  # fmt: skip
            assert checkpoints.steps() == [5, 10, 12]
        small.assert_same_bits(fitted, whole)
        assert seen == [5, 10, 12]
        train = [step for step, names, _ in lines if names == ["hard", "loss", "soft"]]
        assert train == list(range(1, STEPS + 1))
        assert [step for step, names, _ in lines if names == ["accuracy"]] == [5, 10, 12]
        assert all(extra == {"phase": "phase"} for _, _, extra in lines)
        # An evaluation comes after the steps before it.
        assert [step for step, _, _ in lines] == sorted(step for step, _, _ in lines)

    def test_one_trace_per_chunk_length(self, data):
        objective, traces = counting()
        learner = distill(small.mlp(), None, objective, optax.sgd(0.1))
        compiled = parallel.compile(learner, data)
        for steps, new in ((4, True), (12, False), (14, True), (30, False)):  # over ten epochs
            before = len(traces)
            fit(learner, data, steps, key=KEY, compiled=compiled, chunk=4)
            assert (len(traces) > before) == new

    def test_needs_a_key_or_a_state(self, learner, data, teacher):
        with pytest.raises(ValueError, match="fit needs a key to draw a fresh state, or a state to start from"):
            fit(learner, data, 1, frozen=teacher)
        with pytest.raises(ValueError, match="steps is -1: it has to be 0 or more"):
            fit(learner, data, -1, key=KEY, frozen=teacher)
        with pytest.raises(ValueError, match="chunk is 0: at least one step"):
            fit(learner, data, 1, key=KEY, frozen=teacher, chunk=0)
        with pytest.raises(ValueError, match="every is 0: at least one step"):
            fit(learner, data, 1, key=KEY, frozen=teacher, every=0)

    @pytest.mark.parametrize(("start", "every"), [(0, 3), (8, None)])  # chunks that end before they are full; only one
    def test_profile(self, learner, data, teacher, compiled, state, tmp_path, start, every):
        fit(
            learner, data, STEPS, state=state, frozen=teacher, compiled=compiled, chunk=4, start=start, every=every,
            profile=str(tmp_path),
        )  # fmt: skip
        assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


class TestGuard:
    def test_names_step_and_term(self, data, tmp_path):
        learner = distill(small.mlp(), None, diverging(lambda step, size: step == 6), optax.sgd(1e-3))
        with Checkpoints(tmp_path, keep=9) as checkpoints:
            with pytest.raises(
                DivergedError, match=r'^phase: "bad" is nan at step 7: the training has diverged'
            ) as error:
                fit(learner, data, STEPS, key=KEY, chunk=2, every=2, checkpoints=checkpoints, name="phase")
            assert (error.value.step, error.value.terms) == (7, ("bad",))
            checkpoints.wait()
            assert checkpoints.steps() == [2, 4, 6]
            like = jax.eval_shape(lambda: learner.init(KEY, {}, example_batch(data)))
            for step in checkpoints.steps():
                params = checkpoints.restore(like, step).state.params
                assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))

    def test_names_the_seed(self, data):
        batch = example_batch(data)
        network = small.mlp()
        states = [network.init(jax.random.split(key, 3)[0], batch) for key in jax.random.split(KEY, 3)]
        sizes = np.array([np.sum(np.square(network.apply(state, batch)[0].logits)) for state in states])
        limit = float(np.sort(sizes)[1:].mean())
        learner = seeds(distill(network, None, diverging(lambda step, size: size > limit), optax.sgd(0.0)), 3)
        expected = rf'^"bad" is nan at step 1 \(seed {sizes.argmax()} of 3\): the training has diverged'
        with pytest.raises(DivergedError, match=expected):
            fit(learner, data, 2, key=KEY, chunk=1)

    def test_last_step_that_spoils_the_state_is_not_saved(self, data, tmp_path):
        learner = distill(small.mlp(), None, hard_label(), optax.sgd(jnp.inf))
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(
                ValueError, match=r"state at step 1, .*holds NaN or infinity: the training has diverged"
            ):
                fit(learner, data, 1, key=KEY, checkpoints=checkpoints)
            assert checkpoints.steps() == []

    def test_teacher_with_nan(self, learner, data, teacher):
        spoilt = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), teacher)
        with pytest.raises(
            ValueError, match=r"frozen variables\['params'\]\['classifier'\]\['bias'\] holds NaN or infinit"
        ):
            fit(learner, data, 1, key=KEY, frozen=spoilt)

    def test_teacher_that_answers_nan(self, data, teacher):
        answers = from_function(small.mlp().init, lambda variables, batch, train, rng: jnp.full((16, 5), jnp.nan))
        learner = distill(small.mlp(), answers, soft_label(temperature=2.0), optax.sgd(0.1))
        with pytest.raises(DivergedError, match=r'"soft_label" is nan at step 1: .*the teacher\'s outputs for it$'):
            fit(learner, data, 1, key=KEY, frozen=teacher)

    @pytest.mark.parametrize("resident", [True, False])
    def test_label_out_of_range(self, data, resident):
        learner = distill(from_linen(MLP((), 2)), None, hard_label(), optax.sgd(0.1))
        feed = Batches(data.examples, 16, resident=resident)
        expected = (
            r"label [234] at \[.*\], and the network has 2 classes: labels go from 0 to 1, and are below 0 for unl"
        )
        with pytest.raises(ValueError, match=expected):
            fit(learner, feed, 1, key=KEY)

    def test_batch_with_nan_or_empty(self, learner, teacher):
        class Feed:
            batch_size, batch_axis, source = 2, 1, ()

            def __init__(self, image):
                self.image = image

            def chunk(self, start, length):
                label = np.zeros((length, len(self.image)), np.int32)
                return {"image": np.stack([self.image] * length), "label": label}

            def fetch(self, source, x):
                return x

        image = np.zeros((2, 4, 4, 1), np.float32)
        image[1, 2, 3] = np.nan
        with pytest.raises(ValueError, match=r'"image" holds NaN or infinity at \[1, 2, 3, 0\]'):
            fit(learner, Feed(image), 1, key=KEY, frozen=teacher)
        with pytest.raises(ValueError, match=r'the batch is empty: "image" has shape \[0, 4, 4, 1\]'):
            fit(learner, Feed(image[:0]), 1, key=KEY, frozen=teacher)

    def test_data_is_any_tree(self):
        check_data((), 5)
        with pytest.raises(ValueError, match=r'"views/small" holds NaN or infinity at \[0, 1\]'):
            check_data({"label": np.zeros(1, int), "views": {"small": np.array([[1.0, np.inf]])}}, 5)


@pytest.fixture(scope="module")
def generations():
    """Born again twice: an objective that counts its traces, and the phases."""
    objective, traces = counting()
    alone = distill(small.mlp(4), None, hard_label(), optax.adam(1e-2))
    again = distill(
        small.mlp(4, dropout=0.2),
        small.mlp(4),
        weighted_sum(hard=(0.5, objective), soft=(0.5, soft_label(2.0))),
        optax.adam(1e-2),
        prepare=small.noisy,
    )
    phases = [
        Phase("first", alone, 8, fresh(alone)),
        Phase("second", again, 8, fresh(again, lambda results: results["first"])),
        Phase("third", again, 8, fresh(again, lambda results: results["second"])),
    ]
    return phases, traces


class Pair(NamedTuple):
    layers: list[Any]
    bias: Any


def norm(phase):
    return lambda state, frozen: {"norm": optax.tree.norm(phase.learner.deploy(state, frozen))}


OPTIONS = {"key": KEY, "chunk": 2, "evaluate": norm, "every": 4, "best": "norm"}


@pytest.fixture(scope="module")
def finished(generations, data, tmp_path_factory):
    """A run that nothing has interrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, run(generations[0], data, workdir=workdir, **OPTIONS)


class TestRun:
    def test_teachers_are_the_generations_before(self, generations, data, finished):
        workdir, results = finished
        (_, second, _), _ = generations
        assert list(results) == ["first", "second", "third"]
        state, frozen = second.enter(jax.random.fold_in(KEY, 1), {"first": results["first"]}, example_batch(data))
        small.assert_same_bits(jax.device_get(frozen), jax.device_get(results["first"]))
        by_hand = fit(second.learner, data, 8, state=state, frozen=frozen, chunk=4)
        small.assert_same_bits(second.learner.deploy(by_hand.state, frozen), jax.device_get(results["second"]))
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line["phase"] == "second" and "loss" in line]
        np.testing.assert_array_equal(np.float32(losses), by_hand.history["loss"])

    def test_interrupted_is_the_same_bits(self, generations, data, finished, tmp_path):
        workdir, expected = finished
        rng, interruptions = random.Random(14), []
        written, still_open = {}, []

        class Points:
            """What TensorBoard shows: a log that starts again forgets what came after its start."""

            def __init__(self, phase, start):
                still_open.append(self)
                self.steps = written[phase.name] = [step for step in written.get(phase.name, []) if step <= start]

            def write(self, step, metrics, **extra):
                assert self in still_open
                self.steps.extend([step] if "loss" in metrics else [])

            def flush(self):
                pass

            def close(self):
                still_open.remove(self)

        for _ in range(20):
            try:
                results = run(
                    generations[0],
                    data,
                    workdir=tmp_path,
                    stop=lambda step: "SIGTERM" if rng.random() < 0.3 else None,
                    phase_logs=lambda phase, start: [Points(phase, start)],
                    **OPTIONS,
                )
                break
            except InterruptedTraining as interruption:
                interruptions.append((interruption.step, interruption.reason))
            finally:
                assert not still_open
        assert len(interruptions) == 3
        assert any(step % 4 for step, _ in interruptions)  # also where no checkpoint was due
        assert {reason for _, reason in interruptions} == {"SIGTERM"}
        assert written == {name: list(range(1, 9)) for name in expected}
        small.assert_same_bits(jax.device_get(results), jax.device_get(expected))
        assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()

    def test_finished_phases_are_not_trained_again(self, generations, data, finished, tmp_path):
        workdir, expected = finished
        shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
        traces = len(generations[1])
        results = run(
            generations[0], data, workdir=tmp_path, on_phase=lambda *args: pytest.fail("a phase has started"), **OPTIONS
        )
        assert len(generations[1]) == traces
        small.assert_same_bits(jax.device_get(results), jax.device_get(expected))
        assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()

    def test_damaged_result_is_made_again(self, generations, data, finished, tmp_path):
        workdir, expected = finished
        shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
        (array_file,) = (tmp_path / "results/second/arrays/d").iterdir()
        content = bytearray(array_file.read_bytes())
        content[len(content) // 2] ^= 255
        array_file.write_bytes(content)
        started, skipped = [], []
        results = run(
            generations[0],
            data,
            workdir=tmp_path,
            on_phase=lambda phase, step: started.append((phase.name, step)),
            on_skipped=lambda phase, step, reason: skipped.append((phase.name, step, reason)),
            **OPTIONS,
        )
        assert started == [("second", 8)]
        assert [entry[:2] for entry in skipped] == [("second", 8)]
        assert "damaged" in skipped[0][2]
        small.assert_same_bits(jax.device_get(results), jax.device_get(expected))
        assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
        again = run(generations[0], data, workdir=tmp_path, on_phase=lambda *args: pytest.fail("not whole"), **OPTIONS)
        small.assert_same_bits(jax.device_get(again), jax.device_get(expected))

    def test_generations_share_one_program(self, generations, data, tmp_path):
        phases, traces = generations
        traces_at = {}
        run(
            phases, data, workdir=tmp_path, key=KEY, chunk=4,
            on_phase=lambda phase, step: traces_at.setdefault(phase.name, len(traces)),
        )  # fmt: skip
        assert traces_at["second"] < traces_at["third"] == len(traces)

    def test_another_teacher_is_refused(self, generations, data, finished, tmp_path):
        again = generations[0][1].learner
        teacher = finished[1]["first"]

        def attempt(scale, stop=None):
            frozen = jax.tree.map(lambda x: scale * x, teacher)
            phase = Phase("only", again, 8, fresh(again, lambda results: frozen))
            return run([phase], data, workdir=tmp_path, key=KEY, chunk=4, stop=stop)

        with pytest.raises(InterruptedTraining, match="stopped by test at step 4"):
            attempt(1.0, stop=lambda step: "test")
        with pytest.raises(
            CheckpointMismatchError, match=r"frozen_hash .* resume with the teacher it was trained with"
        ):
            attempt(2.0)
        attempt(1.0)

    def test_results_keep_their_containers(self, data, tmp_path):
        def init(key, batch):
            width = batch["image"][0].size
            layers = [0.1 * jax.random.normal(k, shape) for k, shape in zip(
                jax.random.split(key), ((width, 4), (4, small.CLASSES)), strict=True
            )]  # fmt: skip
            return {"params": Pair(layers, jnp.zeros(small.CLASSES)), "nothing": {}}

        def apply(variables, batch, train, rng):
            (first, second), bias = variables["params"]
            return jnp.tanh(batch["image"].reshape(len(batch["image"]), -1) @ first) @ second + bias

        teacher = from_function(init, apply)
        alone = distill(teacher, None, hard_label(), optax.sgd(0.1))
        taught = distill(small.mlp(), teacher, soft_label(2.0), optax.sgd(0.1))
        phases = [
            Phase("teacher", alone, 4, fresh(alone)),
            Phase("student", taught, 4, fresh(taught, lambda results: results["teacher"])),
        ]
        whole = run(phases, data, workdir=tmp_path / "whole", key=KEY, chunk=2)
        assert isinstance(whole["teacher"]["params"], Pair)
        stops = iter([None, "SIGTERM"])  # asked once in each phase
        with pytest.raises(InterruptedTraining):
            run(phases, data, workdir=tmp_path / "resumed", key=KEY, chunk=2, stop=lambda step: next(stops))
        small.assert_same_bits(run(phases, data, workdir=tmp_path / "resumed", key=KEY, chunk=2), whole)

    def test_what_another_run_has_finished_is_refused(self, generations, data, finished, tmp_path):
        workdir, results = finished
        shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
        first, second, third = generations[0]
        longer = [first, second._replace(steps=10), third]
        with pytest.raises(
            CheckpointMismatchError, match=r"second has steps 8, this run has 10: choose another workdir"
        ):
            run(longer, data, workdir=tmp_path, **OPTIONS)
        with pytest.raises(CheckpointMismatchError, match=r"first has config_hash '', this run has 'other': choose"):
            run(generations[0], data, workdir=tmp_path, config_hash="other", **OPTIONS)
        other = second._replace(
            enter=fresh(second.learner, lambda results: jax.tree.map(jnp.zeros_like, results["first"]))
        )
        with pytest.raises(CheckpointMismatchError, match=r"second has frozen_hash .*, this run has .*: choose"):
            run([first, other], data, workdir=tmp_path, **OPTIONS)
        # Without the result it is the checkpoint that tells.
        shutil.rmtree(tmp_path / "results/first")
        shorter = [first._replace(steps=6)]
        with pytest.raises(CheckpointMismatchError, match=r"checkpoints/first is of step 8, and the phase has 6 steps"):
            run(shorter, data, workdir=tmp_path, **OPTIONS)
        # What somebody else has put there says nothing of a run, and is taken.
        found = load_result(workdir / "results", "first").variables
        save_result(tmp_path / "results", "first", found, {"found": "elsewhere"})
        small.assert_same_bits(run(shorter, data, workdir=tmp_path, **OPTIONS)["first"], results["first"])

    def test_phases_of_one_name(self, generations, data, tmp_path):
        with pytest.raises(ValueError, match=r"phases need names of their own, and these are \['first', 'first'\]"):
            run(generations[0][:1] * 2, data, key=KEY, workdir=tmp_path)
