"""experiments/cifar100: the protocol, the published numbers, and a cell of the tables on made-up images."""

import functools
import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import optax
import pytest
import tensorflow_datasets as tfds

from jaxkd import evaluation, jobs, losses, methods, models, networks
from jaxkd.evaluation import Comparison
from jaxkd.jobs._job import _schedule
from jaxkd.methods._two_phases import _boundaries
from jaxkd.training.logging import read_metrics

FOLDER = Path(__file__).parents[1] / "experiments/cifar100"
WEIGHTS = json.loads((Path(__file__).parent / "losses/published_weights.json").read_text())


@pytest.fixture(scope="module")
def scripts():
    """``configs``, ``run`` and ``table``, which import each other as scripts of one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        modules = {}
        for name in ("configs", "run", "table"):
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            modules[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, modules[name])
            spec.loader.exec_module(modules[name])
        yield modules


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory):
    """CIFAR-100 as TFDS mocks it: 100 and 40 made-up images."""
    directory = tmp_path_factory.mktemp("tfds")
    builder = tfds.builder("cifar100", data_dir=directory)
    prepared = directory / "cifar100" / str(builder.version)
    prepared.mkdir(parents=True)
    splits = [{"name": s, "shardLengths": [str(n)], "numBytes": "1"} for s, n in (("train", 100), ("test", 40))]
    info = {"name": "cifar100", "version": str(builder.version), "fileFormat": "array_record", "splits": splits}
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    builder.info.features.save_config(prepared)
    with tfds.testing.mock_data(num_examples=100, data_dir=str(directory)):
        yield str(directory)


def test_every_method_of_the_tables_is_there_with_its_published_number(scripts):
    configs = scripts["configs"]
    assert len(configs.PAIRS) == 13
    documented = set()
    for method, numbers in configs.PUBLISHED.items():
        text = " ".join(methods.find(method).function.__doc__.split())
        for said, pair in (("ResNet-56/20", "resnet56-resnet20"), ("ResNet-32x4/8x4", "resnet32x4-resnet8x4")):
            for number in re.findall(rf"(\d\d\.\d\d) of {said}", text):
                assert numbers[pair] == float(number), (method, pair)
                documented.add(method)
    assert documented == set(configs.PUBLISHED) - {"reviewkd", "ofd", "kdsvd"}


def test_weights_of_dkd_are_the_published_ones(scripts):
    beta = {entry["setting"]: entry["arguments"]["beta"] for entry in WEIGHTS if entry["loss"] == "decoupled_kd"}
    for pair, setting in {
        "resnet110-resnet32": "CIFAR-100, ResNet-56/20, 110/32",
        "vgg13-mobilenet_v2_half": "CIFAR-100, WRN pairs, VGG-13/8, VGG-13/MobileNetV2",
    }.items():
        assert scripts["configs"].config(pair, "dkd").set == (f"beta={beta[setting]}",)
    assert scripts["configs"].config("resnet32x4-resnet8x4", "dkd").set == ()


def test_the_protocol(scripts):
    settings = jobs.with_recipe(scripts["configs"].config("resnet32x4-shufflenet_v1", "kd"))
    asked = (settings.optimizer, settings.batch_size, settings.epochs, settings.augment, settings.train_split)
    assert asked == ("sgd", 64, 240, ("crop", "flip"), "train+validation")
    assert settings.weight_decay == 5e-4
    assert (settings.learning_rate, settings.teacher_learning_rate) == (0.01, 0.05)
    assert (settings.temperature, settings.alpha, settings.alone) == (4.0, 0.9, True)
    assert not jobs.with_recipe(scripts["configs"].config("vgg13-vgg8", "at")).alone
    with pytest.raises(ValueError, match="no pair is called 'resnet8': there are wrn_40_2-wrn_16_2"):
        scripts["configs"].config("resnet8", "kd")
    schedule = _schedule(settings, 0.05, 240 * 100)
    steps = [0, *(100 * epoch + step for epoch in (150, 180, 210) for step in (-1, 0))]
    rates = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(rates, 0.05 * np.array([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001]), rtol=1e-5)


def test_a_cell_on_made_up_images(scripts, cifar100, tmp_path, monkeypatch, capsys):
    """The smallest networks in place of the pair's: trained, and in the table."""
    configs = scripts["configs"]
    pair = configs.Pair("cnn_2_4", "cnn_2_2", 1.0, 2.0)
    monkeypatch.setattr(configs, "PAIRS", {**configs.PAIRS, pair.name: pair})
    monkeypatch.setattr(evaluation, "write_report", lambda *_, **__: None)  # takes seconds, and is tested elsewhere
    monkeypatch.setattr(scripts["run"], "RunOptions", functools.partial(jobs.RunOptions, mesh="data=1"))
    command = ["cnn_2_4-cnn_2_2", "dkd", "--seeds", "1", "--epochs", "1", "--workdir", str(tmp_path)]
    assert scripts["run"].main(command) == 0
    run = tmp_path / "cnn_2_4-cnn_2_2-dkd-0"
    steps = [r for r in read_metrics(run / "metrics.jsonl") if r["phase"] == "distilled" and "loss" in r]
    assert {record["phase"] for record in read_metrics(run / "metrics.jsonl")} == {"teacher", "distilled"}
    assert len(steps) == 2
    assert all(np.isfinite(record["loss"]).all() for record in steps)
    comparison = Comparison.from_json((run / "comparison.json").read_text())
    assert (comparison.examples, [student.name for student in comparison.students]) == (40, ["distilled"])
    assert "published: no number" in capsys.readouterr().out
    assert scripts["run"].main([*command, "--seeds", "2"]) == 1
    assert "was started with another config: seeds is 1 there and 2 here" in capsys.readouterr().err
    cell = f"**{100 * comparison.students[0].accuracy.mean:.2f}** |"
    assert cell in scripts["table"].table(tmp_path)


@pytest.mark.parametrize("method", ["ab", "fsp", "ft_staged"])
def test_first_phases_are_an_eighth_of_the_second(scripts, method):
    network = networks.from_linen(models.create("resnet8", 10))
    schedules = []

    def learner(make, frozen="same", steps=240):
        schedules.append(steps)
        return make(optimizer=optax.sgd(0.1))

    training = methods.Training(learner, 240, (), (), lambda: (), (), lambda name: network)
    parameters = methods.parse(method, scripts["configs"].config("resnet56-resnet20", method).set)
    stages = methods.create(method, network, network, training=training, **parameters)
    assert [stage.phase.steps for stage in stages] == schedules == [30, 240]
    with pytest.raises(ValueError, match="first"):
        methods.create(method, network, network, training=training, first=0.0)


def test_ab_on_maps_of_other_sizes():
    """What is the same at all positions is so in any size; what is not, lies between neighbours."""
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(3, 1, 1, 5)).astype(np.float32) for _ in range(2))
    small, large = (1, 2, 2, 1), (1, 4, 4, 1)
    expected = losses.activation_boundary(np.tile(student, large), np.tile(teacher, large))
    for size in (small, (1, 8, 8, 1)):
        found = _boundaries(np.tile(student, size), np.tile(teacher, large))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    rising = np.arange(2, dtype=np.float32)[None, :, None, None] * np.ones((1, 2, 2, 1), np.float32)
    grown = np.array([0, 0.25, 0.75, 1], np.float32)[None, :, None, None] * np.ones((1, 4, 4, 1), np.float32)
    minus = -np.ones((1, 4, 4, 1), np.float32)
    np.testing.assert_allclose(_boundaries(rising, minus), losses.activation_boundary(grown, minus), rtol=1e-5)
