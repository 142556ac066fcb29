"""Layers of the parts that are trained in an objective and not deployed: they keep no running statistics."""

import jax
import jax.numpy as jnp

from jaxkd.networks import Batch, PyTree
from jaxkd.objectives._memory import valid_examples

_EPS = 1e-5


def linear(key: jax.Array, inputs: int, outputs: int) -> PyTree:
    """Parameters of a linear map with bias."""
    return {"kernel": jax.nn.initializers.lecun_normal()(key, (inputs, outputs)), "bias": jnp.zeros(outputs)}


def norm(features: int) -> PyTree:
    """Parameters of ``batch_norm``."""
    return {"scale": jnp.ones(features), "bias": jnp.zeros(features)}


def batch_norm(params: PyTree, x: jax.Array, batch: Batch, axis_name: str | None) -> jax.Array:
    """BatchNorm in training mode of [batch, ..., features]: statistics of the valid examples of the global batch."""
    mean, var, _ = moments(x, batch, axis_name)
    return standardize(params, x, mean, var)


def moments(x: jax.Array, batch: Batch, axis_name: str | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and biased variance of each feature, as ``batch_norm`` takes them, and of how many values they are."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    where = valid_examples(batch, x.shape[0]).reshape(-1, *(1,) * (x.ndim - 1))
    axes = tuple(range(x.ndim - 1))

    def total(of_device: jax.Array) -> jax.Array:
        return of_device if axis_name is None else jax.lax.psum(of_device, axis_name)

    count = jnp.maximum(total(jnp.sum(jnp.broadcast_to(where, (*x.shape[:-1], 1)), dtype=x.dtype)), 1)
    mean = total(jnp.sum(jnp.where(where, x, 0), axes)) / count
    return mean, total(jnp.sum(jnp.where(where, jnp.square(x - mean), 0), axes)) / count, count


def standardize(params: PyTree, x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
    """(x - mean) / sqrt(var), by feature, then scaled and shifted by the parameters."""
    return (x - mean) * jax.lax.rsqrt(var + _EPS) * params["scale"] + params["bias"]
