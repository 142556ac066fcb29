"""experiments/imagenet: the protocols, the published numbers and weights, and a recipe on made-up images."""

import functools
import importlib.util
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorflow_datasets as tfds

from jaxkd import evaluation, jobs, learners, methods, models, networks
from jaxkd.data import _tfds
from jaxkd.evaluation import Comparison
from jaxkd.jobs._job import Job, _optimizer, _schedule, mesh_of
from jaxkd.models import pretrained
from jaxkd.models._imagenet_resnet import ImageNetResNet
from jaxkd.training.checkpoints import load_result
from jaxkd.training.logging import read_metrics

FOLDER = Path(__file__).parents[1] / "experiments/imagenet"
WEIGHTS = json.loads((Path(__file__).parent / "losses/published_weights.json").read_text())


@pytest.fixture(scope="module")
def scripts():
    """``configs`` and ``run``, of which the second imports the first as scripts of one folder do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        modules = {}
        for name in ("configs", "run"):
            spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
            modules[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, modules[name])
            spec.loader.exec_module(modules[name])
        yield modules


def settings_of(scripts, name, **options):
    return jobs.with_recipe(scripts["configs"].config(name, teacher_weights="weights", **options))


def test_the_protocol_of_resnet18(scripts):
    recipes = scripts["configs"].RECIPES
    # Batch, learning rate, epochs, and the epochs at which the rate falls.
    others = {
        "crd": (255, 0.1, 100, [30, 60, 90]),
        "dkd": (512, 0.2, 100, [30, 60, 90]),
        "lskd": (512, 0.2, 100, [30, 60, 90]),
        "ft_staged": (256, 0.1, 90, [30, 60]),
        "tfkd_self": (256, 0.1, 90, [30, 60, 80]),
    }
    names = [name for name, recipe in recipes.items() if recipe.options["student"] == "resnet18"]
    assert len(names) == 13
    for name in names:
        settings = settings_of(scripts, name)
        batch, rate, epochs, drops = others.get(name, (256, 0.1, 100, [30, 60, 90]))
        assert (settings.optimizer, settings.weight_decay, settings.batch_size) == ("sgd", 1e-4, batch), name
        assert (settings.learning_rate, settings.epochs, settings.teacher_epochs) == (rate, epochs, epochs), name
        assert (settings.augment, settings.pixels) == (("resized_crop", "flip"), "published"), name
        assert settings.alone == (name == "kd"), name
        schedule = _schedule(settings, rate, int(epochs) * 50)
        expected = [(50 * epoch + step, i + 1 + step) for i, epoch in enumerate(drops) for step in (-1, 0)]
        for step, fallen in expected:
            np.testing.assert_allclose(schedule(step), rate * 0.1**fallen, rtol=1e-5, err_msg=f"{name}, step {step}")
    assert settings_of(scripts, "tfkd_self").teacher == "resnet18"


def test_the_protocols_of_the_patient_teacher_and_of_deit(scripts):
    patient = settings_of(scripts, "patient_300")
    assert (patient.teacher, patient.student, patient.method) == ("bit_152x2", "bit_50x1", "patient")
    assert (patient.batch_size, patient.epochs, patient.optimizer, patient.learning_rate) == (4096, 300, "adam", 0.03)
    assert patient.weight_decay * patient.learning_rate == pytest.approx(3e-4)
    steps = 300 * 1_276_167 / 4096
    assert patient.warmup * steps == pytest.approx(5000)
    assert settings_of(scripts, "patient_1200").warmup * 4 * steps == pytest.approx(5000)
    assert (patient.augment, patient.mixup_alpha, patient.pixels) == (("resized_crop", "flip", "mixup"), 1, "symmetric")
    deit = settings_of(scripts, "deit_tiny")
    assert (deit.student, deit.method, deit.batch_size, deit.epochs) == ("deit_tiny", "deit_hard", 1024, 300)
    assert (deit.learning_rate, deit.weight_decay, deit.warmup * 300) == (5e-4 * 1024 / 512, 0.05, 5)
    with pytest.raises(ValueError, match="deit_tiny is of a teacher that was trained on more than ImageNet: give"):
        scripts["configs"].config("deit_tiny")
    with pytest.raises(ValueError, match="no recipe is called 'kdd': there are kd, at"):
        scripts["configs"].config("kdd")


def test_numbers_are_those_that_the_methods_name(scripts):
    recipes = scripts["configs"].RECIPES
    for name, numbers in {
        "dist": "72.07 of ResNet-34/18 on ImageNet (the paper)",
        "ickd": "72.19 of ResNet-34/18 on ImageNet (the paper)",
        "wsld": "71.54 of ResNet-34/18 on ImageNet (MMRazor)",
        "patient_9600": "82.8 of ResNet-50 on ImageNet from BiT ResNet-152x2 (the paper)",
    }.items():
        assert numbers in " ".join(methods.find(recipes[name].options["method"]).function.__doc__.split())
        assert float(numbers[:5]) in recipes[name].published.values()
    deit = " ".join(methods.deit_hard.__doc__.split())
    for size in ("tiny", "small"):
        recipe = recipes[f"deit_{size}"]
        assert f"{recipe.alone} to {recipe.published['paper']} of DeiT-{size}" in deit


# The loss and the setting in the copy of the published weights, and what the recipe's method calls its arguments.
SAME = {
    "kd": ("distillation_loss", "ImageNet"),
    "at": ("attention_transfer", "ImageNet, ResNet-34/18, two layers"),
    "ft_staged": ("factor_transfer", "ImageNet, ResNet-34/18"),
    "crd": ("contrastive_representation", "ImageNet, ResNet-34/18"),
    "reviewkd": ("hierarchical_context", "ImageNet, ResNet-34/18"),
    "ickd": ("inter_channel_correlation", "ImageNet, ResNet-34/18, batches of 256"),
    "dist": ("dist", "ImageNet"),
    "srd": ("projected_log_error", "ImageNet, ResNet-34/18"),
    "dkd": ("decoupled_kd", "ImageNet, ResNet-34/18"),
    "wsld": ("weighted_soft_label", "ImageNet"),
    "deit_tiny": ("hard_teacher_label", "ImageNet, DeiT"),
    "patient_300": ("soft_label_kl", "ImageNet, mixup of one image"),
}
RENAMED = {("crd", "temperature"): "contrast_temperature"}


@pytest.mark.parametrize("name", SAME)
def test_weights_are_the_published_ones(scripts, name):
    (entry,) = (entry for entry in WEIGHTS if (entry["loss"], entry["setting"]) == SAME[name])
    settings = settings_of(scripts, name)
    used = {**methods.find(settings.method).parameters, **methods.parse(settings.method, settings.set)}
    if name == "kd":
        assert (settings.temperature, settings.alpha) == (entry["arguments"]["temperature"], 0.5)
        return
    assert (used["weight"], used["hard"]) == (entry["own"], entry["hard"])
    for argument, value in entry.get("arguments", {}).items():
        assert used[RENAMED.get((name, argument), argument)] == value, argument


def test_weights_of_the_sum_are_the_published_ones(scripts):
    """Those whose losses are two, or are KD on other logits."""
    own = {entry["loss"]: entry for entry in WEIGHTS if entry["setting"] == "ImageNet, ResNet-34/18"}
    used = methods.find("rkd").parameters
    assert (used["distance"], used["angle"]) == (own["relational_distance"]["own"], own["relational_angle"]["own"])
    (entry,) = (e for e in WEIGHTS if (e["loss"], e["setting"]) == ("standardize_logits", "ImageNet"))
    used = {**methods.find("lskd").parameters, **methods.parse("lskd", settings_of(scripts, "lskd").set)}
    assert (used["weight"], used["hard"], used["temperature"]) == (entry["soft"], entry["hard"], entry["temperature"])


@pytest.fixture(scope="module")
def pair():
    """A student and a teacher of the names and stages of ResNet-18 and 34, with a block each; images of 64 pixels."""
    network = networks.from_linen(ImageNetResNet(blocks=(1, 1, 1, 1), classes=10))
    batch = {
        "image": jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32),
        **dict.fromkeys(("label", "index"), jax.ShapeDtypeStruct((4,), jnp.int32)),
    }
    return network, jax.eval_shape(network.init, jax.random.key(0), batch), batch


@pytest.mark.parametrize("name", ["kd", "at", "ft_staged", "crd", "reviewkd", "ickd", "dist", "srd", "dkd", "rkd"])
def test_the_method_of_a_recipe_takes_the_networks(scripts, pair, name):
    """On shapes alone, with the parameters that the job gives it; the first phase of two."""
    network, variables, batch = pair
    settings = settings_of(scripts, name)
    made = []

    def learner(make, **how):
        made.append(make(optimizer=optax.sgd(0.1)))
        return made[-1]

    facts = {
        "n_data": 100,
        "labels": np.arange(100) % 10,
        "steps_per_epoch": 5.0,
        "training": methods.Training(learner, 10, (), (), lambda: (), (), lambda name: network),
    }
    given = {name: facts[name] for name in methods.find(settings.method).from_training}
    given |= methods.parse(settings.method, settings.set)
    given |= {} if name != "kd" else {"temperature": settings.temperature, "alpha": settings.alpha}
    created = methods.create(settings.method, network, network, **given)
    if not made:
        learner(functools.partial(learners.distill, network, network, created))
    state = jax.eval_shape(made[0].init, jax.random.key(0), variables, batch)
    _, metrics = jax.eval_shape(made[0].step, state, variables, batch)
    own = {"kd": "soft", "ft_staged": "paraphraser", "rkd": "rkd/angle"}.get(name, name)
    assert own in metrics


def test_warm_up_and_a_cosine():
    settings = jobs.with_recipe(jobs.DistillConfig(warmup=0.1))
    rates = np.array([_schedule(settings, 2.0, 100)(step) for step in range(101)])
    step = np.arange(101)
    np.testing.assert_allclose(rates[:10], 0.2 * step[:10], rtol=1e-5)
    np.testing.assert_allclose(rates[10:], 1 + np.cos(np.pi * (step[10:] - 10) / 90), atol=1e-5)
    steps = jobs.with_recipe(jobs.DistillConfig(warmup=0.1, schedule="steps", drops=(0.5,)))
    rates = [float(_schedule(steps, 2.0, 100)(step)) for step in (5, 10, 49, 50, 99)]
    np.testing.assert_allclose(rates, [1, 2, 2, 0.2, 0.2], rtol=1e-5)


def test_what_weights_decay():
    params = {"dense": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}, "tokens": jnp.full((1, 1, 2), 3.0)}
    zero = jax.tree.map(jnp.zeros_like, params)

    def update(**options):
        optimizer = _optimizer(jobs.with_recipe(jobs.DistillConfig(**options)), optax.constant_schedule(0.1))
        return optimizer.update(zero, optimizer.init(params), params)[0]

    decayed = update(optimizer="adam", weight_decay=0.2)
    np.testing.assert_allclose(decayed["dense"]["kernel"], -0.1 * 0.2 * 3.0, rtol=1e-5)
    assert not np.any(decayed["dense"]["bias"])
    assert not np.any(decayed["tokens"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(update(optimizer="adam")))
    for leaf in jax.tree.leaves(update(optimizer="sgd")):
        np.testing.assert_allclose(leaf, -0.1 * 5e-4 * 3.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": -1.0}, "--weight-decay is -1.0: it has to be at least 0"),
        ({"warmup": 1.0}, "--warmup is 1.0: it has to lie in [0, 1)"),
        ({"drops": (0.6, 0.3)}, "--drops are (0.6, 0.3): they have to rise and to lie between 0 and 1"),
        ({"drops": (0.5, 1.5)}, "--drops are (0.5, 1.5)"),
        ({"mixup_alpha": 0.0}, "--mixup-alpha is 0.0: it has to be above 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jobs.with_recipe(jobs.DistillConfig(**options))


@pytest.fixture
def imagenet(tmp_path):
    """ImageNet as TFDS mocks it: 20 and 8 made-up images."""
    directory = tmp_path / "tfds"
    builder = tfds.builder("imagenet2012", data_dir=directory)
    prepared = directory / "imagenet2012" / str(builder.version)
    prepared.mkdir(parents=True)
    splits = [{"name": s, "shardLengths": [str(n)], "numBytes": "1"} for s, n in (("train", 20), ("validation", 8))]
    info = {"name": "imagenet2012", "version": str(builder.version), "fileFormat": "array_record", "splits": splits}
    (prepared / "dataset_info.json").write_text(json.dumps(info))
    builder.info.features.save_config(prepared)
    with tfds.testing.mock_data(num_examples=20, data_dir=str(directory)):
        yield str(directory)


def test_a_recipe_on_made_up_images(scripts, imagenet, tmp_path, monkeypatch, capsys):
    """The smallest networks in place of a pair's, the teacher given as a file, which is read elsewhere."""
    recipe = scripts["configs"].RECIPES["deit_tiny"]
    small = recipe._replace(options=recipe.options | {"teacher": "cnn_2_4", "student": "cnn_2_2", "batch_size": 8})
    monkeypatch.setattr(scripts["configs"], "RECIPES", {"deit_tiny": small})
    monkeypatch.setattr(_tfds, "_VARIABLE_TO", 32)  # pixels, of 224
    monkeypatch.setattr(evaluation, "write_report", lambda *_, **__: None)  # takes seconds, and is tested elsewhere
    monkeypatch.setattr(scripts["run"], "RunOptions", functools.partial(jobs.RunOptions, mesh="data=1"))
    # The mock makes images that are not to be decoded by TensorFlow.
    monkeypatch.setattr(_tfds._Records, "labels", lambda records: records.read(np.arange(len(records)))[1])
    command = ["deit_tiny", "--epochs", "1", "--workdir", str(tmp_path / "runs"), "--teacher-weights"]
    assert scripts["run"].main([*command, str(tmp_path / "none.safetensors")]) == 1
    assert "none.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    asked = []

    def load(module, path, image_shape):
        asked.append((module, path, image_shape))
        return module.init(jax.random.key(7), jnp.zeros((1, *image_shape)))

    monkeypatch.setattr(pretrained, "load", load)
    assert scripts["run"].main([*command, "file"]) == 0
    assert asked == [(models.create("cnn_2_4", 1000), "file", (32, 32, 3))]
    run = tmp_path / "runs/deit_tiny-0"
    kept = dict(load_result(run / "results", "teacher").variables)
    jax.tree.map(np.testing.assert_array_equal, kept, load(*asked[0]))
    records = read_metrics(run / "metrics.jsonl")
    assert {record["phase"] for record in records} == {"distilled"}
    losses = [record["loss"] for record in records if "loss" in record]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    comparison = Comparison.from_json((run / "comparison.json").read_text())
    assert (comparison.examples, [student.name for student in comparison.students]) == (8, ["distilled"])
    assert "published: 74.5 % (paper); the student alone 72.2 %; the teacher 82.9 %" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]  # no teacher to be found again


def test_pixels(data_dir):
    """Of what a network sees, the least and the greatest that there are."""
    for pixels, expected in {"published": (-0.3060 / 0.3764, 0.6940 / 0.3764), "symmetric": (-1, 1)}.items():
        asked = jobs.DistillConfig(teacher="mlp_8", student="mlp_4", seeds=1, pixels=pixels)
        job = Job(jobs.with_recipe(asked), mesh_of("data=1"), data_dir)
        image = job.train.decode({"image": jnp.asarray([0, 255], jnp.uint8)[:, None]})["image"]
        np.testing.assert_allclose(image[:, 0], expected, rtol=1e-3)
