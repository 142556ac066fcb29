"""A search finds what separate trainings would have found, and chooses without a look at the test split."""

import dataclasses
import itertools
import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import jax
import matplotlib
import numpy as np
import optax
import pytest

from jaxkd import cli, data, evaluation, jobs, learners, models, networks, objectives, training
from jaxkd.evaluation import Surface, Trial, _heat_map, _plots
from jaxkd.jobs._job import mesh_of
from jaxkd.jobs._search_job import Plan, SearchJob
from jaxkd.jobs._space import rungs_of
from jaxkd.training.checkpoints import load_result, tree_hash

TEMPERATURES, ALPHAS, SEEDS = (1.0, 4.0), (0.1, 0.9), 2
SMALL = (
    *("--teacher", "mlp_32", "--student", "mlp_4", "--seeds", str(SEEDS), "--labels", "all", "--mesh", "data=1"),
    *("--steps", "40", "--teacher-epochs", "4", "--teacher-learning-rate", "1e-2"),
)
GRID = ("--grid", "temperature=1,4", "--grid", "alpha=.1,.9")


@pytest.fixture(scope="module")
def start(data_dir):
    """``start(workdir, *options) -> exit code`` of a small search."""

    def start(workdir, *options):
        return cli.main(["search", *SMALL, "--workdir", str(workdir), "--data-dir", data_dir, *options])

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    """An undisturbed search."""
    workdir = tmp_path_factory.mktemp("runs")
    assert start(workdir, "--name", "whole", *GRID) == 0
    return workdir / "whole"


@pytest.fixture
def unreported(monkeypatch):
    """Draws no report: one is looked at in a test of its own."""
    monkeypatch.setattr(evaluation, "write_report", lambda *_, **__: None)


def surface_of(run: Path) -> Surface:
    return Surface.from_json((run / "search.json").read_text())


def resume(run: Path, data_dir: str) -> int:
    return cli.main(["search", "--resume", run.name, "--workdir", str(run.parent), "--data-dir", data_dir])


def test_each_point_is_what_a_training_of_its_own_gives(whole, data_dir):
    digits = {split: data.load("digits", split, data_dir=data_dir) for split in ("train", "validation")}
    teacher, student = (networks.from_linen(models.create(name, 10)) for name in ("mlp_32", "mlp_4"))
    batches = data.Batches(digits["train"], 64, seed=0)
    frozen = load_result(whole / "results", "teacher").variables
    found = load_result(whole / "results", "distilled").variables
    trials = surface_of(whole).trials
    # The teacher is phase 0 of a run, the student alone phase 1, the distilled one phase 2.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 2), SEEDS)
    for row, (temperature, alpha) in enumerate(itertools.product(TEMPERATURES, ALPHAS)):
        assert trials[row].point == {"temperature": temperature, "alpha": alpha}
        objective = objectives.distillation(temperature, alpha)
        optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 40))
        learner = learners.distill(student, teacher, objective, optimizer)
        compiled = training.parallel.compile(learner, batches)
        for seed, key in enumerate(keys):
            state = training.fit(learner, batches, 40, key=key, frozen=frozen, compiled=compiled).state
            alone = learner.deploy(state, frozen)
            jax.tree.map(
                lambda x, y, at=(row, seed): np.testing.assert_allclose(x[at], y, rtol=0, atol=1e-5), found, alone
            )
            logits = evaluation.predict(student, alone, data.padded_batches(digits["validation"], 150))
            accuracy = evaluation.accuracy(logits, digits["validation"].labels())
            assert trials[row].validation[seed] == pytest.approx(float(accuracy), abs=1e-5)


