"""Checks of arguments that raise before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def shape_of(x: Any) -> str:
    """The shape of an array (or of a ``jax.ShapeDtypeStruct``) as the error messages print it: ``[64,10]``."""
    return "[" + ",".join(map(str, x.shape if hasattr(x, "shape") else np.shape(x))) + "]"


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    below: float | None = None,
    within: tuple[float, float] | None = None,
) -> None:
    """Raises unless it is a finite number in its range, or an array of them: TypeError for what is neither.

    Of traced values the type is all there is to check; schedules, and what else holds a number, pass unseen.
    A concrete ``jax.Array`` is waited for: nothing compiled ever is, and what is run eagerly waits for one number.
    """
    if callable(value) or hasattr(value, "__jax_array__"):
        return
    if not isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
        raise TypeError(f"{name} is a {type(value).__name__}, {value!r}: it has to be a number, or an array of them")
    dtype = jnp.result_type(value)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name} is {dtype}: it has to be a real number")
    if isinstance(value, jax.core.Tracer):
        return
    numbers = np.asarray(value)
    if above is not None:
        _check(numbers > above, name, value, f"be above {above}")
    if below is not None:
        _check(numbers < below, name, value, f"be below {below}")
    if within is not None:
        _check((numbers >= within[0]) & (numbers <= within[1]), name, value, f"lie in [{within[0]}, {within[1]}]")
    # Not of integers, which may be larger than NumPy's.
    if jnp.issubdtype(dtype, jnp.floating):
        _check(np.abs(numbers) < np.inf, name, value, "be finite")


def _check(holds: Any, name: str, value: Any, what: str) -> None:
    """Raises ValueError with the number, or the first of them, for which it does not hold."""
    if np.all(holds):
        return
    if np.ndim(value) == 0:
        raise ValueError(f"{name} is {value}: it has to {what}")
    first = np.asarray(value)[~np.asarray(holds)][0]
    raise ValueError(f"{name} {shape_of(value)} has {first} in it: it has to {what}")
