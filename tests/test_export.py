"""Students out: what is written is read again elsewhere, and is the student."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxkd import cli, deployment, models, networks
from jaxkd.data import load
from jaxkd.deployment import ExportError, _export, _timing
from jaxkd.models import pretrained
from jaxkd.training.checkpoints import load_result

CONFIG = {"model": "cnn_4_8", "classes": 10, "image_shape": [8, 8, 1]}
SMALL = (
    *("--teacher", "mlp_32", "--student", "mlp_4", "--seeds", "2", "--labels", "all", "--no-alone"),
    *("--steps", "20", "--teacher-epochs", "1", "--batch-size", "256", "--method", "online"),
)


@pytest.fixture(scope="module")
def student():
    network = networks.from_linen(models.create("cnn_4_8", 10))
    image = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    return network, network.init(jax.random.key(0), {"image": image}), {"image": image}


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """A finished run of a method that trains auxiliary classifiers beside the student."""
    workdir = tmp_path_factory.mktemp("runs")
    assert cli.main(["distill", *SMALL, "--workdir", str(workdir), "--data-dir", data_dir, "--name", "small"]) == 0
    return workdir / "small"


@pytest.fixture
def command(run, data_dir):
    """``command(*options) -> exit code`` of an export of that run."""
    return lambda *options: cli.main(["export", *options, "--workdir", str(run.parent), "--data-dir", data_dir])


def one_error(capsys):
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_a_program_runs_without_jaxkd_at_sizes_nobody_named(student, tmp_path):
    network, variables, example = student
    about = deployment.export(tmp_path / "out", network, variables, example)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == about
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["inputs"] == [{"name": "image", "shape": ["b", 8, 8, 1], "dtype": "float32"}]
    assert about["bytes"] == (tmp_path / "out" / "student.stablehlo").stat().st_size
    assert [one["batch"] for one in about["latency"]] == about["check"]["batches"] == [1, 6]
    assert all(0 < one["median"] <= one["p95"] and one["calls"] >= 5 for one in about["latency"])
    exported = jax.export.deserialize(bytearray((tmp_path / "out" / "student.stablehlo").read_bytes()))
    image = np.random.default_rng(1).normal(size=(3, 8, 8, 1)).astype(np.float32)
    expected = network.apply(variables, {"image": image}, train=False)[0].logits
    np.testing.assert_allclose(exported.call(image), expected, atol=1e-6)


def test_what_runs_a_program_imports_nothing_of_jaxkd():
    code = f"import sys; sys.argv = ['x']; exec(open({_timing.__file__!r}).read().split('if __name__')[0]); "
    code += "print(any(name.startswith('jaxkd') for name in sys.modules))"
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_weights_alone_come_back_bit_for_bit(student, tmp_path):
    network, variables, example = student
    deployment.export(tmp_path / "out", network, variables, example, format="safetensors", config=CONFIG)
    back = pretrained.load_student(tmp_path / "out" / "student.safetensors")
    jax.tree.map(np.testing.assert_array_equal, back.variables, dict(variables))
    with pytest.raises(ValueError, match="the config lacks model, classes, image_shape"):
        deployment.export(tmp_path / "other", network, variables, example, format="safetensors")


# What is known to work together; what does not is refused with a line that says so, and leaves nothing.
@pytest.mark.filterwarnings("ignore")  # of TensorFlow and of jax2onnx, at import and while they trace
@pytest.mark.parametrize(("format", "needs"), [("onnx", "jax2onnx"), ("savedmodel", "tensorflow")])
def test_converted_students_run_where_they_go(format, needs, student, tmp_path, capsys):
    pytest.importorskip(needs, reason=f"the extra {format} is not installed", exc_type=ImportError)
    try:
        about = deployment.export(tmp_path / "out", *student, format=format)
    except ExportError as refused:
        assert jax.__version_info__ >= (0, 11), "JAX 0.10 is known to work"
        assert re.search(r"JAX 0\.1.* older .*; --format stablehlo needs no ", str(refused))  # noqa: PT017
        assert not list(tmp_path.iterdir())
        return
    assert about["check"]["batches"] == [1, 6]
    assert about["check"]["max_relative_error"] <= 1e-5
    assert about["inputs"] == [{"name": "image", "shape": ["b", 8, 8, 1], "dtype": "float32"}]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("format", "needs"), [("onnx", "jax2onnx"), ("onnx", "onnxruntime"), ("savedmodel", "tensorflow")]
)
def test_the_extra_of_a_format_is_named(format, needs, student, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, needs, None)
    for other in {"jax2onnx", "onnxruntime"} - {needs}:
        monkeypatch.setitem(sys.modules, other, sys)
    with pytest.raises(ImportError, match=rf'as {format} needs {needs}: pip install "jaxkd\[{format}\]"$'):
        deployment.export(tmp_path / "out", *student, format=format)
    assert not list(tmp_path.iterdir())


def test_another_program_is_refused_and_nothing_is_left(student, tmp_path, monkeypatch):
    network, variables, example = student

    def other(directory, program):
        moved = program._replace(forward=lambda *x: program.forward(*x) + 1e-3)
        return written(directory, moved)

    written = _export._FORMATS["stablehlo"].write
    monkeypatch.setitem(_export._FORMATS, "stablehlo", _export._FORMATS["stablehlo"]._replace(write=other))
    with pytest.raises(ExportError, match=r"off by 0\.001 for a batch of 1, whose largest is .* nothing is left"):
        deployment.export(tmp_path / "out", network, variables, example)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(student, tmp_path, monkeypatch):
    def damaged(directory, program):
        (directory / "student.stablehlo").write_bytes(b"no program")
        return {}

    monkeypatch.setitem(_export._FORMATS, "stablehlo", _export._FORMATS["stablehlo"]._replace(write=damaged))
    with pytest.raises(ExportError, match="a fresh process cannot run it: "):
        deployment.export(tmp_path / "out", *student)
    assert not list(tmp_path.iterdir())


def test_bad_arguments(student, tmp_path):
    network, variables, example = student
    with pytest.raises(ValueError, match=r"format is 'torch': it has to be one of stablehlo, "):
        deployment.export(tmp_path / "out", network, variables, example, format="torch")
    with pytest.raises(ValueError, match=r"lengths \[1\]: it has to be one length, of 2 or more"):
        deployment.export(tmp_path / "out", network, variables, {"image": example["image"][:1]})
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(ValueError, match="logits of the example are not finite"):
        deployment.export(tmp_path / "out", network, broken, example)
    tmp_path.joinpath("out").mkdir()
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        deployment.export(tmp_path / "out", network, variables, example)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r'^an export as stablehlo needs flatbuffers: pip install "jaxkd\[train\]"$'):
        deployment.check_format("stablehlo")


def test_the_best_student_of_a_run_without_what_taught_it(run, command, data_dir, capsys):
    assert command("small") == 0
    student = load_result(run / "results", "student")
    best = student.metadata["seed"]
    assert f"student of seed {best}: the best, " in capsys.readouterr().out
    out = run / "exports" / f"stablehlo-seed{best}"
    about = json.loads((out / "export.json").read_text())
    assert about["check"]["max_relative_error"] <= 1e-5
    config = about["config"]
    assert (config["model"], config["classes"], config["image_shape"]) == ("mlp_4", 10, [8, 8, 1])
    # The digits as anyone reads them, normalised as the file says.
    test = load("digits", "test", data_dir=data_dir)
    pixels = test.read(np.arange(5))["image"] / np.float32(255)
    image = (pixels - np.float32(config["normalisation"]["mean"])) / np.float32(config["normalisation"]["std"])
    exported = jax.export.deserialize(bytearray((out / "student.stablehlo").read_bytes()))
    hidden, classifier = (student.variables["params"][name] for name in ("hidden_0", "classifier"))
    expected = np.maximum(image.reshape(5, -1) @ hidden["kernel"] + hidden["bias"], 0)
    expected = expected @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(exported.call(image), expected, atol=1e-4, rtol=1e-4)
    # An auxiliary classifier of the method would be another [4, 10] constant of the program.
    shapes = re.findall(r"constant dense.* : tensor<([0-9x]+)xf32>", exported.mlir_module())
    assert sorted(shapes) == sorted(["64x4", "4", "4x10", "10"])
    (record,) = [json.loads(line) for line in (run / "exports.jsonl").read_text().splitlines()]
    assert record["path"] == str(out / "student.stablehlo")
    report = (run / "report.html").read_text()
    assert "<h2>Exported</h2>" in report
    assert "stablehlo" in report
    assert command("small") == 1
    assert "nothing is overwritten" in one_error(capsys)


def test_a_seed_and_a_place_of_ones_own(run, command, tmp_path, capsys):
    assert command("small", "--format", "safetensors", "--seed", "1", "--output", str(tmp_path / "mine")) == 0
    assert "student of seed 1: as asked for" in capsys.readouterr().out
    back = pretrained.load_student(tmp_path / "mine" / "student.safetensors")
    seeds = load_result(run / "results", "distilled").variables
    jax.tree.map(np.testing.assert_array_equal, back.variables, jax.tree.map(lambda leaf: leaf[1], seeds))
    assert set(back.variables["params"]) == {"hidden_0", "classifier"}, "the student alone"


def test_what_cannot_be_exported_is_one_line(run, command, capsys):
    assert command("none") == 1
    assert "runs there: small" in one_error(capsys)
    assert command("small", "--seed", "2") == 1
    assert "has the seeds 0 to 1, and --seed is 2" in one_error(capsys)
    unfinished = run.parent / "unfinished"
    unfinished.mkdir()
    unfinished.joinpath("config.json").write_text((run / "config.json").read_text())
    assert command("unfinished") == 1
    assert "has no student" in one_error(capsys)