def test_what_a_search_leaves(whole):
    surface = surface_of(whole)
    assert {path.name for path in (whole / "plots").iterdir()} >= {"search.png", "learning_curves.png"}
    report = (whole / "report.html").read_text()
    assert "<h2>Search</h2>\n<figure><svg" in report
    assert 'id="search-' in report
    assert report.index("<h2>Search</h2>") < report.index("<h2>All points of the search</h2>")
    lines = (whole / "search.md").read_text().splitlines()
    assert lines[4] == "|  | temperature | alpha | validation | test |"
    assert len(lines) == 6 + len(surface.trials) + len(surface.alone) + 2
    assert list(surface.alone) == ["alone"]
    tested = [i for i, trial in enumerate(surface.trials) if trial.test is not None]
    assert sorted(surface.ranking[:2]) == tested, "no other point was looked at on the test split"
    student = load_result(whole / "results", "student")
    assert student.metadata["point"] == surface.chosen.point
    comparison = evaluation.Comparison.from_json((whole / "comparison.json").read_text())
    assert [entry.name for entry in comparison.students] == ["alone", "distilled"]
    assert comparison.best.accuracy.mean == pytest.approx(np.mean(surface.chosen.test))


@pytest.mark.usefixtures("unreported")
def test_the_test_split_chooses_nothing(whole, data_dir, monkeypatch):
    before, kept = surface_of(whole), load_result(whole / "results", "student").metadata
    again = shutil.copytree(whole, whole.parent / "again")
    load = data.load

    def permuted(name, split, **options):
        examples = load(name, split, **options)
        if split != "test":
            return examples
        arrays = {**examples.arrays, "label": (examples.arrays["label"] + 1) % 10}
        return dataclasses.replace(examples, arrays=arrays)

    with monkeypatch.context() as other:
        other.setattr(data, "load", permuted)
        assert resume(again, data_dir) == 0
    after = surface_of(again)
    assert after.ranking == before.ranking
    assert load_result(again / "results", "student").metadata == kept
    assert [trial.validation for trial in after.trials] == [trial.validation for trial in before.trials]
    assert after.chosen.test != before.chosen.test, "it is another test split"


@pytest.mark.usefixtures("unreported")
def test_in_parts_interrupted_and_resumed_it_is_the_same(whole, start, monkeypatch, capsys):
    workdir = whole.parent  # where the teacher is
    drawn = cli._Screen.chunk

    def interrupt(self, name, step, metrics):
        drawn(self, name, step, metrics)
        if name == "distilled, part 2 of 2" and self.stop(step) is None:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(cli._Screen, "chunk", interrupt)
        code = start(
            workdir, "--name", "parts", *GRID, "--points-at-once", "3", "--chunk", "10", "--seeds-at-once", "1"
        )
    assert code == 128 + signal.SIGTERM
    _, *words = shlex.split(capsys.readouterr().out.split("go on with: ")[1].split("\n")[0])
    assert words[0] == "search"
    assert cli.main(words) == 0
    parts, at_once = surface_of(workdir / "parts"), surface_of(whole)
    assert parts.ranking == at_once.ranking
    for one, other in zip(parts.trials, at_once.trials, strict=True):
        assert one.point == other.point
        np.testing.assert_allclose(one.validation, other.validation, atol=1e-2)
    found = load_result(whole / "results", "distilled").variables
    first, second = (load_result(workdir / "parts/results", f"distilled, part {i} of 2").variables for i in (1, 2))
    jax.tree.map(
        lambda x, y, z: np.testing.assert_allclose(x, np.concatenate([y, z])[:4], rtol=0, atol=1e-5),
        *(found, first, second),
    )


@pytest.mark.usefixtures("unreported")
def test_a_diverging_point_is_told_and_not_chosen(whole, start, capsys):
    workdir = whole.parent
    assert start(workdir, "--name", "rates", "--grid", "learning_rate=1e38,1e-2", "--grid", "alpha=.5") == 0
    assert "diverged at step" in capsys.readouterr().out
    surface = surface_of(workdir / "rates")
    assert surface.ranking == (1,)
    assert surface.trials[0].diverged_at is not None
    assert surface.alone["alone"].point == {"learning_rate": 1e-2}, "the student alone has its own choice of rates"
    assert surface.runner_up is None


