"""Methods in phases, or of more than a frozen teacher: a list of phases each, the last of which gives the student."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd import learners, losses, objectives
from jaxkd.learners import Learner, Phase
from jaxkd.methods._taps import Given, one_pair, pairs, taps
from jaxkd.methods._terms import on_features
from jaxkd.networks import Network
from jaxkd.objectives import Number, Objective
from jaxkd.objectives._common import value_at

TEACHER = "teacher"
"""The phase whose result is the teacher's variables."""


class Stage(NamedTuple):
    """A phase of a method.

    Attributes:
      phase: what trains.
      network: of one seed of what it deploys; None: that is no classifier yet.
    """

    phase: Phase
    network: Network | None


class Training(NamedTuple):
    """What a method in phases needs to know of a training: a job, or a script, decides it once for all phases.

    Attributes:
      learner: ``(make, frozen="same") -> learner``, with ``make(optimizer=..., prepare=..., accumulate=...)`` what
        makes it for one seed; all learners are of as many seeds. ``frozen``: see ``learners.seeds``.
      steps: of a phase.
      labelled: the data of phases that learn from labels alone.
      transfer: the data of phases that learn from a teacher; its labels may be fewer.
      pairs: ``() -> data``: batches of pairs of one class (``data.PairedBatches``), of those that have a label.
      complete: the data that the teacher learnt from, with all labels.
      network: ``name -> network``, for other models than student and teacher.
    """

    learner: Callable[..., Learner]
    steps: int
    labelled: Any
    transfer: Any
    pairs: Callable[[], Any]
    complete: Any
    network: Callable[[str], Network]


def ban(
    student: Network,
    teacher: Network | None = None,
    *,
    training: Training,
    generations: int = 3,
    temperature: Number = 3.0,
    alpha: Number = 0.5,
    variant: Literal["soft", "cwtm", "dkpp"] = "soft",
) -> tuple[Stage, ...]:
    """Born-again networks: generation 1 learns from labels, each other one, drawn anew, from the one before, frozen.

    There are ``generations`` of them, the first one included, and each seed has its own line. There is no teacher of
    another kind: one that is given is not looked at.

    Variants:
      * ``"soft"``: from labels and soft labels, ``objectives.distillation``; alpha = 1 is the paper's form of a teacher
        alone.
      * ``"cwtm"``: from labels, weighted by how sure the teacher is, ``objectives.confidence_weighted_label``; there is
        no temperature and no alpha in it.
      * ``"dkpp"``: from labels and soft labels whose classes but the largest are permuted,
        ``objectives.permuted_soft_label``.

    To expect: DenseNet-112-33 on CIFAR-100, error 18.25 of generation 1 (the teacher), 17.61, 17.22, 16.59 of the
    next ones (the paper); gains are not found everywhere: WRN-28-10 on CIFAR-10 gets worse, 3.77 to 3.86.

    References:
      Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born Again Neural Networks", 2018,
      https://arxiv.org/abs/1805.04770
    """
    del teacher
    if generations < 1:
        raise ValueError(f"method ban: generations is {generations}, and labels alone teach the first: give 1 or more")
    if variant not in ("soft", "cwtm", "dkpp"):
        raise ValueError(f'method ban: variant={variant!r}: there are "soft", "cwtm" and "dkpp"')
    objective = objectives.distillation(temperature, alpha)
    if variant == "cwtm":
        objective = objectives.weighted_sum(cwtm=(1.0, objectives.confidence_weighted_label()))
    elif variant == "dkpp":
        hard = functools.partial(_one_minus, alpha)
        objective = objectives.weighted_sum(
            hard=(hard, objectives.hard_label()), dkpp=(alpha, objectives.permuted_soft_label(temperature))
        )
    first = _from_labels(training, student)
    # One learner for all others: they share its compiled program.
    reborn = _taught(training, student, student, objective, frozen="own")
    stages = [Stage(Phase(_generation(1), first, training.steps, learners.fresh(first), training.labelled), student)]
    for number in range(2, generations + 1):
        enter = learners.fresh(reborn, _result(_generation(number - 1)))
        stages.append(Stage(Phase(_generation(number), reborn, training.steps, enter, training.transfer), student))
    return tuple(stages)


