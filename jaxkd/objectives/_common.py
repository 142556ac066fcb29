"""What the objectives share: numbers that may follow a schedule, means over valid examples."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.objectives._objective import Objective, Signals, Taps, Term

Schedule = Callable[[jax.Array], jax.Array]
Number = float | jax.Array | Schedule
"""A constant, a schedule of the step, or a traced array (what ``sweep`` passes)."""


def value_at(number: Number, step: jax.Array) -> Any:
    """The number at this step."""
    return number(step) if callable(number) else number


def one_minus(number: Number) -> Schedule:
    """The schedule of 1 - the number: the weight of what shares a whole with another term."""
    return lambda step: 1 - jnp.asarray(value_at(number, step))


def without_padding(x: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
    """``x`` [batch, ...] with zeros for the examples of which ``batch["where"]`` (if it is there) is False.

    What padding holds may be anything. Left out of the sum only, it would still reach the gradient: 0 times NaN is NaN.
    """
    where = batch.get("where")
    return x if where is None else jnp.where(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), x, 0)


def mean_over_examples(values: jax.Array, batch: Mapping[str, Any], valid: jax.Array | None = None) -> Term:
    """The term that is the mean of ``values`` [batch, ...] over valid examples.

    Valid are those for which ``batch["where"]`` (if it is there) and ``valid`` [batch, ...] (if given) hold; what the
    others have is left out, be it NaN. For their gradient see ``without_padding``.
    """
    mask = jnp.ones(values.shape, bool)
    for condition in (batch.get("where"), valid):
        if condition is not None:
            mask &= condition.reshape(condition.shape + (1,) * (values.ndim - condition.ndim))
    return Term(1.0, jnp.sum(jnp.where(mask, values, 0)), jnp.sum(mask, dtype=values.dtype))


def without_parameters(
    taps: Taps, name: str, term: Callable[[Signals], Term], check: Callable | None = None
) -> Objective:
    """An objective of one term and no variables. ``check(signals of shapes)`` raises on what cannot fit."""

    def init(key: jax.Array, signals: Signals) -> dict:
        del key
        if check is not None:
            check(signals)
        return {}

    return Objective(taps, init, lambda variables, signals: ({name: term(signals)}, {}, {}))
