"""Teacher assistants: networks of sizes in between that are taught, and teach."""

from jaxkd import learners, networks, objectives
from jaxkd.learners import Phase
from jaxkd.methods._training import TEACHER, Stage, Training, result_of, taught, taught_by_several
from jaxkd.networks import Network
from jaxkd.objectives import Number


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
    objective = objectives.distillation(temperature, alpha)
    stages: list[Stage] = []
    above, frozen = (TEACHER, teacher), "same"
    for name, network in _below("takd", student, assistants, training):
        learner = taught(training, network, above[1], objective, frozen=frozen)
        enter = learners.fresh(learner, result_of(above[0]))
        stages.append(Stage(Phase(name, learner, training.steps, enter, training.transfer), network))
        above, frozen = (name, network), "own"
    return tuple(stages)


def dgkd(
    student: Network,
    teacher: Network,
    *,
    training: Training,
    assistants: tuple[str, ...],
    temperature: Number = 5.0,
    alpha: Number = 1.0,
    drop: int = 1,
) -> tuple[Stage, ...]:
    """DGKD: each assistant, and the student, learns from all that are larger, of which each batch drops some.

    The chain of ``takd``, where L = (1 - alpha) cross-entropy + alpha sum_k T^2 KL(teacher_k || student),
    ``objectives.soft_labels``: ``drop`` of the teachers, drawn anew for each batch, are left out of the sum, but for
    one at least. The defaults are those of the authors' code, where a divergence is the mean over classes instead of
    their sum.

    References:
      Son, Na, Choi, Hwang, "Densely Guided Knowledge Distillation using Multiple Teacher Assistants", 2020,
      https://arxiv.org/abs/2009.08825
    """
    if drop < 0:
        raise ValueError(f"method dgkd: drop is {drop}, and it is how many teachers a batch leaves out: give 0 or more")
    stages: list[Stage] = []
    above = {TEACHER: teacher}
    for name, network in _below("dgkd", student, assistants, training):
        dense = objectives.soft_labels(temperature, keep=max(1, len(above) - drop))
        objective = objectives.weighted_sum(
            hard=(objectives.one_minus(alpha), objectives.hard_label()), dgkd=(alpha, dense)
        )
        teachers = networks.side_by_side({str(i): one for i, one in enumerate(above.values())})
        learner, enter = taught_by_several(training, network, teachers, tuple(above), objective)
        stages.append(Stage(Phase(name, learner, training.steps, enter, training.transfer), network))
        above[name] = network
    return tuple(stages)


def _below(method: str, student: Network, assistants: tuple[str, ...], training: Training) -> list[tuple[str, Network]]:
    """Phases and networks of a chain below the teacher, from large to small."""
    if isinstance(assistants, str) or not assistants:
        raise ValueError(
            f"method {method}: assistants is {assistants!r}: name models between teacher and student, such as "
            '("mlp_64",)'
        )
    return [*((f"assistant {name}", training.network(name)) for name in assistants), ("student", student)]
