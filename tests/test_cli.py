"""The command line as a user meets it: the main job, its errors, and what survives an interruption."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxkd import cli, jobs
from jaxkd.evaluation import Comparison
from jaxkd.jobs._job import Job, mesh_of
from jaxkd.losses import catalogue
from jaxkd.training.checkpoints import load_result, save_result, tree_hash
from jaxkd.training.logging import read_metrics

SMALL = (
    *("--teacher", "mlp_32", "--student", "mlp_4", "--seeds", "2", "--labels", "all"),
    *("--epochs", "3", "--teacher-epochs", "3", "--learning-rate", "1e-2", "--teacher-learning-rate", "1e-2"),
)


@pytest.fixture(scope="module")
def start(data_dir):
    """``start(workdir, *options) -> exit code`` of a small job."""

    def start(workdir, *options):
        return cli.main(["distill", *SMALL, "--workdir", str(workdir), "--data-dir", data_dir, *options])

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    """An undisturbed run."""
    workdir = tmp_path_factory.mktemp("runs")
    assert start(workdir, "--name", "whole", "--tensorboard") == 0
    return workdir / "whole"


def outcome(run: Path):
    """What two runs of one config have in common to the last bit."""
    results = [tree_hash(load_result(run / "results", name).variables) for name in ("teacher", "alone", "distilled")]
    return results, (run / "metrics.jsonl").read_text()


def accuracies(run: Path):
    comparison = Comparison.from_json((run / "comparison.json").read_text())
    return [entry.accuracy.mean for entry in (comparison.teacher, *comparison.students)]


def test_what_a_run_leaves(whole):
    there = {path.name for path in whole.iterdir()}
    assert there >= {
        *("config.json", "environment.json", "metrics.jsonl", "checkpoints", "results", "tensorboard"),
        *("comparison.json", "report.html", "plots"),
    }
    config = json.loads((whole / "config.json").read_text())
    assert config["teacher"] == "mlp_32"
    assert config["temperature"] == 2.0, "the recipe of the data set fills in what is left out"
    (environment,) = json.loads((whole / "environment.json").read_text())
    assert {"jax", "commit", "devices"} <= set(environment)
    assert {path.name for path in (whole / "plots").iterdir()} >= {"learning_curves.png", "reliability.png"}
    records = read_metrics(whole / "metrics.jsonl")
    assert {record["phase"] for record in records} == {"teacher", "alone", "distilled"}
    assert {"soft", "hard", "loss"} < set(next(record for record in records if record["phase"] == "distilled"))


def test_the_teacher_is_better_than_chance_and_the_best_student_is_kept(whole):
    teacher, alone, distilled = accuracies(whole)
    assert teacher > 0.7
    assert min(alone, distilled) > 0.2
    student = load_result(whole / "results", "student")
    distilled_seeds = load_result(whole / "results", "distilled").variables
    seed = student.metadata["seed"]
    jax.tree.map(np.testing.assert_array_equal, student.variables, jax.tree.map(lambda x: x[seed], distilled_seeds))


def test_evaluate_finds_the_same(whole, data_dir, capsys):
    assert cli.main(["evaluate", "whole", "--workdir", str(whole.parent), "--data-dir", data_dir]) == 0
    assert f"{100 * accuracies(whole)[0]:.1f} %" in capsys.readouterr().out
    again = jobs.evaluate(whole, "test", data_dir)
    assert [e.accuracy.mean for e in (again.teacher, *again.students)] == accuracies(whole)


def test_a_run_is_never_overwritten(whole, start, capsys):
    before = outcome(whole)
    assert start(whole.parent, "--name", "whole", "--temperature", "4") == 1
    assert "temperature is 2.0 there and 4.0 here" in one_error(capsys)
    assert start(whole.parent, "--name", "whole") == 1
    assert "go on with --resume whole, or choose another --name" in one_error(capsys)
    assert cli.main(["distill", "--workdir", str(whole.parent), "--resume", "whole", "--alpha", "0.1"]) == 1
    assert "alpha is 0.9 there and 0.1 here" in one_error(capsys)
    assert outcome(whole) == before


def test_interrupted_damaged_and_resumed_is_as_if_nothing_had_been(
    whole, start, tmp_path, data_dir, monkeypatch, capsys
):
    signals = iter([signal.SIGTERM, signal.SIGINT])
    drawn = cli._Screen.chunk

    def interrupt(self, name, step, metrics):
        drawn(self, name, step, metrics)
        if name == "distilled" and step >= 30 and self.stop(step) is None and (number := next(signals, None)):
            signal.raise_signal(number)

    monkeypatch.setattr(cli._Screen, "chunk", interrupt)
    assert start(tmp_path, "--name", "broken", "--chunk", "5", "--keep", "3") == 128 + signal.SIGTERM
    _, *resume = shlex.split(capsys.readouterr().out.split("go on with: ")[1].split("\n")[0])
    assert resume[-2:] == ["--resume", "broken"]
    assert cli.main(resume) == 128 + signal.SIGINT
    # One flipped byte in the newest checkpoint, and the one before it cut short.
    checkpoints = tmp_path / "broken/checkpoints/distilled"
    *_, older, newest = sorted(checkpoints.iterdir(), key=lambda path: int(path.name))
    damage(newest, lambda content: bytes([content[0] ^ 1]) + content[1:] if content else content)
    damage(older, lambda content: content[: len(content) // 2])
    capsys.readouterr()
    assert cli.main(resume) == 0
    said = " ".join(capsys.readouterr().out.split())
    for step in (older, newest):
        assert f"distilled: passed over step {step.name}:" in said
    assert outcome(tmp_path / "broken") == outcome(whole)
    assert accuracies(tmp_path / "broken") == accuracies(whole)


def damage(directory: Path, how) -> None:
    """Changes the data files of a checkpoint."""
    for path in directory.rglob("d/*"):
        path.write_bytes(how(path.read_bytes()))


def test_the_teacher_is_found_again_and_every_way_to_split_the_work_agrees(whole, start, capsys):
    for name, options in {
        "fsdp": ("--mesh", "data=4,fsdp=2"),
        "mapped": ("--parallel", "shard_map", "--mesh", "data=2"),
    }.items():
        capsys.readouterr()
        assert start(whole.parent, "--name", name, *options) == 0
        # A teacher that was trained in another way is not the same teacher.
        assert ("found the teacher digits-mlp_32-" in capsys.readouterr().out) == (name == "fsdp")
        np.testing.assert_allclose(accuracies(whole.parent / name), accuracies(whole), atol=0.01)


def test_everything_at_once(start, tmp_path):
    options = shlex.split(
        "--teacher cnn_2_4 --student mlp_16 --seeds 2 --epochs 1 --teacher-epochs 0.1 --seeds-at-once 1 --labels 200 "
        "--method fitnets --precision bfloat16 --ema 0.9 --data-order own --accumulate 2 --augment crop flip mixup "
        "--set student_taps=penultimate --set teacher_taps=penultimate --set soft=0.9 "
        "--mesh data=2 --profile --name all"
    )
    assert start(tmp_path, *options) == 0
    run = tmp_path / "all"
    distilled = [record for record in read_metrics(run / "metrics.jsonl") if record["phase"] == "distilled"]
    assert {"fitnets", "hard", "soft", "loss"} < set(distilled[0])
    assert np.mean(distilled[-2]["fitnets"]) < np.mean(distilled[0]["fitnets"])
    assert any((run / "profile").rglob("*.xplane.pb"))
    kept = load_result(run / "results", "student").variables["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(kept)} == {"float32"}
    assert "connector" not in str(jax.tree.structure(kept))


def test_a_method_that_deploys_more_than_the_student(start, tmp_path):
    options = ("--teacher", "cnn_2_4", "--student", "cnn_2_2", "--method", "simkd", "--epochs", "1", "--name", "simkd")
    assert start(tmp_path, *options, "--teacher-epochs", "0.5", "--mesh", "data=1") == 0
    student = load_result(tmp_path / "simkd/results", "student")
    assert set(student.variables["params"]) == {"student", "projector", "teacher"}
    assert student.metadata["method"] == "simkd"
    comparison = Comparison.from_json((tmp_path / "simkd/comparison.json").read_text())
    alone, distilled = comparison.students
    assert distilled.parameters > alone.parameters, "the projector and the classifier count"


def test_a_method_in_phases(start, tmp_path):
    options = ("--method", "progressive", "--set", "medium=mlp_6", "--data-order", "own", "--ema", "0.9")
    assert start(tmp_path, *options, "--epochs", "1", "--name", "stages") == 0
    comparison = Comparison.from_json((tmp_path / "stages/comparison.json").read_text())
    names = [student.name for student in comparison.students]
    assert names[-3:] == ["teacher mlp_6", "from teacher", "distilled"]
    alone, *_, medium, _, distilled = comparison.students
    assert distilled.parameters == alone.parameters < medium.parameters
    assert cli.main(["evaluate", "stages", "--workdir", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("nd", ()),
        ("pskd", ()),
        ("ctkd", ()),
        ("crd", ("negatives=64", "temperature=2")),
        ("ban", ("generations=2",)),
        ("takd", ("assistants=mlp_6",)),
        ("dml", ("order=sequential",)),
        ("kdcl", ("variant=general",)),
        ("online", ()),
    ],
)
def test_what_methods_ask_of_the_training(method, parameters, data_dir):
    asked = jobs.DistillConfig(method=method, set=parameters, teacher="mlp_8", student="mlp_4", seeds=2, labels="all")
    Job(jobs.with_recipe(asked), mesh_of(None), data_dir).check()


def kept_config(teacher: Path):
    return load_result(teacher.parent, teacher.name).metadata["config"]


def test_a_broken_teacher_is_refused(whole, start, tmp_path, capsys):
    found = next(path for path in (whole.parent / "teachers").iterdir() if kept_config(path)["parallel"] == "jit")
    variables = load_result(found.parent, found.name).variables
    variables["params"]["classifier"]["bias"] = np.full(10, np.nan, np.float32)
    save_result(tmp_path / "teachers", found.name, variables)
    assert start(tmp_path, "--name", "x") == 1
    assert "['classifier']['bias'] holds NaN or infinity" in one_error(capsys)


def test_a_training_that_diverges_is_stopped_and_named(start, tmp_path, capsys):
    assert start(tmp_path, "--teacher-learning-rate", "1e38") == 1
    assert re.search(r'teacher: "hard_label" is (nan|inf) at step \d+: the training has diverged', one_error(capsys))


BAD = {
    "temperature": (("--temperature", "0"), "--temperature is 0.0: it has to be above 0"),
    "alpha": (("--alpha", "1.5"), r"--alpha is 1.5: it has to lie in [0, 1]"),
    "seeds": (("--seeds", "0"), "--seeds is 0"),
    "batch": (("--batch-size", "0"), "--batch-size is 0"),
    "devices": (("--batch-size", "60"), "a batch of 60 examples does not divide over 8 devices: take 56 or 64"),
    "large batch": (("--batch-size", "8000"), "batch_size 8000 is larger than digits/train: it has 1297 examples"),
    "labels": (("--labels", "5"), "labels for 5 examples of digits/train: it has 10 classes"),
    "micro-batches": (("--accumulate", "3"), "accumulate=3 micro-batches do not divide a batch of 64"),
    "every": (("--every", "0"), "--every is 0: it has to be at least 1"),
    "keep": (("--keep", "0"), "--keep is 0: it has to be at least 1"),
    "no recipe": (("--dataset", "mnist"), "mnist"),
    "data set": (("--dataset", "digit"), "unknown data set 'digit': did you mean digits?"),
    "model": (("--student", "mpl_8"), "no model is called 'mpl_8'; nearest: mlp_8"),
    "method": (("--method", "kdd"), "no method is called 'kdd'; nearest: kd"),
    "parameter": (("--method", "at", "--set", "wieght=1"), "method at has no parameter wieght; it has weight, hard"),
    "no number": (("--method", "at", "--set", "weight=big"), "weight of method at is 'big': it has to be a number"),
    "alpha of another": (("--method", "sp", "--alpha", "0.5"), "method sp has no parameter alpha"),
    "two temperatures": (("--temperature", "3", "--set", "temperature=4"), "--temperature and --set temperature=..."),
    "no stages": (("--method", "sdd"), 'method sdd takes the role "map_before_pool" of the student, which has no'),
    "no maps": (("--method", "at"), 'student tap "stages" is [64,4], teacher tap "stages" is [64,32]: '),
    "maps of 1x1": (
        ("--method", "at", "--teacher", "cnn_4_4_4_4", "--student", "cnn_2_2_2_2"),
        'student tap "stages[3]" is [64,1,1,2], teacher tap "stages[3]" is [64,1,1,4]: ',
    ),
    "generations": (("--method", "ban", "--set", "generations=0"), "generations is 0, and labels alone teach"),
    "assistants": (("--method", "takd"), "method takd needs assistants"),
    "assistant": (("--method", "takd", "--set", "assistants=mpl_8"), "no model is called 'mpl_8'; nearest: mlp_8"),
    "peers": (("--method", "dml", "--set", "peers=1"), "peers is 1, and a peer learns from another one"),
    "mesh": (("--mesh", "eight"), "--mesh is 'eight': write it as"),
    "devices there": (("--mesh", "data=9"), "9 devices, and there are 8"),
    "fsdp": (("--mesh", "data=4,fsdp=2", "--parallel", "pmap"), "fsdp=2"),
    "name": (("--name", "a/b"), "plain directory name"),
    "resume": (("--resume", "nothing"), "is no run"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(start, tmp_path, capsys, case):
    options, message = BAD[case]
    assert start(tmp_path, *options) == 1
    assert message in one_error(capsys)
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_is_a_file(start, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert start(tmp_path / "file") == 1
    assert "is below a file: choose another --workdir" in one_error(capsys)
    (tmp_path / "taken").write_text("")
    assert start(tmp_path, "--name", "taken") == 1
    assert "taken is a file" in one_error(capsys)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("")
    assert start(tmp_path, "--name", "full") == 1
    assert "is not empty and holds no run" in one_error(capsys)


def test_a_full_disk_loses_nothing(whole, start, tmp_path, data_dir, monkeypatch, capsys):
    free = iter([10**9] * 7)  # the teacher's checkpoints and two of the student alone
    usage = lambda path: shutil._ntuple_diskusage(10**9, 0, next(free, 1000))  # noqa: E731
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", usage)
        assert start(tmp_path, "--name", "full") == 1
    assert re.search(
        r"checkpoints/alone failed, the last good one is of step 28: .*it needs [\d,]+ bytes, and 1,000 are free",
        one_error(capsys),
    )
    assert cli.main(["distill", "--workdir", str(tmp_path), "--data-dir", data_dir, "--resume", "full"]) == 0
    assert outcome(tmp_path / "full") == outcome(whole)


def test_a_disk_that_fills_up_while_it_is_written_to(tmp_path, data_dir):
    """No file may grow beyond a size that the first checkpoint exceeds."""
    limited = """if True:
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        from jaxkd import cli
        sys.exit(cli.main())
    """
    arguments = ["distill", *SMALL, "--workdir", str(tmp_path), "--data-dir", data_dir, "--name", "full"]
    process = subprocess.run(
        [sys.executable, "-c", limited, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    # Before and on the same line, threads of TensorStore may print that they could not report to a closed loop.
    assert len(re.findall(r"error: .*checkpoint.*File too large", process.stderr)) == 1, process.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("methods", ("kd", "Hinton", "reviewkd", "weight=30000", "teacher-less")),
        ("losses", ("soft_label_kl", "features ---", "patient_hidden", "arXiv:1908.09355")),
        ("models", ("mlp_512_512", "resnet56", "gpt2_large")),
        ("pairs", ("resnet152", "78.31", "efficientnet_b0")),
        ("datasets", ("digits", "fashion_mnist", "imagenet2012")),
    ],
)
def test_lists(command, words, capsys):
    assert cli.main([command]) == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in words)


def test_is_a_module_to_run_too():
    listed = subprocess.run([sys.executable, "-m", "jaxkd", "losses", "rkd"], capture_output=True, text=True)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "relational_distance" in listed.stdout
    assert "relational_angle" in listed.stdout


def test_pairs_for_programs(capsys):
    assert cli.main(["pairs", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    (pair,) = [pair for pair in listed if (pair["teacher"], pair["student"]) == ("gpt2", "distilgpt2")]
    assert pair["student_parameters"] == 81_912_576
    assert (pair["teacher_result"], pair["alone"], pair["distilled"]) == (16.3, None, 21.1)


def test_losses_of_a_family_by_name_and_for_programs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert cli.main(["losses", "--family", "relations"]) == 0
    listed = capsys.readouterr().out
    assert "relational_angle" in listed
    assert "decoupled_kd" not in listed
    assert max(map(len, listed.splitlines())) <= 90
    for family in {loss.family for loss in catalogue.losses()}:
        assert cli.main(["losses", "--family", family, "--json"]) == 0
        assert {loss["family"] for loss in json.loads(capsys.readouterr().out)} == {family}
    assert cli.main(["losses", "relational_angle"]) == 0
    assert "L = 1/N^3" in capsys.readouterr().out
    assert cli.main(["losses", "relational_angle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["weights"][0]["own"] == 50
    assert cli.main(["losses", "relational_angel"]) == 1
    assert "nearest: relational_angle" in one_error(capsys)


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["distill", "--help"])
    text = capsys.readouterr().out
    assert "--temperature FLOAT" in text
    assert "Temperature of the soft labels" in text


def one_error(capsys) -> str:
    """The one line that was written to the standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
