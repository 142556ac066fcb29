"""A method's own term beside hard and soft labels, and weights that grow."""

import math

import jax
import jax.numpy as jnp

from jaxkd import objectives
from jaxkd._checks import check_number
from jaxkd.objectives import Number, Objective


def beside(
    name: str, weight: Number, own: Objective, hard: Number, soft: Number = 0.0, temperature: Number = 4.0
) -> Objective:
    """``weight`` times a method's own objective, beside ``hard`` times cross-entropy and ``soft`` times soft labels.

    Labels that count nothing (the number 0) are left out, so that they need not be there. The own term never is.

    Raises:
      ValueError: if a weight is a number below 0.
    """
    for what, number in (("weight", weight), ("hard", hard), ("soft", soft)):
        check_number(what, number, within=(0, math.inf))
    terms: dict[str, tuple[Number, Objective]] = {}
    if not _is_zero(hard):
        terms["hard"] = (hard, objectives.hard_label())
    if not _is_zero(soft):
        terms["soft"] = (soft, objectives.soft_label(temperature))
    return objectives.weighted_sum(**terms, **{name: (weight, own)})


def after_warmup(weight: Number, warmup: float, steps_per_epoch: float) -> Number:
    """The weight, growing in proportion to the epoch over the first ``warmup`` of them; the first one is epoch 1.

    Raises:
      ValueError: if a number is out of range.
    """
    check_number("warmup", warmup, within=(0, math.inf))
    check_number("steps_per_epoch", steps_per_epoch, above=0)
    if warmup == 0:
        return weight
    return lambda step: jnp.minimum((step // steps_per_epoch + 1) / warmup, 1) * objectives.value_at(weight, step)


def after_rampup(weight: Number, rampup: float, steps_per_epoch: float) -> Number:
    """The weight times exp(-5 (1 - epoch / rampup)^2) in the first ``rampup`` epochs; the first one is epoch 0.

    Raises:
      ValueError: if a number is out of range.
    """
    check_number("rampup", rampup, within=(0, math.inf))
    check_number("steps_per_epoch", steps_per_epoch, above=0)
    if rampup == 0:
        return weight

    def grown(step: jax.Array) -> jax.Array:
        left = 1 - jnp.minimum(step // steps_per_epoch, rampup) / rampup
        return jnp.exp(-5 * left**2) * objectives.value_at(weight, step)

    return grown


def _is_zero(number: Number) -> bool:
    return isinstance(number, int | float) and number == 0
