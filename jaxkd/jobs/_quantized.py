"""The distilled student in int8, as rows of the comparison."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd import deployment, networks
from jaxkd.evaluation import Participant
from jaxkd.networks import Network, Variables


def quantized(student: Participant, module: nn.Module, image: jax.Array, precision: str) -> list[Participant]:
    """A student's seeds with int8 weights, and with int8 weights and activations.

    Args:
      student: of one or more seeds, stacked; its network runs ``module``.
      module: the model.
      image: what it takes, [n, ...]: the shape counts.
      precision: the one the student computes in; what is not int8 goes on to do so.
    """

    def weights(variables: Variables) -> tuple[Network, Variables]:
        return deployment.quantize_weights(student.network, variables)

    def dynamic(variables: Variables) -> tuple[Network, Variables]:
        network, made = deployment.quantize_dynamic(module, variables, image)
        return (networks.mixed_precision(network, jnp.bfloat16) if precision == "bfloat16" else network), made

    return [
        _of_seeds(student, f"{student.name}, int8 weights", weights),
        _of_seeds(student, f"{student.name}, int8", dynamic),
    ]


def _of_seeds(
    student: Participant, name: str, quantize: Callable[[Variables], tuple[Network, Variables]]
) -> Participant:
    """Quantises the seeds one by one, each with its own scales."""
    seeds = range(student.seeds or 0)
    made: list[Any] = [quantize(jax.tree.map(lambda leaf, i=i: leaf[i], student.variables)) for i in seeds]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(variables for _, variables in made))
    return Participant(name, made[0][0], stacked, student.seeds, of=student.name)
