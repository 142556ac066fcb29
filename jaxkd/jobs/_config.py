"""The settings of a run: what was asked for, filled up with what the data set's recipe says."""

import dataclasses
import hashlib
import itertools
import json
from typing import Annotated, Any, Literal

import tyro


def _option(metavar: str, default: str) -> Any:
    """How the help shows an option that is filled in later."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


_Text = Annotated[str | None, _option("NAME", "that of the recipe")]
_Float = Annotated[float | None, _option("FLOAT", "that of the recipe")]
_Int = Annotated[int | None, _option("INT", "that of the recipe")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What is trained. The recipe of a data set fills in what is left out; the run's config.json shows all of it."""

    dataset: str = "digits"
    """Data set: `jaxkd datasets` lists them, and any TFDS image classification set works."""
    teacher: _Text = None
    """Model of the teacher: `jaxkd models` lists them."""
    teacher_weights: Annotated[str | None, _option("FILE", "none: the teacher is trained")] = None
    """Weights of a teacher that others have trained, as `jaxkd.models.pretrained.load` reads them."""
    student: _Text = None
    """Model of the student."""
    method: str = "kd"
    """How the student learns from the teacher: `jaxkd methods` lists the ways."""
    temperature: Annotated[float | None, _option("FLOAT", "that of the recipe for kd, the paper's for others")] = None
    """Temperature of the soft labels."""
    alpha: Annotated[float | None, _option("FLOAT", "that of the recipe")] = None
    """Weight of the soft labels of kd in [0, 1]; the hard labels have 1 - alpha."""
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """A parameter of the method, which `jaxkd methods` lists; may be given several times."""
    labels: Annotated[int | Literal["all"] | None, _option("INT|all", "that of the recipe; digits: 100")] = None
    """Keep the labels of so many training images, balanced by class; the others stay as unlabelled images."""
    seeds: int = 5
    """How many students, trained at once: every number comes as mean and spread over them."""
    data_order: Literal["same", "own"] = "same"
    """Whether all seeds see the batches in one order or each in its own."""
    epochs: _Float = None
    """Epochs of the students, each over the images it trains on."""
    steps: Annotated[int | None, _option("INT", "by epochs")] = None
    """Steps of the distilled student, instead of epochs."""
    teacher_epochs: _Float = None
    """Epochs of the teacher."""
    batch_size: _Int = None
    """Images in a batch, over all devices."""
    optimizer: Annotated[Literal["adam", "sgd"] | None, _option("adam|sgd", "that of the recipe")] = None
    """Adam, or SGD with momentum 0.9."""
    weight_decay: Annotated[float | None, _option("FLOAT", "5e-4 of sgd, 0 of adam")] = None
    """Of SGD: of all parameters, added to their gradient. Of Adam: of kernels, apart from it (AdamW)."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How the learning rate falls: to 0 by a cosine, or to a tenth at each of --drops."""
    drops: tuple[float, ...] = (0.625, 0.75, 0.875)
    """Where --schedule steps has its steps, as shares of the training."""
    warmup: float = 0.0
    """Share of the training in which the learning rate rises, from 0 on."""
    learning_rate: _Float = None
    """Learning rate of the students at the start."""
    teacher_learning_rate: _Float = None
    """Learning rate of the teacher at the start."""
    augment: Annotated[
        tuple[Literal["crop", "resized_crop", "flip", "mixup", "cutmix"], ...] | None,
        _option("crop resized_crop flip mixup cutmix", "that of the recipe"),
    ] = None
    """Augmentation on the device, seen by teacher and student alike."""
    mixup_alpha: float = 0.2
    """Of mixup: shares are drawn from Beta(alpha, alpha)."""
    pixels: Literal["published", "symmetric"] = "published"
    """Normalised by the data set's mean and deviation, or to [-1, 1], as the weights of a teacher may want them."""
    train_split: Literal["train", "train+validation"] = "train"
    """What is trained on. With the second, as in published tables, a validation accuracy is of images seen before."""
    alone: bool = True
    """Whether a student is trained alone, too, to compare with."""
    accumulate: int = 1
    """Micro-batches a batch is cut into, to save memory."""
    parallel: Literal["jit", "shard_map", "pmap"] = "jit"
    """How the work is split over devices. BatchNorm sees the global batch under jit, the device's under the others."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward and backward passes; parameters and losses are float32 always."""
    ema: Annotated[float | None, _option("FLOAT", "none")] = None
    """Decay of a moving average of the student, which is then what is kept."""
    seed: int = 0
    """Of everything: initialisation, order of the data, labels that are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and on what it runs. It changes the last bits of what is computed at most, with one exception.

    Where the work is not split by jit, the number of devices decides how much of a batch a BatchNorm sees.
    """

    workdir: str = "runs"
    """Directory of all runs."""
    name: Annotated[str | None, _option("NAME", "data set, student and time")] = None
    """Name of the run, a directory below workdir."""
    resume: Annotated[str | None, _option("NAME", "none")] = None
    """Name of a run to go on with, from its last checkpoint and with its own settings."""
    data_dir: Annotated[str | None, _option("DIR", "that of TFDS")] = None
    """Directory of the data sets."""
    mesh: Annotated[str | None, _option("data=N,fsdp=M", "all devices, over which the batch is split")] = None
    """Devices: batches are split over both axes, parameters over the second."""
    seeds_at_once: Annotated[int | None, _option("INT", "all of MLPs and cnn_..., 1 of other networks")] = None
    """Students that are trained side by side; convolutions of several become grouped ones, which are slow."""
    every: Annotated[int | None, _option("INT", "5 times a training")] = None
    """Evaluate on the validation split and save every so many steps."""
    chunk: Annotated[int | None, _option("INT", "about 100, or 10 for sets that stream")] = None
    """Steps per call of the compiled program."""
    keep: int = 2
    """How many of the newest checkpoints to keep, beside the best."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write metrics for TensorBoard."""
    profile: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write a profile of a few steps of each training, for xprof or TensorBoard."""


_CNN_RECIPE = {
    # The CIFAR recipe of the distillation literature (Tian et al., 2020), with a cosine instead of three steps.
    # Which models are fit depends on the images: Job asks for them where a data set's own recipe names none.
    "teacher": "",
    "student": "",
    "temperature": 4.0,
    "alpha": 0.9,
    "labels": "all",
    "epochs": 240.0,
    "teacher_epochs": 240.0,
    "batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "teacher_learning_rate": 0.05,
    "augment": ("crop", "flip"),
}
_MLP_RECIPE = {
    "temperature": 2.0,
    "alpha": 0.9,
    "optimizer": "adam",
    "teacher_learning_rate": 1e-3,
    "augment": (),
}
_RECIPES: dict[str, dict[str, Any]] = {
    # Temperature, alpha and learning rate: the best on the validation split of 3 x 4 x 3 tried, 5 seeds each.
    "digits": _MLP_RECIPE
    | {
        "teacher": "mlp_512_512",
        "student": "mlp_8",
        "labels": 100,
        "epochs": 30.0,
        "teacher_epochs": 30.0,
        "batch_size": 64,
        "learning_rate": 1e-2,
    },
    "fashion_mnist": _MLP_RECIPE
    | {
        "teacher": "mlp_512_256",
        "student": "mlp_32",
        "labels": "all",
        "epochs": 8.0,
        "teacher_epochs": 8.0,
        "batch_size": 128,
        "learning_rate": 3e-3,
    },
} | dict.fromkeys(("cifar10", "cifar100", "svhn_cropped"), _CNN_RECIPE | {"teacher": "resnet56", "student": "resnet20"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A ``DistillConfig`` in which nothing is left open, and which is what a run's ``config.json`` holds."""

    dataset: str
    teacher: str
    teacher_weights: str | None
    student: str
    method: str
    temperature: float | None
    alpha: float | None
    set: tuple[str, ...]
    labels: int | Literal["all"]
    seeds: int
    data_order: Literal["same", "own"]
    steps: int | None
    epochs: float
    teacher_epochs: float
    batch_size: int
    optimizer: Literal["adam", "sgd"]
    weight_decay: float
    learning_rate: float
    teacher_learning_rate: float
    augment: tuple[str, ...]
    mixup_alpha: float
    pixels: Literal["published", "symmetric"]
    schedule: Literal["cosine", "steps"]
    drops: tuple[float, ...]
    warmup: float
    train_split: Literal["train", "train+validation"]
    alone: bool
    accumulate: int
    parallel: Literal["jit", "shard_map", "pmap"]
    precision: Literal["float32", "bfloat16"]
    ema: float | None
    seed: int


