"""What the step of ``distill`` costs, against the same step written by hand with flax and optax.

    python experiments/benchmarks/step_overhead.py [--json PATH]

Two pairs on digits: MLP-512-512 -> MLP-8, and the CIFAR ResNets resnet14 -> resnet8 (with BatchNorm). One step is the
teacher's forward, the student's forward and backward, T^2 KL + cross-entropy with labels that may be missing, Adam, and
three metrics. Both are compiled as ``jaxkd.training.parallel`` compiles: a ``lax.scan`` over a chunk of steps with the
state donated, fetching its batches from a set that sits on the device.

What is printed for each pair: FLOPs and bytes of both compiled programs as XLA counts them (of one step: the body of a
scan is counted once), the ratio of their times (chunks by turns, A B B A A B ..., the median over all neighbours, with
quartiles), how far the parameters are apart after those steps, and how often a step was traced for chunks of two
lengths called by turns.

By hand the losses mean the same as jaxkd's: labels below 0 are left out of the cross-entropy and of its mean, and the
KL is ``jaxkd.losses.soft_label_kl`` itself, for it is the step that is compared here: the textbook's formula costs less
than one that stays precise at every temperature. Teacher weights are random; they cost the same.

Expected: equal FLOPs and bytes, a ratio of at most 1.03, and one trace for each chunk length.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from rich.console import Console
from rich.table import Table

from jaxkd import data, learners, losses, models, networks, objectives
from jaxkd.training import parallel

TEMPERATURE, ALPHA = 4.0, 0.9

PyTree = Any


class Pair(NamedTuple):
    """Two models, and how many steps of what batch size make a chunk of a fraction of a second."""

    teacher: str
    student: str
    batch_size: int
    steps: int


PAIRS = (Pair("mlp_512_512", "mlp_8", 64, 100), Pair("resnet14", "resnet8", 32, 4))


class State(NamedTuple):
    """What the step by hand carries; the key is for models with dropout, which these are not."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    key: jax.Array


def step_by_hand(teacher: nn.Module, student: nn.Module, optimizer: optax.GradientTransformation) -> Callable:
    """The step, written plainly."""

    def step(state: State, teacher_variables: PyTree, batch: Any) -> tuple[State, dict[str, jax.Array]]:
        image, label = batch["image"], batch["label"]
        teacher_logits = teacher.apply(teacher_variables, image, train=False)

        def loss_of(params: PyTree) -> tuple[jax.Array, tuple[dict[str, jax.Array], PyTree]]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, updated = student.apply(variables, image, train=True, mutable=["batch_stats"])
            soft = jnp.mean(losses.soft_label_kl(logits, teacher_logits, TEMPERATURE))
            labelled = label >= 0
            nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
            hard = jnp.sum(jnp.where(labelled, nll, 0)) / jnp.maximum(jnp.sum(labelled, dtype=jnp.float32), 1)
            loss = (1 - ALPHA) * hard + ALPHA * soft
            return loss, ({"loss": loss, "hard": hard, "soft": soft}, updated.get("batch_stats", {}))

        grads, (metrics, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, batch_stats, opt_state, state.key), metrics

    return step


def compile_by_hand(step: Callable, batches: data.Batches) -> Any:
    """A chunk of steps: a scan, jitted, its state donated."""

    def chunk(state: State, teacher_variables: PyTree, source: PyTree, xs: PyTree) -> tuple[State, Any]:
        return jax.lax.scan(lambda state, x: step(state, teacher_variables, batches.fetch(source, x)), state, xs)

    return jax.jit(chunk, donate_argnums=0)


