"""StableHLO: what ``jax.export`` writes, and any JAX reads for half a year at least."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.deployment import _timing
from jaxkd.deployment._program import BATCH, ExportError, Program

FILE = "student.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")


def write(directory: Path, program: Program) -> dict[str, Any]:
    """Writes the program, its weights inside, for every platform and any size of batch."""
    (size,) = jax.export.symbolic_shape(BATCH)
    shapes = [jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for x in program.example]
    exported = jax.export.export(jax.jit(program.forward), platforms=PLATFORMS)(*shapes)
    (directory / FILE).write_bytes(exported.serialize())
    return {
        "platforms": list(exported.platforms),
        "calling_convention_version": exported.calling_convention_version,
    }


def runs(directory: Path, program: Program, sizes: Sequence[int]) -> list[_timing.Run]:
    """Runs what was written in a fresh process, which has JAX alone."""
    with tempfile.TemporaryDirectory() as scratch:
        inputs, results = Path(scratch, "inputs.npz"), Path(scratch, "results.npz")
        # Named so that their order is that of the arguments.
        arrays: dict[str, Any] = {f"{i:03}": x for i, x in enumerate(program.example)}
        np.savez(inputs, **arrays)
        command = [sys.executable, "-P", _timing.__file__, str(directory / FILE), str(inputs), str(results)]
        fresh = subprocess.run(
            [*command, *map(str, sizes)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        if fresh.returncode:
            last = (fresh.stderr.strip().splitlines() or [f"exit code {fresh.returncode}"])[-1]
            raise ExportError(f"a fresh process cannot run it: {last}")
        with np.load(results, allow_pickle=False) as file:
            times = json.loads(str(file["runs"]))
            return [_timing.Run(file[f"logits_{i}"], *rest) for i, rest in enumerate(times)]
