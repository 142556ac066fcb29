"""What a loss costs, forward and backward, against the same formula written in place.

    python experiments/benchmarks/losses.py [--runs 40] [--only NAME ...] [--json PATH]

The rival of each loss is a straight-line expression of at most 15 lines (``straight_lines/``), without masks, checks,
safe norms or precision beyond the textbook's. Both are compiled as value and gradient, with respect to the student, of
their sum, and called by turns (A B B A ...) on the same arrays; a run is as many calls as take some milliseconds. What
is printed is the median of each, the median of the ratios of neighbouring runs with its quartiles, and how far values
and gradients are apart: a rival that computes something else is no rival.

Goal: no ratio above 1.1, but for ``relational_angle``, which trades time for memory (``relational_angle.py``).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from straight_lines import LINES, Line

SECONDS_PER_RUN = 4e-3


def value_and_gradient(loss: Callable[..., jax.Array], line: Line) -> Callable[..., Any]:
    """Of a weighted sum (a softmax adds up to 1 anyway), with respect to the student's argument, compiled."""

    def total(student: jax.Array, *others: jax.Array) -> jax.Array:
        values = loss(student, *others, **line.parameters)
        return jnp.sum(values * jnp.cos(jnp.arange(values.size)).reshape(values.shape))

    return jax.jit(jax.value_and_grad(total)).lower(*line.inputs()).compile()


def measure(line: Line, runs: int) -> dict[str, Any]:
    """All that is said of a loss."""
    arrays = [jnp.asarray(x) for x in line.inputs()]
    functions = {"jaxkd": value_and_gradient(line.loss, line), "plain": value_and_gradient(line.plain, line)}
    results = {name: jax.block_until_ready(f(*arrays)) for name, f in functions.items()}
    apart = [
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30))
        for a, b in zip(*results.values(), strict=True)
    ]

    def run(name: str, calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = functions[name](*arrays)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / calls

    calls = max(1, round(SECONDS_PER_RUN / min(run("plain", 3) for _ in range(3))))
    seconds: dict[str, list[float]] = {"jaxkd": [], "plain": []}
    for i in range(runs):
        # Who comes first changes, so that no one profits from what the other left in the caches.
        for name in ("jaxkd", "plain") if i % 2 else ("plain", "jaxkd"):
            seconds[name].append(run(name, calls))
    ratios = np.divide(seconds["jaxkd"], seconds["plain"])
    return {
        "name": line.name,
        "microseconds": {name: 1e6 * statistics.median(values) for name, values in seconds.items()},
        "ratio": dict(zip(("q25", "median", "q75"), np.quantile(ratios, (0.25, 0.5, 0.75)).tolist(), strict=True)),
        "apart": {"value": apart[0], "gradient": apart[1]},
        "lines": line.length,
    }


def main() -> None:
    """Measures, prints the table, and writes the file if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="timed runs of each, by turns")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="losses to measure")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs is at least 1")
    unknown = set(arguments.only or ()) - {line.name for line in LINES}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")

    chosen = [line for line in LINES if not arguments.only or line.name in arguments.only]
    console = Console(width=120)
    results = [measure(line, arguments.runs) for line in track(chosen, "measuring", console=console)]
    table = Table(title=f"value and gradient, {arguments.runs} interleaved runs")
    for column in ("loss", "us", "plain, us", "ratio (quartiles)", "value apart", "gradient apart", "lines"):
        table.add_column(column, justify="right" if table.columns else "left")
    for r in results:
        ratio, apart, us = r["ratio"], r["apart"], r["microseconds"]
        table.add_row(
            r["name"],
            *(f"{us[name]:.0f}" for name in ("jaxkd", "plain")),
            f"{ratio['median']:.2f} ({ratio['q25']:.2f} to {ratio['q75']:.2f})",
            *(f"{apart[name]:.0e}" for name in ("value", "gradient")),
            str(r["lines"]),
        )
    console.print(table)
    versions = {"jax": jax.__version__, "backend": jax.default_backend()}
    console.print(f"jax {versions['jax']}, {versions['backend']}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"versions": versions, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
