"""The benchmark of methods: its statistics against values by hand, and the command itself, killed and resumed."""

import json
import math

import jax
import numpy as np
import pytest

from jaxkd import cli, methods
from jaxkd.evaluation import Benchmark, Trained
from jaxkd.evaluation._benchmark import holm, paired
from jaxkd.jobs import BenchmarkConfig, RunOptions
from jaxkd.jobs._benchmark import _check, accuracies
from jaxkd.jobs._benchmark_rows import entries_of, jobs_of
from jaxkd.training import example_batch

KD = Trained("kd", "a -> b", "KD", (0.5, 0.6, 0.7, 0.8), (0.6, 0.6, 0.8, 0.8))


def row(method, *last, labels="cross-entropy", pair="a -> b"):
    return Trained(method, pair, labels, last, last)


def table(*rows):
    return Benchmark("digits: methods", 400, ("One sentence.",), (KD, *rows))


def test_a_paired_interval_by_hand():
    # Mean .02, s = .0258199, s / 2 = .01290994; t of 3 degrees of freedom at 97.5 % is 3.182446.
    mean, low, high, p = paired(np.array([0.0, 0.0, 0.03, 0.05]))
    assert mean == pytest.approx(0.02)
    half = 3.182446 * np.std([0.0, 0.0, 0.03, 0.05], ddof=1) / 2
    assert (low, high) == (pytest.approx(0.02 - half, rel=1e-6), pytest.approx(0.02 + half, rel=1e-6))
    # The density of Student's t with 3 degrees of freedom, integrated numerically.
    t = 0.02 / (np.std([0.0, 0.0, 0.03, 0.05], ddof=1) / 2)
    grid = np.linspace(-t, t, 20001)
    density = 6 * math.sqrt(3) / (math.pi * (3 + grid**2) ** 2)
    inside = np.sum((density[1:] + density[:-1]) / 2 * np.diff(grid))
    assert p == pytest.approx(1 - inside, abs=1e-6)


def test_differences_without_a_spread():
    assert paired(np.array([0.1]))[0] == pytest.approx(0.1)
    assert all(math.isnan(x) for x in paired(np.array([0.1]))[1:])
    assert paired(np.zeros(4)) == (0, 0, 0, 1)
    assert paired(np.full(4, 0.25)) == (0.25, 0.25, 0.25, 0)


def test_holm_by_hand():
    # Sorted: .01 x 4, .02 x 3, .03 x 2, .04 x 1, each at least the one before.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert math.isnan(holm([math.nan, 0.01])[0])
    assert holm([math.nan, 0.01])[1] == 0.01


def test_differences_are_to_kd_of_the_same_pair():
    other = [row("kd", 0.1, 0.1, 0.1, 0.1, labels="KD", pair="c -> d"), row("sp", 0.2, 0.3, 0.2, 0.3, pair="c -> d")]
    found = table(row("at", 0.52, 0.61, 0.73, 0.81), *other, row("cc")).differences()
    assert sorted(found) == [1, 3]
    assert found[1].mean == pytest.approx(0.0175)
    assert found[3].mean == pytest.approx(0.15)
    first, second = (paired(np.array(d))[3] for d in ([0.02, 0.01, 0.03, 0.01], [0.1, 0.2, 0.1, 0.2]))
    np.testing.assert_allclose([found[1].p, found[3].p], holm([first, second]))


def test_what_it_says():
    shown = table(
        row("at", 0.9, 0.95, 0.99, 0.99), row("sp", 0.5, 0.61, 0.69, 0.8), row("cc", 0.1, 0.2, 0.3, 0.4), row("x")
    )
    text = shown.to_markdown()
    assert "An implementation check, not a ranking" in text
    assert "binomial error of 400 test images: 2.4 points" in text
    assert "Better than KD (p < .05 after correction): at (cross-entropy)." in text
    assert "Worse than KD (p < .05 after correction): cc (cross-entropy)." in text
    assert "Not to be told from KD: sp (cross-entropy)." in text
    assert "Diverged: x (cross-entropy)." in text
    assert Benchmark.from_json(shown.to_json()) == shown
    # A row a method, beside a cross-entropy and beside KD; what brings its own labels has a table of its own.
    both = table(
        row("at", 0.9, 0.95, 0.99, 0.99),
        row("at", 0.5, 0.6, 0.7, 0.8, labels="KD"),
        row("byot", 0.5, 0.5, 0.5, 0.5, labels="as published"),
    ).to_markdown()
    at, byot = (next(line for line in both.splitlines() if line.startswith(f"| {name} |")) for name in ("at", "byot"))
    cells = [cell.strip() for cell in at.split("|")[2:-1]]
    assert len(cells) == 10
    assert cells[0].startswith("95.8 ±")
    assert cells[5].startswith("65.0 ±")
    assert len(byot.split("|")[2:-1]) == 5


