"""Arithmetic that the losses share: means, norms and softmaxes that stay finite under masks and at zero."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.losses._arguments import Axis, Where


def masked_sum(x: jax.Array, where: Where, axis: Axis, keepdims: bool = False) -> jax.Array:
    """The sum over ``axis`` of the elements where ``where`` holds; the others may be NaN, and get no gradient."""
    return jnp.sum(x if where is None else jnp.where(where, x, 0), axis, keepdims=keepdims)


def masked_mean(x: jax.Array, where: Where, axis: Axis, keepdims: bool = False) -> jax.Array:
    """The mean over ``axis`` of the elements where ``where`` holds; 0 where none does.

    What is summed has to be finite under the mask for its gradient's sake: select the inputs, not only their function.
    """
    if where is None:
        return jnp.mean(x, axis, keepdims=keepdims)
    count = jnp.sum(jnp.broadcast_to(where, x.shape), axis, keepdims=keepdims)
    total = masked_sum(x, where, axis, keepdims)
    return total / jnp.maximum(count, 1).astype(total.dtype)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root, with gradient 0 instead of infinity at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_norm(x: jax.Array, axis: Axis, keepdims: bool = False) -> jax.Array:
    """The L2 norm over ``axis``, with gradient 0 instead of NaN where all is 0."""
    return safe_sqrt(jnp.sum(jnp.square(x), axis, keepdims=keepdims))


def l2_normalize(x: jax.Array, axis: Axis, eps: float = 1e-12) -> jax.Array:
    """Computes x / max(its L2 norm over ``axis``, eps): what torch's ``F.normalize`` computes. Zeros stay zeros."""
    return x / jnp.maximum(safe_norm(x, axis, keepdims=True), eps)


def gathered(axis_name: str | None, *arrays: Any) -> list[Any]:
    """The arrays with the examples of all devices along axis 0: of a mapped axis the global batch. None stays None."""
    if axis_name is None:
        return list(arrays)
    return [None if x is None else jax.lax.all_gather(x, axis_name, axis=0, tiled=True) for x in arrays]


def selected_logits(logits: jax.Array, where: Where) -> jax.Array:
    """The logits where ``where`` holds, and elsewhere the lowest number: of a softmax 0, but finite in its gradient."""
    return logits if where is None else jnp.where(where, logits, jnp.finfo(logits.dtype).min)


def log_softmax(logits: jax.Array, axis: int, where: Where) -> jax.Array:
    """Log-softmax over the elements where ``where`` holds.

    The others come out as a huge negative number rather than -inf, and a row with nothing valid as a constant: finite,
    so that no gradient turns into NaN; whoever sums has to leave them out.
    """
    return jax.nn.log_softmax(selected_logits(logits, where), axis)


def with_axis(axis: int, value: jax.Array) -> jax.Array:
    """A scalar as it is; numbers of examples with ``axis`` put back, so that they broadcast against the logits."""
    return value if value.ndim == 0 else jnp.expand_dims(value, axis)