@pytest.mark.usefixtures("unreported")
def test_halving_drops_points_and_the_rest_is_as_without(whole, start, data_dir, capsys):
    workdir = whole.parent
    grid = ("--grid", "temperature=1,4", "--grid", "alpha=.1,.9", "--halving", "2")
    assert start(workdir, "--name", "halved", *grid) == 0
    assert "Dropped before the end: 2" in " ".join(capsys.readouterr().out.split())
    run = workdir / "halved"
    found, at_once = surface_of(run), surface_of(whole)
    assert sorted(trial.stopped_at or 0 for trial in found.trials) == [0, 0, 20, 20]
    stayed = [i for i, trial in enumerate(found.trials) if trial.stopped_at is None]
    assert set(found.ranking[:2]) == set(stayed)
    before, after = (load_result(path / "results", "distilled").variables for path in (whole, run))
    for i in stayed:
        assert found.trials[i].validation == pytest.approx(at_once.trials[i].validation, abs=1e-2)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y[i], rtol=0, atol=1e-5), before, after)
    assert " at step 20, dropped |" in (run / "search.md").read_text()
    assert resume(run, data_dir) == 0
    assert surface_of(run) == found
    again = ["search", "--resume", "halved", "--workdir", str(workdir), "--data-dir", data_dir, "--halving", "3"]
    assert cli.main(again) == 1
    assert "run halved has other points than asked for here" in one_error(capsys)


def test_rungs():
    assert rungs_of(25, 800, 2) == (100, 200, 400)
    assert rungs_of(27, 900, 3) == (100, 300)
    with pytest.raises(ValueError, match="--halving is 1: it has to be above 1"):
        rungs_of(8, 100, 1.0)


def trial(*validation, test=None, diverged_at=None, stopped_at=None, **point):
    return Trial(point, validation, diverged_at, test, stopped_at)


def test_ties_keep_the_first():
    # The same examples right, in another order over seeds: the means differ in their last bits.
    seeds = (0.94, 0.955, 0.97, 0.905, 0.985)
    surface = Surface("", 200, tuple(trial(*x, alpha=float(i)) for i, x in enumerate(itertools.permutations(seeds))))
    assert len({np.mean(one.validation) for one in surface.trials}) > 1
    assert surface.ranking == tuple(range(len(surface.trials)))
    assert surface.chosen.point == {"alpha": 0.0}
    assert "tied with it: the one asked for first is kept" in surface.verdict()


def test_ranking_leaves_out_what_has_diverged_and_never_looks_at_test():
    trials = (
        trial(0.5, 0.5, alpha=0.1),
        trial(1.0, 1.0, alpha=0.2, diverged_at=3),
        trial(0.6, 0.7, alpha=0.3, test=(0.1, 0.1)),
        trial(0.6, 0.6, alpha=0.4, test=(0.9, 0.9)),
    )
    surface = Surface("x", 10, trials, {"alone": trial(0.4, 0.4, learning_rate=0.01)})
    assert surface.ranking == (2, 3, 0)
    dropped = (trial(0.9, 0.9, alpha=0.5, stopped_at=10), trial(0.8, 0.8, alpha=0.6, stopped_at=20))
    assert Surface("x", 10, (*trials, *dropped)).ranking == (2, 3, 0, 5, 4)
    assert Surface.from_json(Surface("x", 10, dropped).to_json()).trials == dropped
    assert surface.chosen is trials[2]
    assert surface.runner_up is trials[3]
    assert Surface.from_json(surface.to_json()) == surface
    assert [row[0] for row in surface.rows()] == ["", "1", "2", "3", "", "alone"]
    with pytest.raises(ValueError, match="all 1 points of the search have diverged, the last at step 3"):
        Surface("x", 10, trials[1:2]).chosen  # noqa: B018


