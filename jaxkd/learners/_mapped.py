"""The few places where a step knows that it runs on one device of several (pmap, shard_map); no-ops without an axis."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxkd.networks import Batch, Variables

T = TypeVar("T")


def vary(tree: T, axis_name: str | None) -> T:
    """Marks what is the same on all devices as free to differ.

    Without the mark, the gradient of a replicated input is summed over devices by itself, and once more by the learner.
    """
    if axis_name is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.pcast(x, axis_name, to="varying"), tree)


def global_sum(tree: T, axis_name: str | None) -> T:
    """The sum over devices."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def close(collections: dict[str, Variables], axis_name: str | None) -> dict[str, Variables]:
    """Makes collections the same on all devices again: ``{"student": ..., "objective": ...}``.

    A network's floating statistics (BatchNorm) are averaged. Counters are equal already, and so is what an objective
    wrote, for it gathers before it writes: their maximum only says so to the compiler, bit for bit.
    """
    if axis_name is None:
        return collections

    def average(x: jax.Array) -> jax.Array:
        return jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.floating) else identical(x)

    def identical(x: jax.Array) -> jax.Array:
        if x.dtype == bool:
            return identical(x.astype(jnp.uint8)).astype(bool)
        return jax.lax.pmax(x, axis_name)

    return {
        "student": jax.tree.map(average, collections["student"]),
        "objective": jax.tree.map(identical, collections["objective"]),
    }


def example_positions(batch: Batch, axis_name: str | None) -> jax.Array:
    """The positions of this device's examples in the global batch, int32 [batch]."""
    size = jax.tree.leaves(batch)[0].shape[0]
    start = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
    return start + jnp.arange(size)
