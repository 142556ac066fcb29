"""Methods on logits, and the hint that may go beside them."""

from jaxkd import objectives
from jaxkd.objectives import Number, Objective


def kd(temperature: Number = 4.0, alpha: Number = 0.9) -> Objective:
    """Soft labels beside hard ones: alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    return objectives.distillation(temperature, alpha)


def fitnets(
    temperature: Number = 4.0,
    alpha: Number = 0.9,
    weight: Number = 100.0,
    student: str = "penultimate",
    teacher: str = "penultimate",
) -> Objective:
    """A hint beside soft and hard labels, in one phase: kd + weight * mean (regressor(student) - teacher)^2.

    References:
      Romero et al., "FitNets: Hints for Thin Deep Nets", 2014, https://arxiv.org/abs/1412.6550
    """
    return objectives.weighted_sum(
        kd=(1.0, objectives.distillation(temperature, alpha)), hint=(weight, objectives.hint(student, teacher))
    )
