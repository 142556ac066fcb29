"""Born-again networks: generations that learn from the one before."""

from typing import Literal

from jaxkd import learners, networks, objectives
from jaxkd.learners import Phase
from jaxkd.methods._training import Ensemble, Stage, Training, from_labels, result_of, taught
from jaxkd.networks import Network
from jaxkd.objectives import Number


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

    From the third generation on each completes an ensemble of all that were taught, the mean of their probabilities
    (the paper's Ens2, Ens3): ``Stage.ensembles``.

    To expect: DenseNet-112-33 on CIFAR-100, error 18.25 of generation 1 (the teacher), 17.61, 17.22, 16.59 of the
    next ones, 15.77 and 15.68 of their ensembles of two and three (the paper); gains are not found everywhere:
    WRN-28-10 on CIFAR-10 gets worse, 3.77 to 3.86.

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
        objective = objectives.weighted_sum(
            hard=(objectives.one_minus(alpha), objectives.hard_label()),
            dkpp=(alpha, objectives.permuted_soft_label(temperature)),
        )
    first = from_labels(training, student)
    # One learner for all others: they share its compiled program.
    reborn = taught(training, student, student, objective, frozen="own")
    stages = [Stage(Phase(_generation(1), first, training.steps, learners.fresh(first), training.labelled), student)]
    for number in range(2, generations + 1):
        enter = learners.fresh(reborn, result_of(_generation(number - 1)))
        phase = Phase(_generation(number), reborn, training.steps, enter, training.transfer)
        ensembles: tuple[Ensemble, ...] = ()
        if number > 2:
            members = tuple(range(1, number))
            mean = networks.ensemble([student] * len(members), "probabilities")
            ensembles = (Ensemble(f"generations 2 to {number}", members, mean),)
        stages.append(Stage(phase, student, ensembles))
    return tuple(stages)


def _generation(number: int) -> str:
    return f"generation {number}"
