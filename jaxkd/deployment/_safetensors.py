"""Weights alone, as ``jaxkd.models.pretrained`` saves and loads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxkd import networks
from jaxkd.deployment import _timing
from jaxkd.deployment._program import Program
from jaxkd.models import pretrained

FILE = "student.safetensors"


def write(directory: Path, program: Program) -> dict[str, Any]:
    """Saves the variables with the config, which has to name their model."""
    pretrained.save(directory / FILE, program.variables, program.config)
    return {}


def runs(directory: Path, program: Program, sizes: Sequence[int]) -> list[_timing.Run]:
    """Loads the student again, and runs the model that the file names."""
    student = pretrained.load_student(directory / FILE)
    network = networks.from_linen(student.module)
    cpu = jax.local_devices(backend="cpu")[0]
    variables = jax.device_put(student.variables, cpu)

    @jax.jit
    def forward(variables: Any, *inputs: jax.Array) -> Any:
        return network.apply(variables, dict(zip(program.names, inputs, strict=True)), train=False)[0].logits

    with jax.default_device(cpu):
        return [_timing.run(lambda *inputs: forward(variables, *inputs), program.head(size)) for size in sizes]
