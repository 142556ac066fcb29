"""What is exported: a network with its weights, as a function of arrays."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd.networks import Network, Variables

BATCH = "b"
"""The name of the batch's size in shapes, where it is left open."""


class ExportError(Exception):
    """What was written is not the program that was to be written; the message says how so, and nothing is left."""


class Program(NamedTuple):
    """A network with its weights.

    Attributes:
      forward: ``(*inputs) -> logits``, on the CPU: the weights are its constants.
      variables: the weights, on the CPU.
      names: of the inputs, in order.
      example: of the inputs, real ones: [n, ...] each.
      logits: of the example, [n, ...]: what the file has to give.
      config: what is known of it, as JSON can hold it.
    """

    forward: Callable[..., jax.Array]
    variables: Variables
    names: tuple[str, ...]
    example: tuple[np.ndarray, ...]
    logits: np.ndarray
    config: Mapping[str, Any]

    def head(self, n: int) -> tuple[np.ndarray, ...]:
        """The first ``n`` of the example's inputs."""
        return tuple(x[:n] for x in self.example)


def program(network: Network, variables: Variables, example: Mapping[str, Any], config: Mapping[str, Any]) -> Program:
    """Makes the program, and runs it on its example.

    Raises:
      ValueError: the example is not of two or more, the logits are no array or not finite, the config is no JSON, or
        JAX was told to leave out the CPU.
    """
    json.dumps(dict(config), allow_nan=False)
    names = tuple(sorted(example))
    inputs = tuple(np.asarray(example[name]) for name in names)
    sizes = {len(x) for x in inputs}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(f"example has inputs of lengths {sorted(sizes)}: it has to be one length, of 2 or more")
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise ValueError(f"an export is checked on the CPU, which JAX has not: JAX_PLATFORMS=cpu ({error})") from None
    weights = jax.device_put(jax.device_get(variables), cpu)

    def forward(*inputs: jax.Array) -> jax.Array:
        logits: jax.Array = network.apply(weights, dict(zip(names, inputs, strict=True)), train=False)[0].logits
        return logits

    with jax.default_device(cpu):
        logits = jax.jit(forward)(*inputs)
    if not isinstance(logits, jax.Array) or logits.ndim < 2 or len(logits) != len(inputs[0]):
        shapes = jax.tree.map(lambda x: list(x.shape), logits)
        raise ValueError(f"logits {shapes} of a batch of {len(inputs[0])}: an export needs one array [batch, ...]")
    if not np.isfinite(logits).all():
        raise ValueError("the logits of the example are not finite: the weights or the example are broken")
    return Program(forward, weights, names, inputs, np.asarray(logits), config)
