"""A network's logits for a whole split."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd.networks import Batch, Network, PyTree, Variables


class Batches(Protocol):
    """Every example once, in batches of one size: what ``jaxkd.data.padded_batches`` gives."""

    @property
    def source(self) -> PyTree:
        """What sits on the device for all batches."""

    @property
    def steps(self) -> int:
        """How many batches there are."""

    def chunk(self, start: int, length: int) -> PyTree:
        """What ``length`` batches need beyond the source, stacked on a leading axis."""

    def fetch(self, source: PyTree, x: PyTree) -> Batch:
        """One batch, of one element of a chunk; pure jnp. ``"where"``, bool [batch], is False for padding."""


@dataclasses.dataclass(frozen=True)
class _OnDevice:
    """Batches that are on the device, or on their way to it."""

    source: PyTree
    steps: int
    fetch: Callable[..., Batch]
    chunk: Callable[[int, int], PyTree]


def on_device(batches: Batches, mesh: Mesh | None = None) -> Batches:
    """Gives the same batches with their source on the device: for a split that is predicted again and again.

    Args:
      batches: what ``jaxkd.data.padded_batches`` gives.
      mesh: devices that share every batch, if they divide it; those that the variables are on. By default one.

    Returns:
      Batches for `predict` and `predict_labelled`, which otherwise copy the source at each call.
    """
    if mesh is None:
        return _OnDevice(jax.device_put(batches.source), batches.steps, batches.fetch, batches.chunk)
    whole = NamedSharding(mesh, P())
    split = NamedSharding(mesh, P(None, mesh.axis_names))

    def chunk(start: int, length: int) -> PyTree:
        xs = batches.chunk(start, length)
        divides = all(x.shape[1] % mesh.size == 0 for x in jax.tree.leaves(xs))
        return jax.device_put(xs, split if divides else whole)

    return _OnDevice(jax.device_put(batches.source, whole), batches.steps, batches.fetch, chunk)


def predict(network: Network, variables: Variables, batches: Batches) -> np.ndarray:
    """Gives a network's logits (``train=False``) for every example of a split, in order, without the padding.

    Every batch has one shape, so one program is compiled; it is kept for the next call with this network and these
    batches. The batch has to be the last axis but one of the logits, so that a network whose ``apply`` maps over
    stacked variables works as well, and gives [seeds, examples, classes].

    Args:
      network: gives one array of logits [..., batch, classes].
      variables: the network's.
      batches: every example once, as ``jaxkd.data.padded_batches`` gives them.

    Returns:
      [..., examples, classes].

    Raises:
      ValueError: if the logits are not one such array, or there is no batch.
    """
    return predict_labelled(network, variables, batches)[0]


def predict_labelled(network: Network, variables: Variables, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """Gives what `predict` gives and, of the same pass over the data, the labels.

    Args:
      network: gives one array of logits [..., batch, classes].
      variables: the network's.
      batches: every example once, as ``jaxkd.data.padded_batches`` gives them.

    Returns:
      Logits [..., examples, classes] and labels [examples]; -1 for every example if the batches have no ``"label"``.

    Raises:
      ValueError: if the logits are not one such array, or there is no batch.
    """
    if not isinstance(batches, _OnDevice):
        batches = on_device(batches)
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    pending: tuple[jax.Array, ...] = ()
    for step in range(batches.steps):
        # One batch ahead of the copy to the host: the device does not wait for it, and holds no more than two results.
        current = _forward(network.apply, batches.fetch, variables, batches.source, batches.chunk(step, 1))
        if pending:
            rows.append(_without_padding(*pending))
        pending = current
    if not pending:
        raise ValueError("batches has no step: there is no example to evaluate on")
    rows.append(_without_padding(*pending))
    return np.concatenate([logits for logits, _ in rows], axis=-2), np.concatenate([labels for _, labels in rows])


# At module level, so that JAX finds the compiled program again: the two functions are the key.
@functools.partial(jax.jit, static_argnames=("apply", "fetch"))
def _forward(
    apply: Callable[..., Any], fetch: Callable[..., Batch], variables: Variables, source: PyTree, chunk: PyTree
) -> tuple[jax.Array, jax.Array, jax.Array]:
    batch = fetch(source, jax.tree.map(lambda x: x[0], chunk))
    where = batch["where"]
    logits = apply(variables, batch, train=False)[0].logits
    if not isinstance(logits, jax.Array) or logits.ndim < 2 or logits.shape[-2] != where.shape[0]:
        raise ValueError(
            f"logits {jax.tree.map(lambda x: list(x.shape), logits)} of a batch of {where.shape[0]}: "
            "predict needs one array [..., batch, classes]"
        )
    return logits, batch.get("label", jnp.full(where.shape, -1)), where


def _without_padding(logits: jax.Array, labels: jax.Array, where: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    valid = _on_host(where)
    return _on_host(logits)[..., valid, :], _on_host(labels)[valid]


def _on_host(x: jax.Array) -> np.ndarray:
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))  # a part of it is another process's
