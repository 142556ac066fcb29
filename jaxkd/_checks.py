"""Checks of arguments that raise before anything is compiled."""

from typing import Any

import jax
import numpy as np


def shape_of(x: Any) -> str:
    """The shape of an array (or of a ``jax.ShapeDtypeStruct``) as the error messages print it: ``[64,10]``."""
    return "[" + ",".join(map(str, x.shape if hasattr(x, "shape") else np.shape(x))) + "]"


def check_number(
    name: str, value: Any, *, above: float | None = None, within: tuple[float, float] | None = None
) -> None:
    """Raises ValueError if a number known now is out of its range; traced values and schedules pass unseen.

    A concrete ``jax.Array`` is waited for: nothing compiled ever is, and what is run eagerly waits for one number.
    """
    if isinstance(value, jax.core.Tracer) or not isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
        return
    if above is not None and not np.all(np.asarray(value) > above):
        raise ValueError(f"{name} is {value}: it has to be above {above}")
    if within is not None and not np.all((np.asarray(value) >= within[0]) & (np.asarray(value) <= within[1])):
        raise ValueError(f"{name} is {value}: it has to lie in [{within[0]}, {within[1]}]")
