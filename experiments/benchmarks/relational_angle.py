"""What ``relational_angle`` costs in time and memory, against all triplets at once.

    python experiments/benchmarks/relational_angle.py [--runs 30] [--json PATH]

The dense form holds the cosines of all N^3 triplets, and the differences of all pairs; jaxkd's goes over the examples
in chunks and computes its gradient on the way. Both are compiled as value and gradient with respect to the student, on
normal features of width 256, and called by turns (A B B A ...) on the same arrays. What is printed for each batch size:
the temporaries of both compiled programs as XLA counts them (``memory_analysis``), the medians of their times, the
median of the ratios of neighbouring runs with its quartiles, and how far values and gradients are apart. Where the
dense form takes more than ``--dense-limit`` GiB it is compiled but not run, and neither is jaxkd's timed.

Goals: under 1 GiB of temporaries at 1024; equal to 1e-6 at 128; at most twice the time where both run.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxkd import losses

BATCHES, WIDTH = (32, 64, 128, 256, 1024), 256


def dense(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """All triplets at once."""

    def cosines(x: jax.Array) -> jax.Array:
        differences = x - x[:, None]
        squares = jnp.sum(jnp.square(differences), -1, keepdims=True)
        units = differences * jnp.where(squares > 0, jax.lax.rsqrt(jnp.where(squares > 0, squares, 1)), 0)
        return units @ units.swapaxes(1, 2)

    return jnp.mean(optax.losses.huber_loss(cosines(student), cosines(teacher)))


def measure(batch: int, runs: int, dense_limit: float) -> dict[str, Any]:
    """All that is said of a batch size."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((batch, WIDTH)), jnp.float32) for _ in range(2)]
    functions: dict[str, Callable] = {
        name: jax.jit(jax.value_and_grad(loss)).lower(*arrays).compile()
        for name, loss in (("jaxkd", losses.relational_angle), ("dense", dense))
    }
    gib = {name: f.memory_analysis().temp_size_in_bytes / 2**30 for name, f in functions.items()}
    result: dict[str, Any] = {"batch": batch, "width": WIDTH, "runs": runs, "temporaries_gib": gib}
    if gib["dense"] > dense_limit:
        return result
    (value, gradient), (expected, wanted) = (jax.block_until_ready(f(*arrays)) for f in functions.values())
    result["value_apart"] = float(abs(value - expected) / expected)
    result["gradient_apart"] = float(jnp.linalg.norm(gradient - wanted) / jnp.linalg.norm(wanted))
    seconds: dict[str, list[float]] = {"jaxkd": [], "dense": []}
    for i in range(runs):
        for name in ("jaxkd", "dense") if i % 2 else ("dense", "jaxkd"):
            start = time.perf_counter()
            jax.block_until_ready(functions[name](*arrays))
            seconds[name].append(time.perf_counter() - start)
    result["milliseconds"] = {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
    ratios = np.divide(seconds["jaxkd"], seconds["dense"])
    quartiles = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    result["time_ratio"] = dict(zip(("q25", "median", "q75"), quartiles, strict=True))
    return result


def main() -> None:
    """Measures, prints the table, and writes the file if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="timed calls of each")
    parser.add_argument("--dense-limit", type=float, default=2.0, help="GiB up to which the dense form is run")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs is at least 1")

    results = [measure(batch, arguments.runs, arguments.dense_limit) for batch in BATCHES]
    table = Table(title=f"relational_angle, width {WIDTH}, value and gradient, {arguments.runs} interleaved runs")
    table.add_column("batch")
    for result in results:
        table.add_column(str(result["batch"]), justify="right")
    rows: dict[str, Callable[[dict], str]] = {
        "temporaries, jaxkd": lambda r: f"{2**10 * r['temporaries_gib']['jaxkd']:,.1f} MiB",
        "temporaries, dense": lambda r: f"{2**10 * r['temporaries_gib']['dense']:,.1f} MiB",
        "ms, jaxkd": lambda r: f"{r['milliseconds']['jaxkd']:.2f}",
        "ms, dense": lambda r: f"{r['milliseconds']['dense']:.2f}",
        "time ratio, median": lambda r: f"{r['time_ratio']['median']:.3f}",
        "time ratio, quartiles": lambda r: f"{r['time_ratio']['q25']:.3f} to {r['time_ratio']['q75']:.3f}",
        "values apart, relative": lambda r: f"{r['value_apart']:.1e}",
        "gradients apart, relative": lambda r: f"{r['gradient_apart']:.1e}",
    }
    for name, text in rows.items():
        table.add_row(name, *(text(r) if "time_ratio" in r or "temporaries" in name else "-" for r in results))
    Console(width=120).print(table)
    versions = {"jax": jax.__version__, "backend": jax.default_backend()}
    print(f"jax {versions['jax']}, {versions['backend']}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"versions": versions, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