def with_recipe(config: DistillConfig) -> Settings:
    """Fills what is left open from the recipe of the data set.

    Raises:
      ValueError: a number is out of its range; the message names the option.
    """
    recipe = _RECIPES.get(config.dataset, _CNN_RECIPE)
    # The recipe's were found for kd; other methods have their papers' own, and --set may say something else.
    named = {text.partition("=")[0].strip() for text in config.set}
    recipe = recipe | {name: None for name in ("temperature", "alpha") if config.method != "kd" or name in named}
    asked = {
        name: value for name, value in dataclasses.asdict(config).items() if value is not None or name not in recipe
    }
    values = {**recipe, **asked}
    if values["weight_decay"] is None:
        values["weight_decay"] = 5e-4 if values["optimizer"] == "sgd" else 0.0
    filled = Settings(**values)
    positive = ("seeds", "steps", "epochs", "teacher_epochs", "batch_size", "accumulate", "labels", "temperature")
    for name in (*positive, "learning_rate", "teacher_learning_rate", "mixup_alpha"):
        value = getattr(filled, name)
        if value is not None and value != "all" and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it has to be above 0")
    for name in ("alpha", "ema"):
        value = getattr(filled, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name} is {value}: it has to lie in [0, 1]")
    if filled.weight_decay < 0:
        raise ValueError(f"--weight-decay is {filled.weight_decay}: it has to be at least 0")
    if not 0 <= filled.warmup < 1:
        raise ValueError(f"--warmup is {filled.warmup}: it has to lie in [0, 1)")
    if any(not low < high < 1 for low, high in itertools.pairwise((0, *filled.drops))):
        raise ValueError(f"--drops are {filled.drops}: they have to rise and to lie between 0 and 1")
    return filled


def check_options(options: RunOptions) -> None:
    """Raises ValueError for a number out of its range; the message names the option."""
    for name in ("every", "chunk", "keep", "seeds_at_once"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it has to be at least 1")


def as_json(settings: Settings) -> dict[str, Any]:
    """The settings as JSON has them."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def from_json(fields: dict[str, Any]) -> Settings:
    """The settings that ``as_json`` wrote.

    Raises:
      ValueError: they are those of another version.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    if different := sorted(set(fields) ^ known):
        raise ValueError(f"the config of another version of jaxkd: {different} are not in both")
    values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in fields.items()}
    return Settings(**values)


def content_hash(fields: dict[str, Any]) -> str:
    """A hash of settings: the first 16 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