@pytest.mark.parametrize(
    ("axes", "drawn", "panels"),
    [
        ({"alpha": (0.5,)}, None, 1),
        ({"temperature": (1.0, 2.0, 4.0)}, None, 1),
        ({"temperature": (1.0, 2.0), "alpha": (0.1, 0.9), "learning_rate": (1e-3, 1e-2, 1e-1)}, None, 2),
        ({"temperature": (1.0, 4.0), "learning_rate": (1e-4, 1e-1)}, 8, 1),
        ({"learning_rate": (1e-4, 1e-1)}, 20, 1),
    ],
)
def test_every_space_has_a_plot(axes, drawn, panels):
    rng = np.random.default_rng(0)
    points = (
        [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        if drawn is None
        else [{name: float(rng.uniform(*ends)) for name, ends in axes.items()} for _ in range(drawn)]
    )
    trials = [Trial(point, tuple(rng.uniform(0.8, 0.9, 3))) for point in points]
    if drawn is not None:
        trials[0] = dataclasses.replace(trials[0], diverged_at=2)
        trials[1] = dataclasses.replace(trials[1], stopped_at=2)
    with matplotlib.rc_context(_plots.STYLE):
        figure = _heat_map.draw(Surface("", 100, tuple(trials)))
        figure.draw_without_rendering()
    with_data = [axis for axis in figure.axes if axis.get_label() != "<colorbar>" and axis.axison]
    assert len(with_data) == panels
    if drawn is None:
        numbers = [text.get_text() for axis in with_data for text in axis.texts]
        expected = {f"{100 * np.mean(one.validation):.1f}" for one in trials}
        assert {number.split("\n")[0] for number in numbers} == expected


def test_a_program_trains_as_many_points_as_fit_the_memory(data_dir, monkeypatch):
    config = jobs.with_recipe(jobs.DistillConfig(teacher="mlp_8", student="mlp_4", labels="all", seeds=2))
    points = {"alpha": tuple(np.linspace(0, 1, 10).tolist())}
    weights = 2 * 4 * (64 * 4 + 4 + 4 * 10 + 10)  # bytes of both seeds
    # Three times with Adam's moments, two keys and counters; four states, and 64 examples' activations.
    one = 4 * 3.1 * weights + 64 * weights
    for points_that_fit, parts in ((100, 1), (3.9, 4), (0.5, 10)):
        monkeypatch.setattr(os, "sysconf", lambda name, fit=points_that_fit: 4 * fit * one if "PHYS" in name else 1)
        job = SearchJob(config, Plan(points), mesh_of(None), data_dir)
        there = [phase.name for phase in job.phases if phase.name.startswith("distilled")]
        assert len(there) == parts
        assert len(job.places["distilled"]) == 10
        assert len({id(phase.learner) for phase in job.phases if phase.name in there}) == 1, "one program"


def test_points_are_drawn_from_the_space_and_the_seed():
    space = jobs.SearchSpace(
        random=200, range=("learning_rate=1e-4:1e-2:log", "alpha=.2:.6"), grid=("temperature=2,4",)
    )
    points = jobs.points_of(space, jobs.DistillConfig(seed=3))
    rates = np.log10(points["learning_rate"])
    assert (rates >= -4).all()
    assert (rates <= -2).all()
    assert np.mean(rates < -3) == pytest.approx(0.5, abs=0.1), "evenly on a logarithmic scale"
    assert np.mean(np.asarray(points["alpha"]) < 0.4) == pytest.approx(0.5, abs=0.1)
    assert set(points["temperature"]) == {2.0, 4.0}
    assert jobs.points_of(space, jobs.DistillConfig(seed=3)) == points
    assert jobs.points_of(space, jobs.DistillConfig(seed=4)) != points


BAD = {
    "empty": ((), "the search space is empty: give --grid temperature=1,2,4, or --random 20"),
    "random of nothing": (("--random", "5"), "the search space is empty"),
    "no points": (("--random", "0", "--grid", "alpha=.1"), "--random is 0: it has to be at least 1"),
    "unknown": (
        ("--grid", "temprature=1,2"),
        "method kd has no parameter temprature to search: it has learning_rate, te",
    ),
    "of another": (("--method", "ctkd", "--grid", "alpha=.5"), "method ctkd has no parameter alpha to search"),
    "word": (
        ("--method", "ttm", "--grid", "variant=1,2"),
        "variant of method ttm is no number, which decides the program: it cannot be searched, give it with --set",
    ),
    "whole number": (("--method", "simkd", "--grid", "factor=1,2"), "factor of method simkd is a whole number"),
    "decides": (
        ("--method", "dkd", "--grid", "warmup=1,2"),
        "one of warmup decides what method dkd computes",
    ),
    "no number": (("--grid", "temperature=1,x"), "--grid temperature has 'x': it has to be a number"),
    "infinite": (("--grid", "temperature=1,inf"), "--grid temperature has 'inf': it has to be a number"),
    "nothing": (("--grid", "temperature="), "--grid is 'temperature=': write it as temperature=1,2,4"),
    "value twice": (("--grid", "temperature=1,1.0"), "--grid temperature=1,1.0 has a value twice"),
    "name twice": (("--grid", "alpha=.1", "--grid", "alpha=.2"), "--grid alpha is given twice"),
    "alpha": (("--grid", "alpha=.5,1.5"), "alpha is 1.5: it has to lie in [0, 1]"),
    "temperature": (("--grid", "temperature=1,0"), "temperature is 0.0: it has to be above 0"),
    "rate": (("--grid", "learning_rate=.1,0"), "learning_rate is 0.0: it has to be above 0"),
    "log of 0": (
        ("--random", "2", "--range", "learning_rate=0:1:log"),
        "--range learning_rate is '0:1:log': a logarithmic range has to start above 0",
    ),
    "backwards": (("--random", "2", "--range", "alpha=.9:.1"), "it has to go from a lower number to a higher one"),
    "no range": (("--random", "2", "--range", "alpha=.9"), "--range alpha is '.9': write it as LOW:HIGH"),
    "range of a grid": (("--range", "alpha=.1:.9"), "--range alpha is to draw from: say how many points with --random"),
    "both": (
        ("--random", "2", "--range", "alpha=.1:.9", "--grid", "alpha=.1"),
        "alpha has a --grid and a --range: give one of them",
    ),
    "fixed too": (("--grid", "alpha=.1", "--alpha", ".5"), "alpha is searched and given as one value too"),
    "set too": (("--grid", "alpha=.1", "--set", "alpha=.5"), "alpha is searched and given as one value too"),
    "at once": (("--grid", "alpha=.1", "--points-at-once", "0"), "--points-at-once is 0: it has to be at least 1"),
    "halving of two": (
        ("--grid", "alpha=.1,.5", "--halving", "2"),
        "--halving 2 of 2 points in 40 steps: that leaves nothing to drop",
    ),
    "halving by 1": (("--grid", "alpha=.1,.5,.9", "--halving", "1"), "--halving is 1: it has to be above 1"),
    "halving by 0": (("--grid", "alpha=.1,.5,.9", "--halving", "0"), "--halving is 0: it has to be above 1"),
    "halving in parts": (
        ("--grid", "alpha=.1,.3,.5,.9", "--halving", "2", "--points-at-once", "2"),
        "--halving holds all 4 points at a time, and --points-at-once says how many: leave one out",
    ),
    "phases": (("--method", "ban", "--grid", "alpha=.1"), "method ban has phases or networks of its own"),
    "method": (("--method", "kdd", "--grid", "alpha=.1"), "no method is called 'kdd'; nearest: kd"),
    "resume": (("--resume", "nothing"), "is no run"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(start, tmp_path, capsys, case):
    options, message = BAD[case]
    assert start(tmp_path, *options) == 1
    assert message in one_error(capsys)
    assert not list(tmp_path.iterdir())


def test_a_search_is_never_overwritten_nor_taken_for_a_run(whole, start, data_dir, capsys):
    before = tree_hash(load_result(whole / "results", "distilled").variables)
    assert start(whole.parent, "--name", "whole", *GRID) == 1
    assert "go on with --resume whole, or choose another --name" in one_error(capsys)
    assert start(whole.parent, "--name", "whole", "--grid", "alpha=.1") == 1
    assert "run whole was started with another config: search is" in one_error(capsys)
    where = ("--workdir", str(whole.parent))
    assert cli.main(["search", *where, "--resume", "whole", "--grid", "alpha=.1"]) == 1
    assert "run whole has other points than asked for here: resume it without naming any" in one_error(capsys)
    assert cli.main(["distill", *where, "--resume", "whole"]) == 1
    assert "run whole is a search: jaxkd search --resume whole" in one_error(capsys)
    assert cli.main(["evaluate", "whole", *where]) == 1
    assert "run whole is a search" in one_error(capsys)
    config = json.loads((whole / "config.json").read_text())
    assert config["search"]["points"] == {"temperature": [1.0, 1.0, 4.0, 4.0], "alpha": [0.1, 0.9, 0.1, 0.9]}
    assert tree_hash(load_result(whole / "results", "distilled").variables) == before


def one_error(capsys) -> str:
    """The one line that was written to the standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
