"""Masked generative distillation: what is left of the student's map has to do for the teacher's whole map."""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number
from jaxkd.networks import Variables
from jaxkd.objectives._common import mean_over_examples
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps, convolve, draw_conv, example_keys, valid_taps


def masked_generative(
    student: str, teacher: str, *, mask: Literal["positions", "channels"] = "positions", share: float = 0.65
) -> Objective:
    """MGD: a generator makes the teacher's map from the student's, of which a random part is set to zero.

    L = sum over positions and channels of (G(M A(s)) - t)^2, its mean over examples. A is a 1x1 convolution, and
    nothing where the widths are equal; M is 0 with probability ``share``, drawn anew for every example and step, and 1
    otherwise: one number for a position, or for a channel; G is a 3x3 convolution, a ReLU, a 3x3 convolution. The
    teacher's map is not masked.

    Published weights: detection, ``mask="positions"``: 2e-5 and share 0.65 (one stage), 5e-7 and 0.45 (two stages), for
    each level of the feature pyramid; classification, ``mask="channels"``: 7e-5 and share 0.15; all beside the task's
    own loss of weight 1.

    Args:
      student: a tap of the student, [batch, height, width, channels].
      teacher: a tap of the teacher of the same height and width.
      mask: what is dropped as one: the channels of a position, or the positions of a channel.
      share: the probability to be dropped, in [0, 1): of what is wholly masked nothing can be made.

    Raises:
      ValueError: if ``mask`` or ``share`` is out of range; in ``init``: if the maps do not have one size.

    References:
      Yang, Li, Shao, Shi, Yuan, Yuan, "Masked Generative Distillation", 2022, https://arxiv.org/abs/2205.01529
    """
    check_number("share", share, within=(0, 1))
    check_number("the share that is kept, 1 - share,", 1 - share, above=0)
    if mask not in ("positions", "channels"):
        raise ValueError(f'mask={mask!r}: there are "positions" and "channels"')

    def cure(of_student: tuple[int, ...], of_teacher: tuple[int, ...]) -> str | None:
        if len(of_student) != 4 or of_student[:-1] != of_teacher[:-1]:
            return "the generator takes maps [batch, height, width, channels] of one size: tap layers that agree in it"
        return None

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_student, of_teacher = (shape[-1] for shape in check_taps(signals, student, teacher, cure))
        keys = jax.random.split(key, 3)
        params = {f"conv{i + 1}": draw_conv(keys[i], 3, of_teacher, of_teacher, bias=True) for i in (0, 1)}
        if of_student != of_teacher:
            params["align"] = draw_conv(keys[2], 1, of_student, of_teacher, bias=True)
        return {"params": params}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params = variables["params"]
        of_student, of_teacher = valid_taps(signals, student, teacher)
        aligned = convolve(params["align"], of_student) if "align" in params else of_student
        batch, height, width, channels = aligned.shape
        shape = (height, width, 1) if mask == "positions" else (1, 1, channels)
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - share, shape))(example_keys(signals, batch))
        generated = convolve(params["conv1"], jnp.where(kept, aligned, 0))
        generated = convolve(params["conv2"], jax.nn.relu(generated))
        values = losses.hint(generated, of_teacher, axis=(1, 2, 3)) * math.prod(of_teacher.shape[1:])
        return {"masked_generative": mean_over_examples(values, signals.batch)}, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)
