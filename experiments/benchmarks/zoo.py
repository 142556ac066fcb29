"""What each model of the zoo costs: to compile, forward, and a training step.

    python experiments/benchmarks/zoo.py RESULTS.jsonl [--family NAME ...] [--all] [--seconds 2]

At a small shape, the same for a family: 8 images of 32x32 (8x8 for what is for digits), 2 of 64x64 for ImageNet's
models, 2 texts of 32 words. A step is the forward pass in training mode, the cross-entropy of the logits, the backward
pass, SGD, and BatchNorm's statistics, with what it updates donated. Compile time is that of tracing and of XLA, of a
program that no cache has.

Each model is a line of the file, written as soon as it is measured; models that the file has already are left out, so a
run that was stopped goes on. Those of more than 150 million parameters need some 20 bytes a parameter and are measured
with ``--all`` alone. In the end all lines of the file are printed as a Markdown table, with the load average of the
machine that they were measured on: above 1, absolute times are those of a machine that others used too.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.progress import track

from jaxkd import models, networks
from jaxkd.models import ModelInfo
from jaxkd.models._inputs import inputs_of

LARGE = 150_000_000
BATCH = {(): 2, (224, 224, 3): 2}
IMAGE = {(224, 224, 3): (64, 64, 3)}
WORDS = 32

PyTree = Any


def batch_of(info: ModelInfo) -> dict[str, np.ndarray]:
    """Images of noise, or words of the start of the vocabulary."""
    rng = np.random.default_rng(0)
    shape = IMAGE.get(info.image_shape, info.image_shape)
    examples = inputs_of(models.create(info.name, info.classes), shape, WORDS)
    size = BATCH.get(info.image_shape, 8)
    return {
        name: rng.integers(2, 1000, (size, *example.shape[1:]))
        if example.dtype == jnp.int32
        else rng.standard_normal((size, *example.shape[1:])).astype(np.float32)
        for name, example in examples.items()
    }


def drawn(shapes: PyTree) -> PyTree:
    """Weights of about the size that models are drawn with, without compiling what draws them."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if len(shape.shape) > 1:
            return jnp.asarray(rng.standard_normal(shape.shape, np.float32) / math.sqrt(math.prod(shape.shape[:-1])))
        return (jnp.ones if path[-1].key in ("scale", "var") else jnp.zeros)(shape.shape)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def programs(info: ModelInfo) -> tuple[Callable[..., Any], Callable[..., Any], PyTree, dict[str, np.ndarray]]:
    """``(variables, batch) -> logits``, ``(variables, batch) -> (variables, loss)``, variables and a batch."""
    network, batch = networks.from_linen(models.create(info.name, info.classes)), batch_of(info)

    def forward(variables: PyTree, batch: PyTree) -> jax.Array:
        return network.apply(variables, batch)[0].logits

    def step(variables: PyTree, batch: PyTree) -> tuple[PyTree, jax.Array]:
        def loss_of(params: PyTree) -> tuple[jax.Array, PyTree]:
            given = {**variables, "params": params}
            outputs, updated = network.apply(given, batch, train=True, rng=jax.random.key(0))
            labels = jnp.zeros(outputs.logits.shape[:-1], jnp.int32)
            return optax.losses.softmax_cross_entropy_with_integer_labels(outputs.logits, labels).mean(), updated

        (loss, updated), grads = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], grads)
        return {**variables, **updated, "params": params}, loss

    return forward, step, drawn(jax.eval_shape(network.init, jax.random.key(0), batch)), batch


def quartiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    values = 1e3 * np.quantile(seconds, (0.25, 0.5, 0.75))
    return dict(zip(("q25", "median", "q75"), values.tolist(), strict=True))


def measure(info: ModelInfo, seconds: float) -> dict[str, Any]:
    """All that is said of a model; times are of as many calls as take so many seconds, 3 at least and 100 at most."""
    forward, step, variables, batch = programs(info)
    load = os.getloadavg()[0]
    found: dict[str, Any] = {"compile_seconds": {}, "gigaflops": {}, "milliseconds": {}}
    for name, function in (("forward", jax.jit(forward)), ("step", jax.jit(step, donate_argnums=0))):
        start = time.perf_counter()
        compiled = function.lower(variables, batch).compile()
        found["compile_seconds"][name] = time.perf_counter() - start
        found["gigaflops"][name] = compiled.cost_analysis()["flops"] / 1e9
        times: list[float] = []
        while len(times) < 4 or (sum(times) < seconds and len(times) <= 100):
            start = time.perf_counter()
            result = jax.block_until_ready(compiled(variables, batch))
            times.append(time.perf_counter() - start)
            if name == "step":
                variables, _ = result
        found["milliseconds"][name] = quartiles(times[1:])
    jax.clear_caches()
    return {
        "name": info.name,
        "family": info.family,
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "inputs": {name: list(x.shape) for name, x in batch.items()},
        **found,
        "load": load,
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """The table, in the order of ``jaxkd models``."""
    order = {info.name: i for i, info in enumerate(models.names())}
    lines = [
        "| model | parameters, M | inputs | compile, s: forward, step | forward, ms | step, ms | GFLOP a step | load |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for r in sorted(results, key=lambda r: order[r["name"]]):
        inputs = " + ".join("x".join(map(str, shape)) for shape in r["inputs"].values())
        compiled = ", ".join(f"{r['compile_seconds'][name]:.1f}" for name in ("forward", "step"))
        times = [r["milliseconds"][name] for name in ("forward", "step")]
        cells = [f"{t['median']:.3g} ({t['q25']:.3g} to {t['q75']:.3g})" for t in times]
        lines.append(
            f"| {r['name']} | {r['parameters'] / 1e6:.2f} | {inputs} | {compiled} | {cells[0]} | {cells[1]} "
            f"| {r['gigaflops']['step']:.3g} | {r['load']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures what the file has not, and prints what it has then."""
    infos = models.names()
    families = list(dict.fromkeys(info.family for info in infos))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON lines, appended to")
    parser.add_argument("--family", nargs="+", choices=families, default=families, metavar="NAME", help="only these")
    parser.add_argument("--all", action="store_true", help=f"also models of more than {LARGE:,} parameters")
    parser.add_argument("--seconds", type=float, default=2.0, help="for the times of each program")
    arguments = parser.parse_args()
    if not arguments.seconds > 0:
        parser.error("--seconds is above 0")

    path = arguments.results
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {result["name"] for result in results}
    chosen = [
        info
        for info in infos
        if info.family in arguments.family and info.name not in done and (arguments.all or info.parameters <= LARGE)
    ]
    for info in track(chosen, "measuring", console=Console(stderr=True)):
        results.append(measure(info, arguments.seconds))
        with path.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
