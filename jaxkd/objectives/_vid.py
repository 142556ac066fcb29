"""Variational information distillation: the student predicts the teacher's map, and how sure it is of each channel."""

import math

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.losses._maps import pooled_alike
from jaxkd.networks import Variables
from jaxkd.objectives._common import mean_over_examples
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps, convolve, draw_conv, poolable, valid_taps

_FIRST_VARIANCE = 5.0


def vid(student: str, teacher: str) -> Objective:
    """VID: the negative log-likelihood of a teacher's map under a Gaussian that the student's map predicts.

    The mean mu is what a trained regressor, three 1x1 convolutions without bias with ReLUs between, all of the
    teacher's width, makes of the student's map. The variance is trained too, one number for each channel, 5 at first.
    The loss is ``losses.variational_information(mu, t, rho)``, the mean over examples. Of two sizes the larger map is
    averaged to the smaller.

    Published weights: 1 for each pair of layers, beside a cross-entropy of weight 1 (CIFAR-100, RepDistiller).
    Systems that leave the variance out of the optimizer train a scaled mean squared error.

    Args:
      student: a tap of the student, [batch, *spatial, channels]; tokens and vectors will do.
      teacher: a tap of the teacher of as many axes.

    Raises:
      ValueError: in ``init``, if neither map can be averaged to the size of the other.

    References:
      Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", 2019,
      https://arxiv.org/abs/1904.05835
    """

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_student, of_teacher = (shape[-1] for shape in check_taps(signals, student, teacher, poolable))
        widths = (of_student, of_teacher, of_teacher, of_teacher)
        params = {
            f"conv{i + 1}": draw_conv(one, 1, widths[i], widths[i + 1])
            for i, one in enumerate(jax.random.split(key, 3))
        }
        # What the softplus of the loss, and its 1e-5, make the first variance of.
        rho = math.log(math.expm1(_FIRST_VARIANCE - 1e-5))
        # Of a type of its own: a weak one would change in the first step, and compile the second anew.
        return {"params": params | {"raw_variance": jnp.full(of_teacher, rho, float)}}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params = variables["params"]
        of_student, of_teacher = pooled_alike(*valid_taps(signals, student, teacher), -1)
        x = jax.nn.relu(convolve(params["conv1"], of_student))
        predicted = convolve(params["conv3"], jax.nn.relu(convolve(params["conv2"], x)))
        values = losses.variational_information(predicted, of_teacher, params["raw_variance"])
        return {"vid": mean_over_examples(values, signals.batch)}, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)