def progressive(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    medium: tuple[str, ...],
    temperature: Number = 4.0,
    alpha: Number = 0.5,
) -> tuple[Stage, ...]:
    """One student learns from ready teachers in turn, the largest first, and goes on from each as it is.

    From labels and soft labels, ``objectives.distillation``. ``medium`` names the models that teach after the teacher,
    in order. They learn from all labels, as the teacher did, and each seed of the student has its own.

    References:
      The chain of Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", 2019,
      https://arxiv.org/abs/1902.03393, with the student carried instead of the teacher
    """
    if isinstance(medium, str) or not medium:
        raise ValueError(f'method progressive: medium is {medium!r}: name models to teach later, such as ("mlp_64",)')
    objective = objectives.distillation(temperature, alpha)
    stages: list[Stage] = []
    teachers = {TEACHER: teacher}
    for name in medium:
        network = teachers[f"{TEACHER} {name}"] = training.network(name)
        learner = _from_labels(training, network)
        phase = Phase(f"{TEACHER} {name}", learner, training.steps, learners.fresh(learner), training.complete)
        stages.append(Stage(phase, network))
    previous = None
    for name, network in teachers.items():
        learner = _taught(training, student, network, objective, frozen="same" if name == TEACHER else "own")
        enter = (
            learners.fresh(learner, _result(name))
            if previous is None
            else learners.warm(learner, _result(previous), _result(name))
        )
        previous = f"from {name}"
        stages.append(Stage(Phase(previous, learner, training.steps, enter, training.transfer), student))
    return tuple(stages)


def takd(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    assistants: tuple[str, ...],
    temperature: Number = 4.0,
    alpha: Number = 0.5,
) -> tuple[Stage, ...]:
    """TAKD: between teacher and student stand assistants, each taught by the one before it.

    From labels and soft labels, ``objectives.distillation``. ``assistants`` names the models in between, from large to
    small; each seed has its own chain.

    To expect: 44.92 of a CNN of 2 layers on CIFAR-100 through one of 4, 44.57 without (the paper, where each number is
    the best on the test split of 120 trials; others have not found the gain).

    References:
      Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", 2019, https://arxiv.org/abs/1902.03393
    """
    if isinstance(assistants, str) or not assistants:
        raise ValueError(
            f'method takd: assistants is {assistants!r}: name models between teacher and student, such as ("mlp_64",)'
        )
    objective = objectives.distillation(temperature, alpha)
    stages: list[Stage] = []
    above, frozen = (TEACHER, teacher), "same"
    chain = [(f"assistant {name}", training.network(name)) for name in assistants]
    for name, network in (*chain, ("student", student)):
        learner = _taught(training, network, above[1], objective, frozen=frozen)
        enter = learners.fresh(learner, _result(above[0]))
        stages.append(Stage(Phase(name, learner, training.steps, enter, training.transfer), network))
        above, frozen = (name, network), "own"
    return tuple(stages)


