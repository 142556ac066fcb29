"""Memories by the example's position in the data set: how they are read and written, the same on 1 device and on 8."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of


def check_index(objective: str, batch: Mapping[str, Any], examples: int) -> None:
    """Raises ValueError unless ``batch["index"]`` gives each example's position in the data set."""
    if "index" not in batch:
        raise ValueError(
            f'{objective} needs batch["index"], the positions of the examples in the data set; the batch holds '
            f"{sorted(batch)}"
        )
    index = batch["index"]
    if index.shape != (examples,) or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            f'{objective}: batch["index"] {shape_of(index)} is {index.dtype}, for a batch of {examples} examples: it '
            f"has to be integers [{examples}], one position in the data set for each"
        )


def valid_examples(batch: Mapping[str, Any], size: int) -> jax.Array:
    """Bool [batch]: False for padding."""
    where = batch.get("where")
    return jnp.ones(size, bool) if where is None else where


def global_positions(size: int, axis_name: str | None) -> jax.Array:
    """The positions of this device's ``size`` examples in the global batch, int32 [size]."""
    start = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
    return start + jnp.arange(size)


def gather(axis_name: str | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays [batch, ...] of the global batch, without gradient.

    They are put together by a sum in which each device has zeros in the others' places: of a sum the compiler knows
    that it is the same on all devices, and so is a memory it is written to; of an ``all_gather`` it does not.
    """
    arrays = jax.lax.stop_gradient(arrays)
    if axis_name is None:
        return arrays
    devices, own = jax.lax.axis_size(axis_name), jax.lax.axis_index(axis_name)

    def one(x: jax.Array) -> jax.Array:
        if x.dtype == bool:
            return one(x.astype(jnp.uint8)).astype(bool)
        places = jnp.zeros((devices, *x.shape), x.dtype).at[own].set(x)
        return jax.lax.psum(places, axis_name).reshape(-1, *x.shape[1:])

    return tuple(map(one, arrays))


def read(memory: jax.Array, index: jax.Array) -> jax.Array:
    """The rows [batch, ...] at these positions; NaN for a position out of range, which is an error, not another row."""
    # Below 0 would count from the end.
    index = jnp.where(index < 0, memory.shape[0], index)
    return memory.at[index].get(mode="fill", fill_value=jnp.nan)


def write(memory: jax.Array, index: jax.Array, rows: jax.Array, valid: jax.Array) -> jax.Array:
    """The memory with the rows of the valid examples of the global batch at their positions.

    An example may be twice in a batch that reaches over the border of two epochs: the last one stays. What a scatter
    with equal positions keeps is not defined, and would differ from device to device.
    """
    out_of_range = memory.shape[0]
    index = jnp.where(valid & (index >= 0), index, out_of_range)
    order = jnp.argsort(index, stable=True)
    ordered = index[order]
    last = jnp.concatenate([ordered[1:] != ordered[:-1], jnp.ones(1, bool)])
    ordered = jnp.where(last, ordered, out_of_range)
    return memory.at[ordered].set(jax.lax.stop_gradient(rows[order]).astype(memory.dtype), mode="drop")
