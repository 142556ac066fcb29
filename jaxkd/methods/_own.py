"""Methods without a teacher: the student learns from labels, from itself, or from what it has said before."""

import functools
import math

from jaxkd import learners, losses, objectives
from jaxkd.learners import Phase
from jaxkd.methods._taps import Given, taps
from jaxkd.methods._terms import beside
from jaxkd.methods._training import Stage, Training
from jaxkd.networks import Network
from jaxkd.objectives import Number, Objective, on_logits


def tfkd(
    student: Network,
    teacher: Network | None = None,
    *,
    weight: Number = 10.0,
    hard: Number = 0.9,
    temperature: Number = 20.0,
    variant: str = "code",
) -> Objective:
    """Tf-KD: soft labels of a virtual teacher that is sure of the label and indifferent to the others.

    ``losses.teacher_free``; the defaults are those of ResNet-18 on CIFAR-100. They go with ``variant="code"`` and no
    other. There is no teacher: one that is given is not looked at.

    To expect: 70.42 of ResNet-18 on ImageNet (the paper), 70.52 by torchdistill.

    References:
      Yuan, Tay, Li, Wang, Feng, "Revisiting Knowledge Distillation via Label Smoothing Regularization", 2019,
      https://arxiv.org/abs/1909.11723
    """
    del student, teacher
    own = on_logits(losses.teacher_free, teacher=False, labels=True, temperature=temperature, variant=variant)
    return beside("tfkd", weight, own, hard)


def pskd(
    student: Network,
    teacher: Network | None = None,
    *,
    n_data: int,
    steps: int,
    steps_per_epoch: float,
    alpha: float = 0.8,
) -> Objective:
    """PS-KD: labels softened by what the student said of the very example an epoch ago, ever more so.

    ``objectives.progressive_self``; their share grows from epoch to epoch, to ``alpha`` in the last one, as published.
    It is the whole loss. There is no teacher: one that is given is not looked at.

    References:
      Kim, Ji, Yoon, Hwang, "Self-Knowledge Distillation with Progressive Refinement of Targets", 2020,
      https://arxiv.org/abs/2006.12000
    """
    del student, teacher
    epochs = math.ceil(steps / steps_per_epoch)
    own = objectives.progressive_self(n_data, lambda step: alpha * (step // steps_per_epoch + 1) / epochs)
    return objectives.weighted_sum(pskd=(1.0, own))


def byot(
    student: Network,
    teacher: Network | None = None,
    *,
    alpha: Number = 0.3,
    temperature: Number = 3.0,
    hint: Number = 0.03,
    student_taps: Given = None,
) -> Objective:
    """BYOT: classifiers on the shallow ``"stages"`` learn from labels and from the deepest one, and so the trunk does.

    ``objectives.be_your_own_teacher``, with no hint on the stage next to the deepest; the defaults are those of the
    authors' code for ResNets on CIFAR-100. It is the whole loss. There is no teacher: one given is not looked at.

    To expect: 80.66 of ResNet-18 on CIFAR-100 (MMRazor).

    References:
      Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self
      Distillation", 2019, https://arxiv.org/abs/1905.08094
    """
    del teacher
    *shallow, deepest = taps("byot", "student", student, "stages", student_taps)
    if not shallow:
        raise ValueError(
            f"method byot teaches shallow stages by the deepest one, and the student has {deepest} alone: take a model "
            "of more stages, or name them by student_taps"
        )
    hints = (*[hint] * (len(shallow) - 1), 0.0)
    own = objectives.be_your_own_teacher(shallow, deepest, alpha=alpha, temperature=temperature, hint=hints)
    return objectives.weighted_sum(byot=(1.0, own))


def cskd(
    student: Network,
    teacher: Network | None = None,
    *,
    training: Training,
    temperature: Number = 4.0,
    weight: Number = 1.0,
) -> tuple[Stage, ...]:
    """CS-KD: two images of a class get the same prediction, in batches of pairs.

    ``objectives.class_wise_self``; the defaults are the published ones. A batch is of half as many pairs. There is no
    teacher: one that is given is not looked at.

    References:
      Yun, Park, Lee, Shin, "Regularizing Class-wise Predictions via Self-knowledge Distillation", 2020,
      https://arxiv.org/abs/2003.13964
    """
    del teacher
    objective = objectives.weighted_sum(cskd=(1.0, objectives.class_wise_self(temperature, weight)))
    learner = training.learner(functools.partial(learners.distill, student, None, objective))
    phase = Phase("student", learner, training.steps, learners.fresh(learner), training.pairs())
    return (Stage(phase, student),)