def measure(pair: Pair, pairs: int) -> dict[str, Any]:
    """All that is said of a pair."""
    batches = data.Batches(data.load("digits", "train"), pair.batch_size)
    teacher, student = models.create(pair.teacher, 10), models.create(pair.student, 10)
    optimizer = optax.adam(1e-3)
    objective = objectives.distillation(TEMPERATURE, ALPHA)
    learner = learners.distill(networks.from_linen(student), networks.from_linen(teacher), objective, optimizer)
    traces = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal traces
        traces += 1
        return learner.step(*arguments, **options)

    compiled = parallel.compile(learner._replace(step=counted), batches)
    source = compiled.put_source(batches.source)
    chunks = itertools.cycle([compiled.put_chunk(batches.chunk(i * pair.steps, pair.steps)) for i in range(10)])
    first = next(chunks)
    example = batches.fetch(source, jax.tree.map(lambda x: x[0], first))
    frozen = compiled.put(jax.jit(teacher.init)(jax.random.key(0), example["image"]))
    of_jaxkd = compiled.put(jax.jit(learner.init)(jax.random.key(1), frozen, example))
    fresh = learner.deploy(of_jaxkd, frozen)
    params, batch_stats = fresh["params"], fresh.get("batch_stats", {})
    by_hand = State(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), jax.random.key(2))
    by_hand = compiled.put(by_hand)
    hand = compile_by_hand(step_by_hand(teacher, student, optimizer), batches)

    costs = {
        name: function.lower(state, frozen, source, first).compile().cost_analysis()
        for name, function, state in (("jaxkd", compiled.chunk, of_jaxkd), ("hand", hand, by_hand))
    }
    # Also the warm-up, and the proof that both do the same.
    of_jaxkd, _ = compiled.chunk(of_jaxkd, frozen, source, first)
    by_hand, _ = hand(by_hand, frozen, source, first)
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), of_jaxkd.params["student"], by_hand.params)

    def timed(chunk: Callable, state: PyTree, xs: PyTree) -> tuple[float, PyTree]:
        start = time.perf_counter()
        state, _ = jax.block_until_ready(chunk(state, frozen, source, xs))
        return time.perf_counter() - start, state

    seconds: dict[str, list[float]] = {"jaxkd": [], "hand": []}
    for i in range(pairs):
        xs = next(chunks)
        # Who comes first changes, so that no one profits from what the other left in the caches.
        for name in ("jaxkd", "hand") if i % 2 else ("hand", "jaxkd"):
            if name == "jaxkd":
                elapsed, of_jaxkd = timed(compiled.chunk, of_jaxkd, xs)
            else:
                elapsed, by_hand = timed(hand, by_hand, xs)
            seconds[name].append(elapsed)

    shorter = jax.tree.map(lambda x: x[: pair.steps // 2], first)
    for xs in (shorter, first, shorter, first):
        of_jaxkd, _ = compiled.chunk(of_jaxkd, frozen, source, xs)
    ratios = np.divide(seconds["jaxkd"], seconds["hand"])
    return {
        **pair._asdict(),
        "flops": {name: cost["flops"] for name, cost in costs.items()},
        "bytes_accessed": {name: cost["bytes accessed"] for name, cost in costs.items()},
        "milliseconds_per_step": {
            name: 1e3 * statistics.median(values) / pair.steps for name, values in seconds.items()
        },
        "time_ratio": dict(zip(("q25", "median", "q75"), np.quantile(ratios, (0.25, 0.5, 0.75)).tolist(), strict=True)),
        "pairs": pairs,
        "parameters_apart": max(jax.tree.leaves(apart)),
        "traces": traces,
    }


def main() -> None:
    """Measures, prints the table, and writes the file if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60, help="timed chunks of each")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.pairs < 1:
        parser.error("--pairs is at least 1")

    results = [measure(pair, arguments.pairs) for pair in PAIRS]
    table = Table(title=f"a step of distill over a step by hand, {arguments.pairs} interleaved pairs of chunks")
    table.add_column("")
    for result in results:
        table.add_column(f"{result['teacher']} -> {result['student']}", justify="right")
    rows: dict[str, Callable[[dict], str]] = {
        "batch, steps in a chunk": lambda r: f"{r['batch_size']}, {r['steps']}",
        "FLOPs, distill": lambda r: f"{r['flops']['jaxkd']:,.0f}",
        "FLOPs, by hand": lambda r: f"{r['flops']['hand']:,.0f}",
        "bytes accessed, distill": lambda r: f"{r['bytes_accessed']['jaxkd']:,.0f}",
        "bytes accessed, by hand": lambda r: f"{r['bytes_accessed']['hand']:,.0f}",
        "ms a step, distill": lambda r: f"{r['milliseconds_per_step']['jaxkd']:.3f}",
        "ms a step, by hand": lambda r: f"{r['milliseconds_per_step']['hand']:.3f}",
        "time ratio, median": lambda r: f"{r['time_ratio']['median']:.3f}",
        "time ratio, quartiles": lambda r: f"{r['time_ratio']['q25']:.3f} to {r['time_ratio']['q75']:.3f}",
        "parameters apart after a chunk": lambda r: f"{r['parameters_apart']:.1e}",
        "traces for 2 chunk lengths": lambda r: f"{r['traces']}",
    }
    for name, text in rows.items():
        table.add_row(name, *(text(result) for result in results))
    Console(width=120).print(table)
    versions = {"jax": jax.__version__, "backend": jax.default_backend()}
    print(f"jax {versions['jax']}, {versions['backend']}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"versions": versions, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
