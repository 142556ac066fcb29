"""What the losses that relate the examples of a batch share: their features, which of them count, their products."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_floating, check_where
from jaxkd.losses._numerics import gathered


def check_batches(named: Sequence[tuple[str, ArrayLike]], where: Where) -> None:
    """Raises ValueError unless all are floats [batch, ...] of the same examples, and ``where`` has a flag for each."""
    for what, x in named:
        check_floating(what, x)
    sizes = {jnp.shape(x)[:1] for _, x in named}
    if len(sizes) > 1 or any(jnp.ndim(x) < 2 for _, x in named):
        shapes = ", ".join(f"{what} {shape_of(x)}" for what, x in named)
        raise ValueError(f"{shapes}: they have to be [batch, features] of the same examples, in the same order")
    check_where(where, sizes.pop(), "examples")


def global_batch(
    named: Sequence[tuple[str, ArrayLike]], where: Where, axis_name: str | None, *, least: int = 2
) -> tuple[list[jax.Array], jax.Array | None, ArrayLike]:
    """The features of the global batch, flattened, 0 where masked; its ``where``; and how many examples take part.

    Raises ValueError for a global batch of fewer than ``least`` examples: there is nothing to relate.
    """
    check_batches(named, where)
    arrays = [_on_all_devices(x) for x in at_least_float32(*(x for _, x in named))]
    arrays = [x.reshape(len(x), math.prod(x.shape[1:])) for x in arrays]
    if where is not None:
        where = jnp.broadcast_to(_on_all_devices(jnp.asarray(where)), arrays[0].shape[:1])
    *arrays, where = gathered(axis_name, *arrays, where)
    if len(arrays[0]) < least:
        what, x = named[0]
        size = ("no example", "one example", "two examples")[len(arrays[0])]
        raise ValueError(
            f"{what} {shape_of(x)}: {size}, and this loss relates {least} or more; give a larger batch (axis_name= for "
            "the examples of all devices)"
        )
    if where is None:
        return arrays, None, len(arrays[0])
    where = jnp.asarray(where)
    selected = [jnp.where(where[:, None], x, 0) for x in arrays]
    return selected, where, jnp.maximum(jnp.sum(where), 1).astype(arrays[0].dtype)


def _on_all_devices(x: jax.Array) -> jax.Array:
    """The array, which on a mesh of explicit axes becomes whole on every device: there no product may relate shards.

    On a mesh of automatic axes XLA moves by itself what it has to.
    """
    sharding = jax.typeof(x).sharding
    if all(axes is None for axes in sharding.spec):
        return x
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec()))


def pairs_of(where: jax.Array | None) -> jax.Array | None:
    """[batch, batch]: the pairs of examples that both take part."""
    return None if where is None else where[:, None] & where[None]


@jax.custom_jvp
def gram(x: jax.Array) -> jax.Array:
    """[batch, batch]: the products of all pairs of rows."""
    return jnp.matmul(x, x.T, precision="highest")


@gram.defjvp
def _gram_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Of the derivative's two products one is the other transposed, so that forward and backward one is enough.
    (x,), (dx,) = primals, tangents
    half = jnp.matmul(dx, x.T, precision="highest")
    return gram(x), half + half.T
