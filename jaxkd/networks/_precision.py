"""Computing in another precision than parameters are kept in."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables

# What a batch carries for the loss and not for the model; mixed labels are floating, but stay exact.
_NOT_INPUTS = ("label", "where", "index")


def mixed_precision(network: Network, dtype: Any = jnp.bfloat16) -> Network:
    """Runs a network's forward and backward passes in ``dtype`` while parameters and results stay in float32.

    Floating ``"params"`` and the batch's floating inputs are cast on the way in, logits and taps to at least float32 on
    the way out (float64 stays). Other collections are passed as they are and come back in the dtype they had, so that
    BatchNorm's running statistics stay float32. The gradient has the parameters' own dtype.

    What a layer makes of low parameters and float32 statistics is its own affair: Linen's BatchNorm returns ``dtype``,
    NNX's float32, and so do the layers behind it, unless it is made with ``nnx.BatchNorm(..., dtype=dtype)``.

    Args:
      network: the network to run.
      dtype: a floating dtype, usually ``jnp.bfloat16``.

    Returns:
      A network with the same variables and taps.

    Raises:
      TypeError: if ``dtype`` is not floating.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype {dtype} is not floating: use jnp.bfloat16, for one")

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        lowered = {**variables, "params": _cast(variables.get("params", {}), dtype)}
        inputs = {key: value if key in _NOT_INPUTS else _cast(value, dtype) for key, value in batch.items()}
        outputs, updated = network.apply(lowered, inputs, train=train, rng=rng, taps=taps)
        kept = {name: _like(collection, variables.get(name)) for name, collection in updated.items()}
        return _widen(outputs), kept

    def head(variables: Variables, features: jax.Array) -> PyTree:
        assert network.head is not None
        lowered = {**variables, "params": _cast(variables.get("params", {}), dtype)}
        return _widen(network.head(lowered, _cast(features, dtype)))

    return network._replace(apply=apply, head=None if network.head is None else head)


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if _is_floating(x) else x, tree)


def _widen(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)) if _is_floating(x) else x, tree)


def _like(collection: PyTree, before: PyTree) -> PyTree:
    """Casts an updated collection to the dtypes it had; a collection that is new stays as it is."""
    structure: Any = jax.tree.structure(before)
    if structure != jax.tree.structure(collection):
        return collection
    return jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), collection, before)
