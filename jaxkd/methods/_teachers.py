"""Several ready teachers: one after the other, or all at once."""

from typing import Literal

from jaxkd import learners, networks, objectives
from jaxkd.learners import Phase
from jaxkd.methods._training import TEACHER, Stage, Training, from_labels, result_of, taught, taught_by_several
from jaxkd.networks import Network
from jaxkd.objectives import Number


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
    teachers, stages = _trained(medium, training)
    previous = None
    for name, network in {TEACHER: teacher, **teachers}.items():
        learner = taught(training, student, network, objective, frozen="same" if name == TEACHER else "own")
        enter = (
            learners.fresh(learner, result_of(name))
            if previous is None
            else learners.warm(learner, result_of(previous), result_of(name))
        )
        previous = f"from {name}"
        stages.append(Stage(Phase(previous, learner, training.steps, enter, training.transfer), student))
    return tuple(stages)


def several(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    others: tuple[str, ...],
    combine: Literal["probabilities", "logits", "random"] = "probabilities",
    weights: tuple[float, ...] = (1.0,),
    temperature: Number = 4.0,
    alpha: Number = 0.5,
) -> tuple[Stage, ...]:
    """Several teachers at once: the teacher, and ``others``, models that learn from all labels as it did.

    L = (1 - alpha) cross-entropy + alpha soft, where the soft part is of, by ``combine``,

      * ``"probabilities"``: the mean of the teachers' softened predictions. Its gradient is that of the mean of their
        divergences, which is the term: ``objectives.soft_labels``;
      * ``"logits"``: the mean of their logits: ``networks.ensemble``;
      * ``"random"``: one of them, drawn for each batch by the objective's key of the step.

    Means are weighted by ``weights``, one for all or one for each, the teacher's first, scaled to sum to 1. Each seed
    of the student has its own other teachers.

    References:
      You, Xu, Xu, Tao, "Learning from Multiple Teacher Networks", KDD 2017, without its triplets of inner features
    """
    if isinstance(others, str) or not others:
        raise ValueError(f'method several: others is {others!r}: name models to teach too, such as ("mlp_64",)')
    if combine not in ("probabilities", "logits", "random"):
        raise ValueError(f'method several: combine={combine!r}: there are "probabilities", "logits" and "random"')
    trained, stages = _trained(others, training)
    teachers = {TEACHER: teacher, **trained}
    shares = _shares(weights, len(teachers))
    if combine == "random" and len(set(shares)) > 1:
        raise ValueError(f'method several: combine="random" draws all teachers alike, and weights is {weights}')
    if combine == "logits":
        together = networks.ensemble(list(teachers.values()), "logits", shares)
        soft = objectives.soft_label(temperature)
    else:
        together = networks.side_by_side({str(i): network for i, network in enumerate(teachers.values())})
        one = combine == "random"
        soft = objectives.soft_labels(temperature, weights=None if one else shares, keep=1 if one else None)
    objective = objectives.weighted_sum(
        hard=(objectives.one_minus(alpha), objectives.hard_label()), several=(alpha, soft)
    )
    learner, enter = taught_by_several(training, student, together, tuple(teachers), objective)
    return *stages, Stage(Phase("student", learner, training.steps, enter, training.transfer), student)


def _trained(names: tuple[str, ...], training: Training) -> tuple[dict[str, Network], list[Stage]]:
    """More teachers, by their phases, which learn from all labels."""
    teachers: dict[str, Network] = {}
    stages: list[Stage] = []
    for name in names:
        network = training.network(name)
        learner = from_labels(training, network)
        phase = Phase(f"{TEACHER} {name}", learner, training.steps, learners.fresh(learner), training.complete)
        teachers[phase.name] = network
        stages.append(Stage(phase, network))
    return teachers, stages


def _shares(weights: tuple[float, ...], count: int) -> tuple[float, ...]:
    """Weights of sum 1."""
    each = tuple(weights) * count if len(weights) == 1 else tuple(weights)
    if len(each) != count or min(each) < 0 or sum(each) == 0:
        raise ValueError(
            f"method several: weights is {weights}, of {count} teachers: give one number for all, or one for each, "
            "none negative and not all 0"
        )
    return tuple(weight / sum(each) for weight in each)
