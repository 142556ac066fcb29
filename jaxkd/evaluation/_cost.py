"""What a forward pass costs: parameters, operations, time, memory."""

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd.networks import Batch, Network, Variables


class Latency(NamedTuple):
    """Wall-clock time of one call in seconds: ``median`` and 95th percentile ``p95`` of ``calls`` calls."""

    median: float
    p95: float
    calls: int


def parameter_count(variables: Variables) -> int:
    """Counts the elements of ``variables["params"]``; running statistics are no parameters. Shapes suffice."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {})))


def compile_forward(network: Network, variables: Variables, batch: Batch) -> Any:
    """Compiles one forward pass to the logits (``train=False``), for the measurements below.

    One pass, of one batch, and in no loop: XLA counts the body of a ``scan`` once, whatever its length.

    Args:
      network: whose cost is asked for.
      variables: the network's, or their shapes.
      batch: one batch, or its shapes.

    Returns:
      A compiled program, called as ``compiled(variables, batch)``.
    """

    def forward(variables: Variables, batch: Batch) -> Any:
        return network.apply(variables, batch, train=False)[0].logits

    return jax.jit(forward).lower(variables, batch).compile()


def flops(compiled: Any) -> float | None:
    """Gives the floating-point operations of a program as XLA counts them, or None where the backend does not.

    Pad nothing for it: operations on padding are left out of convolutions.
    """
    count = (compiled.cost_analysis() or {}).get("flops")
    return None if count is None or count < 0 else float(count)


def memory(compiled: Any) -> int | None:
    """Gives the bytes a program needs at its peak, or None where the backend does not say.

    Arguments (parameters and batch), results and temporaries; what is aliased is counted once.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    return int(
        stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes - stats.alias_size_in_bytes
    )


def latency(compiled: Any, variables: Variables, batch: Batch, *, calls: int = 100, seconds: float = 1.0) -> Latency:
    """Times single calls of a program, each until its result is ready.

    Three calls go ahead unmeasured: the first ones load code and allocate. Then ``calls`` calls are timed, or fewer
    where ``seconds`` are over before, but at least five.

    Args:
      compiled: what `compile_forward` gives.
      variables: its first argument.
      batch: its second argument.
      calls: how many calls to time.
      seconds: after how much time to stop.

    Returns:
      Median and 95th percentile over the calls.
    """
    variables, batch = jax.device_put((variables, batch))
    for _ in range(3):
        jax.block_until_ready(compiled(variables, batch))
    times: list[float] = []
    while len(times) < calls and (len(times) < 5 or sum(times) < seconds):
        start = time.perf_counter()
        jax.block_until_ready(compiled(variables, batch))
        times.append(time.perf_counter() - start)
    return Latency(float(np.median(times)), float(np.percentile(times, 95)), len(times))
