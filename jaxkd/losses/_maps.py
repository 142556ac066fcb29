"""What the losses on maps share: checks, axes, and pooling.

A map is [batch, *spatial, channels] with any number of spatial axes, tokens among them; ``axis`` says where the
channels are. A position is one place on all spatial axes.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd._checks import check_number, shape_of
from jaxkd.losses._arguments import ArrayLike, Where, check_axis, check_floating, check_same_shape, check_where


def spatial_axes(x: ArrayLike, axis: int) -> tuple[int, ...]:
    """The axes that are neither that of the examples nor that of the channels."""
    return tuple(i for i in range(1, jnp.ndim(x)) if i != axis % jnp.ndim(x))


def spatial_shape(x: ArrayLike, axis: int) -> tuple[int, ...]:
    """The sizes of the spatial axes."""
    return tuple(jnp.shape(x)[i] for i in spatial_axes(x, axis))


def check_map(what: str, x: ArrayLike, axis: int) -> None:
    """Raises ValueError unless it is a floating-point array with axes of its own for examples and channels."""
    check_floating(what, x)
    check_axis(what, x, axis)
    if jnp.ndim(x) < 2 or axis % jnp.ndim(x) == 0:
        raise ValueError(
            f"{what} {shape_of(x)} with channels on axis {axis}: it has to be [batch, *spatial, channels], "
            "or axis= to say where its channels are, not on the axis 0 of the examples"
        )


def check_same_maps(
    student: ArrayLike,
    teacher: ArrayLike,
    axis: int,
    where: Where,
    what: str = "map",
    cure: str = "add a connector that brings the student's to the teacher's shape",
) -> None:
    """Raises ValueError unless both are maps of one shape that ``where`` fits. ``what`` they are called in errors."""
    check_map(f"student {what}", student, axis)
    check_map(f"teacher {what}", teacher, axis)
    check_same_shape(what, student, teacher, cure)
    check_positions_mask(student, axis, where)


def check_map_pair(student: ArrayLike, teacher: ArrayLike, axis: int, where: Where) -> None:
    """Raises ValueError unless both are maps of as many examples, of sizes of which one can be pooled to the other."""
    check_map("student map", student, axis)
    check_map("teacher map", teacher, axis)
    check_poolable("student map", student, "teacher map", teacher, axis, where)
    check_positions_mask(student, axis, where)


def check_poolable(one: str, x: ArrayLike, other: str, y: ArrayLike, axis: int, where: Where) -> None:
    """Raises ValueError unless the larger of two maps can be pooled to the other's size, their channels apart."""
    shapes = f"{one} {shape_of(x)}, {other} {shape_of(y)}"
    if jnp.ndim(x) != jnp.ndim(y) or jnp.shape(x)[0] != jnp.shape(y)[0]:
        raise ValueError(f"{shapes}: they have to be of the same examples, with as many spatial axes")
    sizes = spatial_shape(x, axis), spatial_shape(y, axis)
    if where is not None and sizes[0] != sizes[1]:
        raise ValueError(f"{shapes}: where= needs maps of one size, resize one and its mask first")
    smaller = tuple(map(min, *sizes))
    if smaller not in sizes:
        raise ValueError(f"{shapes}: neither is the larger one on all spatial axes, resize one first")


def check_channels(what: str, of_channels: ArrayLike, x: ArrayLike, axis: int) -> None:
    """Raises ValueError unless it is a floating-point number for every channel of the map."""
    check_floating(what, of_channels)
    if jnp.shape(of_channels) != (jnp.shape(x)[axis],):
        raise ValueError(f"{what} {shape_of(of_channels)}, map {shape_of(x)}: one number for each of its channels")


def check_positions_mask(x: ArrayLike, axis: int, where: Where) -> None:
    """Raises ValueError unless ``where`` fits the positions of the map."""
    check_mask(where, (jnp.shape(x)[0], *spatial_shape(x, axis)), "positions")


def check_mask(where: Where, shape: Sequence[int], over: str) -> None:
    """Raises ValueError unless ``where`` broadcasts to ``shape``, that of what ``over`` names, with as many axes.

    With fewer, NumPy's rules would take flags of the examples for flags of the last axis, wherever sizes agree.
    """
    if where is not None and jnp.ndim(where) != len(shape):
        axes = "".join(", None" for _ in shape[1:])
        cure = f": flags of whole examples are where[:{axes}]" if jnp.ndim(where) == 1 else ""
        raise ValueError(
            f"where {shape_of(where)}, {over} [{','.join(map(str, shape))}]: it has to have as many axes, of size 1 "
            f"where a flag is shared{cure}"
        )
    check_where(where, shape, over)


