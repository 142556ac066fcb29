"""Methods in two phases: features first, labels from there."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxkd import learners, losses, objectives
from jaxkd._checks import check_number
from jaxkd.learners import Phase
from jaxkd.methods._taps import Given, one_pair, pairs
from jaxkd.methods._terms import beside
from jaxkd.methods._training import TEACHER, Stage, Training, result_of, taught
from jaxkd.networks import Batch, Network, Outputs, Variables
from jaxkd.objectives import Deployment, Number, Objective, on_features


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


def ft_staged(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    weight: Number = 200.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    rate: float = 0.5,
    variant: Literal["code", "repdistiller"] = "repdistiller",
    first: float = 1.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> tuple[Stage, ...]:
    """FT in its two phases: the paraphraser learns, without labels, to rebuild the teacher's map; then the student.

    ``objectives.paraphraser`` of ``"map_before_pool"``, then ``objectives.factor_transfer`` with what it has become.
    The first phase has ``first`` times the steps of the second, of which 1/8 were published. The other defaults are
    those of CIFAR-100 (RepDistiller). What the first phase deploys is the teacher with its paraphraser, so that its
    accuracy is the teacher's; each seed has its own.

    To expect: 69.84 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      https://arxiv.org/abs/1802.04977
    """
    pair = one_pair("ft_staged", student, teacher, "map_before_pool", student_taps, teacher_taps)
    paraphrasing = _beside(teacher, _PARAPHRASER)
    own = objectives.weighted_sum(paraphraser=(1.0, objectives.paraphraser(pair[1], rate=rate, variant=variant)))
    kept = Deployment(
        lambda nothing: paraphrasing,
        lambda nothing, own, frozen: {**frozen, _PARAPHRASER: own["params"]["paraphraser"]},
    )
    steps = _first_steps(training, first)
    opening = taught(training, _NOTHING, teacher, own._replace(deployment=kept), steps=steps)
    transfer = objectives.factor_transfer(*pair, rate=rate, weight=weight, trained=_PARAPHRASER, variant=variant)
    objective = beside("ft_staged", 1.0, transfer, hard, soft, temperature)
    main = taught(training, student, paraphrasing, objective, frozen="own")
    enter = learners.fresh(opening, result_of(TEACHER)), learners.fresh(main, result_of(_PARAPHRASER))
    return (
        Stage(Phase(_PARAPHRASER, opening, steps, enter[0], training.transfer), None),
        Stage(Phase("student", main, training.steps, enter[1], training.transfer), student),
    )


def ab(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    weight: Number = 0.003,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    first: float = 1.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> tuple[Stage, ...]:
    """AB: a first phase has the student's neurons fire where the teacher's do, the next has labels; of ``"pre_relu"``.

    ``losses.activation_boundary`` through 1x1 convolutions with BatchNorm, and bilinear resizing where height or width
    differ, for which the published code has strided and transposed convolutions. The last layer has ``weight``, each
    before it half of the next one's. The first phase has ``first`` times the steps of the second, of which 1/8 were
    published. The other defaults are those of CIFAR-100 (RepDistiller).

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
            on_features(_boundaries, of_student[i : i + 1], of_teacher[i : i + 1], connector="norm"),
        )
        for i in layers
    }
    own = objectives.weighted_sum(ab=(weight, objectives.weighted_sum(**terms)))
    return _after_first(training, student, teacher, own, _labels(hard, soft, temperature), first)


def fsp(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    weight: Number = 50.0,
    hard: Number = 1.0,
    soft: Number = 0.0,
    temperature: Number = 4.0,
    first: float = 1.0,
    student_taps: Given = None,
    teacher_taps: Given = None,
) -> tuple[Stage, ...]:
    """FSP: a first phase matches the products of the channels of neighbouring ``"stages"``, the second has labels.

    ``losses.fsp``, through 1x1 convolutions where widths differ, which the paper does without: its pairs have the same
    widths. The first phase has ``first`` times the steps of the second, of which 1/8 were published. The other defaults
    are those of CIFAR-100 (RepDistiller).

    To expect: 69.95 of ResNet-56/20 on CIFAR-100, alone 69.06 (RepDistiller).

    References:
      Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
      Learning", CVPR 2017
    """
    layers = pairs("fsp", student, teacher, "stages", student_taps, teacher_taps, least=2)
    own = objectives.weighted_sum(fsp=(weight, on_features(_neighbours, *layers, connector="width", together=True)))
    return _after_first(training, student, teacher, own, _labels(hard, soft, temperature), first)


def _after_first(
    training: Training, student: Network, teacher: Network, one: Objective, other: Objective, first: float = 1.0
) -> tuple[Stage, ...]:
    """The student learns by one objective, and by another one from there; the teacher is the same."""
    steps = _first_steps(training, first)
    opening = taught(training, student, teacher, one, steps=steps)
    main = taught(training, student, teacher, other)
    of_teacher = result_of(TEACHER)
    enter = learners.warm(main, result_of("first phase"), of_teacher)
    return (
        Stage(Phase("first phase", opening, steps, learners.fresh(opening, of_teacher), training.transfer), None),
        Stage(Phase("student", main, training.steps, enter, training.transfer), student),
    )


def _first_steps(training: Training, first: float) -> int:
    check_number("first", first, above=0)
    return max(1, round(first * training.steps))


def _labels(hard: Number, soft: Number, temperature: Number) -> Objective:
    return objectives.weighted_sum(
        hard=(hard, objectives.hard_label()), soft=(soft, objectives.soft_label(temperature))
    )


def _boundaries(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """``losses.activation_boundary`` of the student's map in the size of the teacher's."""
    if student.shape[1:-1] != teacher.shape[1:-1]:
        student = jax.image.resize(student, (*student.shape[:1], *teacher.shape[1:-1], student.shape[-1]), "bilinear")
    return losses.activation_boundary(student, teacher)


def _neighbours(student: list[jax.Array], teacher: list[jax.Array]) -> jax.Array:
    """The sum of ``losses.fsp`` over neighbouring layers."""
    both = [(*student[i : i + 2], *teacher[i : i + 2]) for i in range(len(student) - 1)]
    return jnp.sum(jnp.stack([losses.fsp(*maps) for maps in both]), 0)


_PARAPHRASER = "paraphraser"
"""The phase, and the collection of the teacher's variables that it adds."""
_NOTHING = Network(lambda key, batch: {}, lambda variables, batch, **_: (Outputs(None), {}))
"""The student of a phase that trains an objective alone."""


def _beside(network: Network, collection: str) -> Network:
    """The network, of whose variables one collection is not its own."""

    def apply(variables: Variables, batch: Batch, **options: Any) -> tuple[Outputs, Variables]:
        own = {name: value for name, value in variables.items() if name != collection}
        return network.apply(own, batch, **options)

    return network._replace(apply=apply)
