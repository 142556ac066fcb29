"""Methods on logits."""

from jaxkd import objectives
from jaxkd.objectives import Number, Objective


def kd(temperature: Number = 4.0, alpha: Number = 0.9) -> Objective:
    """Soft labels beside hard ones: alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy.

    The defaults are those of the CIFAR tables of the literature (Tian et al., 2020); the paper leaves them open.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531
    """
    return objectives.distillation(temperature, alpha)