def of_examples(where: Where, x: ArrayLike, axis: int) -> Where:
    """Flags of examples, [batch], as flags of all their positions; those of positions as they are, if they fit."""
    if where is None or jnp.ndim(where) != 1:
        check_positions_mask(x, axis, where)
        return where
    check_where(where, jnp.shape(x)[:1], "examples")
    return jnp.reshape(where, (-1, *(1 for _ in spatial_axes(x, axis))))


def check_many_positions(student: ArrayLike, teacher: ArrayLike, axis: int) -> None:
    """Raises ValueError if a map has one position: a normalisation over positions makes it constant."""
    check_normalizable({"student map": student, "teacher map": teacher}, axis)


def check_normalizable(maps: Mapping[str, ArrayLike], axis: int) -> None:
    """Raises ValueError if one of the named maps has a single position."""
    if min(math.prod(spatial_shape(x, axis)) for x in maps.values()) < 2:
        named = ", ".join(f"{what} {shape_of(x)}" for what, x in maps.items())
        raise ValueError(
            f"{named}: of a map of one position nothing is left once it is normalised over positions; "
            "take an earlier layer, or a loss on vectors"
        )


def check_positive_scalar(name: str, value: ArrayLike) -> None:
    """Raises ValueError unless it is one number for all examples, above 0 if it is known now."""
    check_number(name, value, above=0)
    if jnp.ndim(value) != 0:
        raise ValueError(f"{name} {shape_of(value)}: it has to be a scalar, one for all examples")


def mask_of(where: Where, x: jax.Array, axis: int) -> jax.Array | None:
    """``where``, of positions, as a mask [batch, *spatial] with a 1 on the axis of the channels. None stays None."""
    if where is None:
        return None
    positions = jnp.broadcast_to(where, (x.shape[0], *spatial_shape(x, axis)))
    return jnp.expand_dims(positions, axis % x.ndim)


def per_channel(of_channels: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """Numbers [channels] with axes of size 1 around, so that they broadcast against the map."""
    return of_channels.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def selected(mask: Where, *maps: jax.Array) -> list[jax.Array]:
    """The maps with 0 for what the mask leaves out: before anything is computed, so that it reaches no gradient."""
    return list(maps) if mask is None else [jnp.where(mask, x, 0) for x in maps]


def flattened(x: jax.Array, axis: int) -> tuple[jax.Array, int]:
    """The map as [batch, positions, channels] or [batch, channels, positions], and the axis of the positions.

    Whichever takes no transposition, if one does.
    """
    axis = axis % x.ndim
    if axis == 1 and x.ndim > 2:
        return x.reshape(*x.shape[:2], -1), 2
    x = jnp.moveaxis(x, axis, -1)
    return x.reshape(x.shape[0], -1, x.shape[-1]), 1


def products(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """Of two batches of matrices, the products of all rows or columns: summed over ``axis``."""
    return jax.lax.dot_general(x, y, (((axis,), (axis,)), ((0,), (0,))), precision="highest")


def adaptive_average_pool(x: jax.Array, axes: tuple[int, ...], sizes: tuple[int, ...]) -> jax.Array:
    """Average pooling of ``axes`` to ``sizes``: what torch's adaptive average pooling computes.

    Of n elements, bin i of l averages those from floor(i n / l) up to ceil((i + 1) n / l): bins overlap where l does
    not divide n.
    """
    if all(x.shape[a] % l == 0 for a, l in zip(axes, sizes, strict=True)):
        wanted = dict(zip(axes, sizes, strict=True))
        split: list[int] = []
        inner: list[int] = []
        for a, n in enumerate(x.shape):
            split.append(wanted.get(a, n))
            if a in wanted and wanted[a] != n:
                inner.append(len(split))
                split.append(n // wanted[a])
        return jnp.mean(x.reshape(split), tuple(inner)) if inner else x
    for a, l in zip(axes, sizes, strict=True):
        weights = jnp.asarray(adaptive_bins(x.shape[a], l).T, x.dtype)
        x = jnp.moveaxis(jnp.tensordot(x, weights, (a, 0), precision="highest"), -1, a)
    return x


def adaptive_bins(n: int, l: int) -> np.ndarray:
    """The weights [l, n] of ``adaptive_average_pool``: of n elements, the mean over each of l bins."""
    edges = np.arange(l + 1) * n
    at = np.arange(n)
    inside = (at >= edges[:-1, None] // l) & (at < -(-edges[1:, None] // l))
    return inside / np.sum(inside, 1, keepdims=True)


def pooled_alike(student: jax.Array, teacher: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Both maps, the larger one averaged to the size of the other."""
    axes = spatial_axes(student, axis)
    smaller = tuple(map(min, spatial_shape(student, axis), spatial_shape(teacher, axis)))
    return adaptive_average_pool(student, axes, smaller), adaptive_average_pool(teacher, axes, smaller)
