"""Runs a JAX program that was written, and times it: alone in a fresh process, or by its functions.

As a program, ``python _timing.py program.stablehlo inputs.npz results.npz SIZE ...``, it needs JAX and NumPy only, and
nothing of jaxkd: what runs here runs elsewhere.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

CALLS, SECONDS = 100, 1.0


class Run(NamedTuple):
    """What a written program gives for one batch, and how long it takes.

    Attributes:
      logits: [n, ...].
      first: seconds of the first call, in which a program that compiles does so.
      median: seconds of a call after three more, the median of ``calls`` calls.
      p95: their 95th percentile.
      calls: how many were timed.
    """

    logits: np.ndarray
    first: float
    median: float
    p95: float
    calls: int


def run(call: Callable[..., Any], inputs: Sequence[np.ndarray]) -> Run:
    """Calls a program, each time until its result is there: 100 times or for a second, but five times at least."""
    start = time.perf_counter()
    logits = np.asarray(call(*inputs))
    first = time.perf_counter() - start
    for _ in range(3):
        np.asarray(call(*inputs))
    times: list[float] = []
    while len(times) < CALLS and (len(times) < 5 or sum(times) < SECONDS):
        start = time.perf_counter()
        np.asarray(call(*inputs))
        times.append(time.perf_counter() - start)
    return Run(logits, first, float(np.median(times)), float(np.percentile(times, 95)), len(times))


def main(program: str, inputs: str, results: str, *sizes: str) -> None:
    """Runs an exported program on the first ``sizes`` of its inputs."""
    import jax

    call = jax.jit(jax.export.deserialize(bytearray(Path(program).read_bytes())).call)
    with np.load(inputs, allow_pickle=False) as file:
        arrays = [file[name] for name in sorted(file.files)]
    runs = [run(call, [x[: int(size)] for x in arrays]) for size in sizes]
    logits: dict[str, Any] = {f"logits_{i}": one.logits for i, one in enumerate(runs)}
    np.savez(results, runs=json.dumps([one[1:] for one in runs]), **logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
