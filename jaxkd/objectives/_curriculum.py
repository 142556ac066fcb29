"""A temperature that is trained against the student."""

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number
from jaxkd.networks import Variables
from jaxkd.objectives._common import mean_over_examples, without_padding
from jaxkd.objectives._logits import check_same_classes
from jaxkd.objectives._objective import Objective, Signals, Taps, Term


def curriculum_temperature(ramp: int, *, start: float = 1.0, end: float = 20.0) -> Objective:
    """CTKD: soft labels at a temperature that is trained to make them harder, ever more so over the first steps.

    L = T^2 KL(teacher || student), the mean over examples, with T = ``start`` + ``end`` sigmoid(theta), one number for
    all, in the range ``start`` to ``start + end``. theta is 1 at first, and trained by the student's optimizer on the
    gradient of L, T^2 included, times lambda = -(1 - cos(pi min(step / ramp, 1))) / 2: from 0 to -1, so that theta
    *climbs* where the student descends. The authors' code follows lambda by epochs, this by steps. Their optimizer
    decays theta as any other parameter, which is no part of the method: a ``mask`` of the weight decay that is False
    for what stands under ``"theta"`` leaves it out.

    The temperature is a metric. Published weights: 0.9 beside a cross-entropy of weight 0.1 (CIFAR-100), with the steps
    of 10 epochs for ``ramp``, ``start`` 1 and ``end`` 20.

    Args:
      ramp: the steps over which the reversed gradient grows to its full size, at least 1.
      start: the lowest temperature, above 0.
      end: the range of temperatures above it, above 0.

    Raises:
      ValueError: if a number is out of range; in ``init``: if the class counts differ.

    References:
      Li, Li, Yang, Zhao, Song, Luo, Li, Yang, "Curriculum Temperature for Knowledge Distillation", 2022,
      https://arxiv.org/abs/2211.16231
    """
    for name, value in (("ramp", ramp), ("start", start), ("end", end)):
        check_number(name, value, above=0)

    def init(key: jax.Array, signals: Signals) -> Variables:
        del key
        check_same_classes(signals)
        return {"params": {"theta": jnp.ones(())}}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        theta = variables["params"]["theta"]
        progress = jnp.minimum(signals.step.astype(theta.dtype) / ramp, 1)
        fixed = jax.lax.stop_gradient(theta)
        # The value is theta's to the last bit, for the difference is 0; the gradient is multiplied.
        reversed_theta = fixed - (1 - jnp.cos(jnp.pi * progress)) / 2 * (theta - fixed)
        temperature = start + end * jax.nn.sigmoid(reversed_theta)
        student, teacher = (without_padding(x.logits, signals.batch) for x in (signals.student, signals.teacher))
        term = mean_over_examples(losses.soft_label_kl(student, teacher, temperature), signals.batch)
        metric = Term(1.0, temperature, jnp.ones(()))
        return {"soft_label": term}, {"temperature": metric}, {}

    return Objective(Taps(), init, apply)