def test_all_methods_fit_the_pairs_of_digits(tmp_path):
    """Of the small ones: names and parameters, and that each is of the pair that has what it needs."""
    config = BenchmarkConfig(seeds=2)
    made = jobs_of(config, RunOptions(workdir=str(tmp_path)))
    entries = [entry for pair, job in made.values() for entry in entries_of(config, pair, job)]
    assert {entry.row.method for entry in entries} == {"alone"} | {method.name for method in methods.methods()}
    notes = {entry.row.method: entry.row.note for entry in entries}
    assert notes["takd"] == "assistants mlp_32_32"
    assert notes["sdd"] == "grids 1,2"
    names = [phase.name for entry in entries for phase in entry.phases]
    assert len(set(names)) == len(names)
    # Whatever comes before it, the student of a row is drawn as the one alone is.
    batch = example_batch(entries[0].phases[0].data)
    alone, born = (next(one.phases[-1] for one in entries if one.row.method == name) for name in ("alone", "ban"))
    fresh, _ = alone.enter(jax.random.key(7), {}, batch)
    teachers = {phase.name: alone.learner.deploy(fresh, {}) for entry in entries for phase in entry.phases}
    again, frozen = born.enter(jax.random.key(8), teachers, batch)
    jax.tree.map(np.testing.assert_array_equal, alone.learner.deploy(fresh, {}), born.learner.deploy(again, frozen))
    special = {"ban", "sdd", "crd", "takd", "simkd", "fsp"}
    _check(
        [entry for entry in entries if entry.row.method in special], {pair.title: job for pair, job in made.values()}
    )


def test_the_best_epoch_is_by_validation_for_each_seed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1, "phase": "x", "validation/accuracy": [0.5, 0.9], "test/accuracy": [0.1, 0.2]},
        {"step": 2, "phase": "other", "validation/accuracy": [1.0, 1.0], "test/accuracy": [1.0, 1.0]},
        {"step": 2, "phase": "x", "validation/accuracy": [0.6, 0.9], "test/accuracy": [0.3, 0.4]},
        {"step": 3, "phase": "x", "loss": [0.0, 0.0]},
        {"step": 3, "phase": "x", "validation/accuracy": [0.6, 0.1], "test/accuracy": [0.5, 0.6]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert accuracies(path, "x") == ((0.5, 0.6), (0.3, 0.2))


OPTIONS = ("benchmark", "--seeds", "2", "--epochs", "0.5", "--teacher-epochs", "1", "--batch-size", "128")
PAIR = ("--teacher", "mlp_8_8", "--student", "mlp_4_4")


class TestCommand:
    def test_table_and_resume(self, tmp_path, capsys):
        where = ("--workdir", str(tmp_path), "--name", "b")
        assert cli.main([*OPTIONS, *where, *PAIR, "--methods", "sp"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "Not to be told from KD" in said or "than KD" in said
        run = tmp_path / "b"
        text = (run / "benchmark.json").read_text()
        found = Benchmark.from_json(text)
        assert [(one.method, one.labels) for one in found.rows] == [
            ("alone", "cross-entropy"),
            ("kd", "KD"),
            ("sp", "cross-entropy"),
            ("sp", "KD"),
        ]
        assert all(len(one.last) == len(one.best) == 2 for one in found.rows)
        assert (run / "plots/benchmark.png").stat().st_size > 5000
        assert "An implementation check" in (run / "benchmark.md").read_text()
        # All is there: nothing is trained again, and the same comes out.
        (run / "benchmark.json").unlink()
        metrics = {path: path.read_text() for path in run.glob("**/metrics.jsonl")}
        assert len(metrics) == 5, "the teacher and four rows"
        assert cli.main(["benchmark", "--workdir", str(tmp_path), "--resume", "b"]) == 0
        assert {path: path.read_text() for path in run.glob("**/metrics.jsonl")} == metrics
        assert (run / "benchmark.json").read_text() == text
        capsys.readouterr()
        assert cli.main(["benchmark", "--workdir", str(tmp_path), "--resume", "b", "--seeds", "3"]) == 1
        assert "run b has seeds 2, not 3" in capsys.readouterr().err
        assert cli.main([*OPTIONS, *where, *PAIR, "--methods", "sp"]) == 1
        assert "error: run b " in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--methods", "kdd"), "no method is called 'kdd'; nearest: kd"),
            (("--teacher", "mlp_8"), "--teacher and --student are a pair"),
            (("--dataset", "cifar10"), "cifar10 has no pairs of its own"),
            (("--seeds", "0"), "--seeds is 0"),
            (("--profile",), "leave out --tensorboard, --profile"),
            ((*PAIR, "--methods", "at"), 'student tap "stages[0]" is [64,4], teacher tap "stages[0]" is [64,8]'),
        ],
    )
    def test_bad_input(self, options, message, tmp_path, capsys):
        assert cli.main(["benchmark", "--workdir", str(tmp_path), *options]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not any(tmp_path.iterdir())