def fitnets_staged(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    temperature: Number = 4.0,
    alpha: Number = 0.5,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> tuple[Stage, ...]:
    """FitNets in its two phases: hints train the student up to the hinted layer, then it learns from soft labels.

    ``objectives.hint`` of the middle of ``"stages"``, then ``objectives.distillation`` from there.

    References:
      Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, https://arxiv.org/abs/1412.6550
    """
    pair = one_pair("fitnets_staged", student, teacher, "stages", student_taps, teacher_taps, of_role="middle")
    own = objectives.weighted_sum(fitnets_staged=(1.0, objectives.hint(*pair)))
    return _after_first(training, student, teacher, own, objectives.distillation(temperature, alpha))


def ab(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    weight: Number = 0.003,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> tuple[Stage, ...]:
    """AB: a first phase has the student's neurons fire where the teacher's do, the next has labels; of ``"pre_relu"``.

    ``losses.activation_boundary`` through 1x1 convolutions with BatchNorm; the last layer has ``weight``, each before
    it half of the next one's. The defaults are those of CIFAR-100 (RepDistiller).

    To expect: 69.47 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Heo, Lee, Yun, Choi, "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
      2018, https://arxiv.org/abs/1811.03233
    """
    of_student, of_teacher = pairs("ab", student, teacher, "pre_relu", student_taps, teacher_taps)
    layers = range(len(of_student))
    terms = {
        f"layer{i + 1}": (
            0.5 ** (len(of_student) - 1 - i),
            on_features(losses.activation_boundary, of_student[i : i + 1], of_teacher[i : i + 1], connector="norm"),
        )
        for i in layers
    }
    own = objectives.weighted_sum(ab=(weight, objectives.weighted_sum(**terms)))
    return _after_first(training, student, teacher, own, _labels(hard, soft, temperature))


def fsp(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    weight: Number = 50.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> tuple[Stage, ...]:
    """FSP: a first phase matches the products of the channels of neighbouring ``"stages"``, the second has labels.

    ``losses.fsp``, through 1x1 convolutions where widths differ, which the paper does without: its pairs have the same
    widths. The defaults are those of CIFAR-100 (RepDistiller).

    To expect: 69.95 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
      Learning", CVPR 2017
    """
    layers = pairs("fsp", student, teacher, "stages", student_taps, teacher_taps, least=2)
    own = objectives.weighted_sum(fsp=(weight, on_features(_neighbours, *layers, connector="width", together=True)))
    return _after_first(training, student, teacher, own, _labels(hard, soft, temperature))


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

    return _one(training, training.learner(make), student)


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

    return _one(training, training.learner(make), student)


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

    return _one(training, training.learner(make), student)


def _one_minus(alpha: Number, step: jax.Array) -> jax.Array:
    return 1 - jnp.asarray(value_at(alpha, step))


def _one(training: Training, learner: Learner, network: Network) -> tuple[Stage, ...]:
    return (Stage(Phase("student", learner, training.steps, learners.fresh(learner), training.transfer), network),)


def _from_labels(training: Training, network: Network) -> Learner:
    return training.learner(functools.partial(learners.distill, network, None, objectives.hard_label()))


def _taught(
    training: Training, student: Network, teacher: Network, objective: Objective, *, frozen: str = "same"
) -> Learner:
    return training.learner(functools.partial(learners.distill, student, teacher, objective), frozen=frozen)


def _after_first(
    training: Training, student: Network, teacher: Network, first: Objective, second: Objective
) -> tuple[Stage, ...]:
    """The student learns by one objective, and by another one from there; the teacher is the same."""
    opening, main = (_taught(training, student, teacher, objective) for objective in (first, second))
    of_teacher = _result(TEACHER)
    enter = learners.warm(main, _result("first phase"), of_teacher)
    return (
        Stage(
            Phase("first phase", opening, training.steps, learners.fresh(opening, of_teacher), training.transfer), None
        ),
        Stage(Phase("student", main, training.steps, enter, training.transfer), student),
    )


def _labels(hard: Number, soft: Number, temperature: Number) -> Objective:
    return objectives.weighted_sum(
        hard=(hard, objectives.hard_label()), soft=(soft, objectives.soft_label(temperature))
    )


def _neighbours(student: list[jax.Array], teacher: list[jax.Array]) -> jax.Array:
    """The sum of ``losses.fsp`` over neighbouring layers."""
    both = [(*student[i : i + 2], *teacher[i : i + 2]) for i in range(len(student) - 1)]
    return jnp.sum(jnp.stack([losses.fsp(*maps) for maps in both]), 0)


def _result(name: str) -> Callable[[learners.Results], Any]:
    return lambda results: results[name]


def _generation(number: int) -> str:
    return f"generation {number}"
