"""Networks that are trained together: peers, branches, a teacher with its student, a student with its average."""

from typing import Any, Literal

from jaxkd import learners, objectives
from jaxkd.learners import Learner, Phase
from jaxkd.methods._taps import Given, taps
from jaxkd.methods._terms import after_rampup
from jaxkd.methods._training import Stage, Training, one_stage
from jaxkd.networks import Network
from jaxkd.objectives import Number


def dml(
    student: Network,
    teacher: Network | None = None,
    *,
    training: Training,
    peers: int = 2,
    temperature: Number = 3.0,
    order: Literal["simultaneous", "sequential"] = "simultaneous",
) -> tuple[Stage, ...]:
    """Deep mutual learning: equal students that teach each other; the first of them is the student.

    ``learners.mutual`` of ``objectives.peer_labels``, in either ``order``. The paper has a temperature of 1. There is
    no teacher: one that is given is not looked at.

    To expect: 71.19 and 70.75 of two ResNet-32 on CIFAR-100, alone 68.99 (the paper).

    References:
      Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2017, https://arxiv.org/abs/1706.00384
    """
    del teacher
    if peers < 2:
        raise ValueError(f"method dml: peers is {peers}, and a peer learns from another one: 2 or more")
    objective = objectives.peer_labels(temperature)

    def make(**how: Any) -> Learner:
        return learners.mutual([student] * peers, objective, order=order, keep=0, **how)

    return one_stage(training, training.learner(make), student)


def online(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    temperature: Number = 3.0,
    alpha: Number = 0.5,
    auxiliary: Number = 0.1,
    heads: Given = None,
) -> tuple[Stage, ...]:
    """Online distillation: a new network of the teacher's kind learns from labels, and the student from it meanwhile.

    ``learners.online`` of ``objectives.distillation``, with classifiers on the student's ``"penultimate"`` feature, or
    on those that ``heads`` names, whose cross-entropies have the weight ``auxiliary``. A teacher that was trained
    before is not looked at.

    References:
      Lee, Xie, Gallagher, Zhang, Tu, "Deeply-Supervised Nets", 2014, https://arxiv.org/abs/1409.5185, for the
      classifiers
    """
    objective = objectives.distillation(temperature, alpha)
    features = taps("online", "student", student, "penultimate", heads)

    def make(**how: Any) -> Learner:
        return learners.online(student, teacher, objective, heads=features, auxiliary=auxiliary, **how)

    return one_stage(training, training.learner(make), student)


def ema(
    student: Network,
    teacher: Network | None = None,
    *,
    training: Training,
    temperature: Number = 3.0,
    alpha: Number = 0.5,
    decay: float = 0.99,
) -> tuple[Stage, ...]:
    """A student that learns from labels and from the moving average of itself, which is what is kept.

    ``learners.mean_teacher`` of ``objectives.distillation``; ``decay`` is of a step. (The option ``--ema`` averages
    what any method deploys, and teaches nothing.) There is no other teacher: one that is given is not looked at.

    References:
      Tarvainen, Valpola, "Mean teachers are better role models: Weight-averaged consistency targets improve
      semi-supervised deep learning results", 2017, https://arxiv.org/abs/1703.01780
    """
    del teacher
    objective = objectives.distillation(temperature, alpha)

    def make(**how: Any) -> Learner:
        return learners.mean_teacher(student, objective, decay=decay, **how)

    return one_stage(training, training.learner(make), student)


