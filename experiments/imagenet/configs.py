"""Distillation on ImageNet as it was published: ResNet-34 to 18, a patient teacher, DeiT; with the published numbers.

ResNet-34 to 18 is 100 epochs of SGD, and the accuracy of the last one. What a recipe does not say here is the default
of ``jaxkd methods``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxkd.jobs import DistillConfig


class Recipe(NamedTuple):
    """A training of a student, without its seeds and its teacher's weights.

    Attributes:
      published: top-1 accuracies in percent on the validation images, by who says so.
      alone: that of the student without a teacher; None: no number.
      of_teacher: that of the teacher of the published training.
      epochs: of the published training.
      options: of the job.
      needs_weights: whether the teacher was trained in another way, and has to be given.
    """

    published: Mapping[str, float]
    alone: float | None
    of_teacher: float
    epochs: float
    options: Mapping[str, Any]
    needs_weights: bool = False


PAPER, TORCHDISTILL, MDISTILLER, MMRAZOR = "paper", "torchdistill", "mdistiller, best epoch", "MMRazor"
_CROP_AND_FLIP = ("resized_crop", "flip")


def _resnet18(
    method: str,
    published: Mapping[str, float],
    *parameters: str,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    epochs: float = 100.0,
    drops: tuple[float, ...] = (30, 60, 90),
    **others: Any,
) -> Recipe:
    """ResNet-34 to 18. ``drops`` are epochs."""
    options = {
        "teacher": "resnet34",
        "student": "resnet18",
        "method": method,
        "set": parameters,
        "batch_size": batch_size,
        "optimizer": "sgd",
        "weight_decay": 1e-4,
        "schedule": "steps",
        "drops": tuple(epoch / epochs for epoch in drops),
        "learning_rate": learning_rate,
        "teacher_learning_rate": learning_rate,
        "augment": _CROP_AND_FLIP,
        "alone": False,
    }
    # Without distillation, and the teacher: torchvision's.
    return Recipe(published, 69.76, 73.31, epochs, options | others)


def _deit(size: str, alone: float, published: float) -> Recipe:
    options = {
        "teacher": "bit_152x2",
        "student": f"deit_{size}",
        "method": "deit_hard",
        "batch_size": 1024,
        "optimizer": "adam",
        "weight_decay": 0.05,
        "learning_rate": 1e-3,
        "warmup": 5 / 300,
        "augment": (*_CROP_AND_FLIP, "mixup"),
        "mixup_alpha": 0.8,
        "pixels": "symmetric",
        "alone": False,
    }
    # The published teacher is RegNetY-16GF, which is not in the zoo: this one is of nearly the same accuracy, 83.0.
    return Recipe({PAPER: published}, alone, 82.9, 300, options, needs_weights=True)


def _patient(epochs: float, published: Mapping[str, float]) -> Recipe:
    options = {
        "teacher": "bit_152x2",
        "student": "bit_50x1",
        "method": "patient",
        "batch_size": 4096,
        "optimizer": "adam",
        # Published is 3e-4 of the weights a step at the full rate, whatever the rate is; here it is multiplied by that.
        "weight_decay": 3e-4 / 0.03,
        "learning_rate": 0.03,
        # The first 5000 steps.
        "warmup": 5000 / (epochs * 1_276_167 / 4096),
        "augment": (*_CROP_AND_FLIP, "mixup"),
        "mixup_alpha": 1.0,
        "pixels": "symmetric",
        "alone": False,
    }
    return Recipe(published, None, 83.0, epochs, options, needs_weights=True)


RECIPES: Mapping[str, Recipe] = {
    "kd": _resnet18("kd", {TORCHDISTILL: 71.37, MDISTILLER: 71.03}, temperature=1.0, alpha=0.5, alone=True),
    "at": _resnet18(
        "at", {PAPER: 70.70, TORCHDISTILL: 70.90}, "student_taps=stage3,stage4", "teacher_taps=stage3,stage4"
    ),
    # One epoch of the paraphraser.
    "ft_staged": _resnet18(
        "ft_staged",
        {PAPER: 71.43, TORCHDISTILL: 71.56},
        *("weight=1000", "variant=code", f"first={1 / 90}"),
        epochs=90.0,
        drops=(30, 60),
    ),
    "crd": _resnet18("crd", {PAPER: 71.17, TORCHDISTILL: 70.93}, batch_size=255),
    # Tf-KD of the form in which the teacher is the student itself, trained before.
    "tfkd_self": _resnet18(
        "kd",
        {PAPER: 70.42, TORCHDISTILL: 70.52},
        teacher="resnet18",
        temperature=1.0,
        alpha=0.1,
        epochs=90.0,
        drops=(30, 60, 80),
    )._replace(of_teacher=69.76),
    "reviewkd": _resnet18("reviewkd", {PAPER: 71.61, TORCHDISTILL: 71.64}, "weight=1", "warmup=1"),
    "ickd": _resnet18("ickd", {PAPER: 72.19}, "weight=1", "variant=imagenet"),
    "dist": _resnet18("dist", {PAPER: 72.07, TORCHDISTILL: 71.95, MMRAZOR: 71.61}, "temperature=1"),
    "srd": _resnet18("srd", {PAPER: 71.63, TORCHDISTILL: 71.92}),
    "dkd": _resnet18(
        "dkd", {MDISTILLER: 71.70}, "temperature=1", "beta=0.5", "warmup=1", batch_size=512, learning_rate=0.2
    ),
    "lskd": _resnet18("lskd", {PAPER: 71.42}, "hard=1", batch_size=512, learning_rate=0.2),
    "wsld": _resnet18("wsld", {MMRAZOR: 71.54}, "weight=2.5", "temperature=2"),
    "rkd": _resnet18("rkd", {MMRAZOR: 70.23}),
    "patient_300": _patient(300, {}),
    "patient_1200": _patient(1200, {}),
    "patient_9600": _patient(9600, {PAPER: 82.8}),
    "deit_tiny": _deit("tiny", 72.2, 74.5),
    "deit_small": _deit("small", 79.9, 81.2),
    "deit_base": _deit("base", 81.8, 83.4),
}


def config(
    name: str, *, teacher_weights: str | None = None, seeds: int = 1, seed: int = 0, epochs: float | None = None
) -> DistillConfig:
    """The job of a recipe, for ``jaxkd.jobs.distill``.

    Args:
      name: one of ``RECIPES``.
      teacher_weights: a file of the teacher's weights; without, a ResNet is trained, and shared by all jobs of one
        working directory that train it alike.
      seeds: how many students, of one teacher.
      seed: of everything.
      epochs: of students, and of a teacher that is trained; by default the published ones. What is a share of the
        training, as warm-up is, stays one.

    Raises:
      ValueError: there is no such recipe, or its teacher has to be given.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe is called {name!r}: there are {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    if recipe.needs_weights and teacher_weights is None:
        raise ValueError(
            f"{name} is of a teacher that was trained on more than ImageNet: give teacher_weights, a file of the "
            f"weights of {recipe.options['teacher']}"
        )
    epochs = recipe.epochs if epochs is None else epochs
    return DistillConfig(
        dataset="imagenet2012",
        teacher_weights=teacher_weights,
        labels="all",
        seeds=seeds,
        data_order="own" if seeds > 1 else "same",
        epochs=epochs,
        teacher_epochs=epochs,
        seed=seed,
        **recipe.options,
    )
