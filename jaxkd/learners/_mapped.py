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


def average(collections: Variables, axis_name: str | None) -> Variables:
    """A network's collections, the same on all devices again: floating statistics (BatchNorm) are averaged.

    Counters are equal already.
    """
    if axis_name is None:
        return collections

    def closed(x: jax.Array) -> jax.Array:
        return jax.lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.floating) else _maximum(x, axis_name)

    return jax.tree.map(closed, collections)


def identical(collections: Variables, axis_name: str | None) -> Variables:
    """What an objective wrote, which is the same on all devices, in the compiler's eyes too.

    The compiler knows it of what was computed from sums over devices (psum), and such a collection is left alone, large
    as it may be. Of what was gathered (all_gather) it does not: the maximum of equal values says so, bit for bit.
    """
    if axis_name is None:
        return collections
    return jax.tree.map(lambda x: _maximum(x, axis_name) if _varies(x, axis_name) else x, collections)


def _varies(x: jax.Array, axis_name: str) -> bool:
    """Whether the compiler takes x to differ from device to device (under pmap it does not ask)."""
    try:
        jax.lax.pcast(x, axis_name, to="varying")
    except ValueError:
        return True
    return False


def _maximum(x: jax.Array, axis_name: str) -> jax.Array:
    if x.dtype == bool:
        return _maximum(x.astype(jnp.uint8), axis_name).astype(bool)
    return jax.lax.pmax(x, axis_name)


def example_positions(batch: Batch, axis_name: str | None) -> jax.Array:
    """The positions of this device's examples in the global batch, int32 [batch]."""
    size = jax.tree.leaves(batch)[0].shape[0]
    start = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
    return start + jnp.arange(size)
