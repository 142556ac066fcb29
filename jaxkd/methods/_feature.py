"""Methods on inner features."""

from jaxkd import objectives
from jaxkd.objectives import Number, Objective


def fitnets(
    temperature: Number = 4.0,
    alpha: Number = 0.9,
    weight: Number = 100.0,
    student: str = "penultimate",
    teacher: str = "penultimate",
) -> Objective:
    """A hint beside soft and hard labels, in one phase: kd + weight * mean (regressor(student) - teacher)^2.

    The paper trains the hint first, on a middle layer, and the whole with soft labels after. This is the one-phase form
    of the literature's tables with their weight, on the last features by default.

    References:
      Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, https://arxiv.org/abs/1412.6550
    """
    return objectives.weighted_sum(
        kd=(1.0, objectives.distillation(temperature, alpha)), hint=(weight, objectives.hint(student, teacher))
    )
