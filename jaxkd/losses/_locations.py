"""What the losses of detectors share: sums over the locations of an image, weighted and normalised."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd._checks import check_number, shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_floating
from jaxkd.losses._maps import spatial_shape
from jaxkd.losses._numerics import masked_sum


def check_weights(weights: ArrayLike | None, normalizer: ArrayLike | None, shape: Sequence[int]) -> None:
    """Raises ValueError unless there is a weight for each location, and a normaliser for each image or one for all."""
    batch, *locations = shape
    if weights is not None:
        check_floating("weights", weights)
        if jnp.shape(weights) != (batch, *locations):
            printed = ",".join(map(str, (batch, *locations)))
            raise ValueError(f"weights {shape_of(weights)}, locations [{printed}]: give one weight for each location")
        if not isinstance(weights, jax.core.Tracer) and np.any(np.asarray(weights) < 0):
            raise ValueError(f"weights {shape_of(weights)} go down to {np.nanmin(weights)}: they have to be at least 0")
    if normalizer is not None and jnp.shape(normalizer) not in ((), (batch,)):
        raise ValueError(f"normalizer {shape_of(normalizer)}, [{batch}] images: give one number, or one for each image")
    if normalizer is not None:
        check_number("normalizer", normalizer, above=0)


def check_shares(**shares: ArrayLike) -> None:
    """Raises ValueError unless the weights of the terms of a loss are one number each, at least 0 if known now."""
    for name, share in shares.items():
        check_number(name, share, within=(0, float("inf")))
        if jnp.ndim(share) != 0:
            raise ValueError(f"{name} {shape_of(share)}: it has to be a scalar, one for all images")


def check_cells(foreground: ArrayLike, x: ArrayLike, axis: int) -> None:
    """Raises ValueError unless it is a flag for each position of the map."""
    shape = (jnp.shape(x)[0], *spatial_shape(x, axis))
    if jnp.result_type(foreground) != jnp.bool_ or jnp.shape(foreground) != shape:
        raise ValueError(
            f"foreground {shape_of(foreground)} is {jnp.result_type(foreground)}, positions "
            f"[{','.join(map(str, shape))}]: give one boolean for each position"
        )


def absolute(x: jax.Array) -> jax.Array:
    """The absolute value, with gradient 0 at 0, where that of ``jnp.abs`` is 1."""
    return x * jnp.sign(x)


def over_locations(
    values: jax.Array, weights: ArrayLike | None, normalizer: ArrayLike | None, where: Where
) -> jax.Array:
    """Sum of weight x value over the locations [batch, *locations], divided by the normaliser or the sum of weights."""
    axes = tuple(range(1, values.ndim))
    if weights is not None:
        (weights,) = at_least_float32(jax.lax.stop_gradient(weights))
        if where is not None:
            weights = jnp.where(where, weights, 0)
        values = values * weights
    total = masked_sum(values, where, axes)
    if normalizer is not None:
        return total / jnp.asarray(normalizer, total.dtype)
    if weights is not None:
        normalizer = jnp.sum(weights, axes)
        positive = normalizer > 0
        return jnp.where(positive, total / jnp.where(positive, normalizer, 1), 0)
    if where is None:
        return total / (values.size // max(values.shape[0], 1))
    return total / jnp.maximum(jnp.sum(jnp.broadcast_to(where, values.shape), axes, dtype=total.dtype), 1)