def kdcl(
    student: Network,
    teacher: Network | None = None,
    *,
    training: Training,
    steps_per_epoch: float,
    peers: int = 2,
    others: tuple[str, ...] | None = None,
    weight: Number = 1.0,
    temperature: Number = 2.0,
    variant: Literal["naive", "linear", "min_logit", "general"] = "min_logit",
    views: Literal["own", "same"] = "own",
) -> tuple[Stage, ...]:
    """KDCL: peers learn from labels and from the one teacher that is made of what all of them say of an example.

    ``learners.mutual`` with ``objectives.collaborative_target`` of ``variant``; each peer has its own augmentation of
    an example, unless ``views`` is ``"same"``. With ``"general"`` it is ``learners.collaborative``, which once an epoch
    weighs them by their errors on held-out examples: it sees labels that no other variant does.

    The peers are equal ones, ``peers`` of them, or the student and the models that ``others`` names. The first of them
    is the student. There is no teacher: one that is given is not looked at.

    To expect: 78.2 and 74.0 of ResNet-50 and MobileNetV2 on ImageNet, alone 76.8 and 72.0 (the paper).

    References:
      Guo, Wang, Wu, Yu, Liang, Hu, Luo, "Online Knowledge Distillation via Collaborative Learning", CVPR 2020
    """
    del teacher
    if others is None and peers < 2:
        raise ValueError(f"method kdcl: peers is {peers}, and the teacher is made of several: 2 or more")
    if isinstance(others, str) or others == ():
        raise ValueError(f'method kdcl: others is {others!r}: name models to learn with, such as ("mlp_64",)')
    together = [student] * peers if others is None else [student, *(training.network(name) for name in others)]
    objective = objectives.weighted_sum(
        hard=(1.0, objectives.hard_label()), kdcl=(weight, objectives.soft_label(temperature))
    )
    if variant == "general":
        if training.held_out is None:
            raise ValueError('method kdcl: variant="general" weighs peers by held-out examples, and there are none')
        held_out = training.held_out()
        every = max(1, round(steps_per_epoch))

        def weigh(**how: Any) -> Learner:
            return learners.collaborative(together, objective, every=every, views=views, keep=0, **how)

        learner = training.learner(weigh)
        enter = learners.fresh(learner, lambda results: held_out)
        return (Stage(Phase("student", learner, training.steps, enter, training.transfer), student),)
    target = objectives.collaborative_target(variant)

    def make(**how: Any) -> Learner:
        return learners.mutual(together, objective, target=target, views=views, keep=0, **how)

    return one_stage(training, training.learner(make), student)


def one(
    student: Network,
    teacher: Network | None = None,
    *,
    training: Training,
    steps_per_epoch: float,
    branches: int = 3,
    weight: Number = 1.0,
    temperature: Number = 3.0,
    rampup: float = 80.0,
    student_taps: Given = None,
) -> tuple[Stage, ...]:
    """ONE: branches of the student, which share all but the last of its ``"stages"``, learn from their gated ensemble.

    ``learners.branched`` with ``objectives.native_ensemble``, which part at the last stage but one, or at the tap that
    is given; the first branch is the student. The weight of the soft labels grows over ``rampup`` epochs, as published:
    80 of 300. There is no teacher: one that is given is not looked at.

    To expect: error 26.61 of ResNet-32 on CIFAR-100, alone 31.18 (the paper).

    References:
      Lan, Zhu, Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", 2018, https://arxiv.org/abs/1806.04606
    """
    del teacher
    if branches < 2:
        raise ValueError(f"method one: branches is {branches}, and an ensemble is of several: 2 or more")
    stages = taps("one", "student", student, "stages", student_taps)
    if student_taps is None and len(stages) < 2:
        raise ValueError(
            f"method one has branches part after the last stage but one, and the student has {stages[0]} alone: take a "
            "model of more stages, or name a tap by student_taps"
        )
    trunk = stages[-2] if student_taps is None else stages[-1]
    own = objectives.native_ensemble(
        trunk, weight=after_rampup(weight, rampup, steps_per_epoch), temperature=temperature
    )
    objective = objectives.weighted_sum(one=(1.0, own))

    def make(**how: Any) -> Learner:
        return learners.branched(student, objective, trunk=trunk, branches=branches, **how)

    return one_stage(training, training.learner(make), student)
