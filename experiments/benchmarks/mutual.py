"""What a step of four peers that teach each other costs, as one program, against four separate learners.

    python experiments/benchmarks/mutual.py [--json PATH]

Four equal peers on digits, labels and soft labels at T = 3, Adam. The models are MLPs with one hidden layer of 64 and
with two of 512, and the CIFAR ResNet resnet8 (with BatchNorm). One program of ``mutual``, in three forms:

* stacked: ``mutual([network] * 4, ...)``, vmapped;
* one by one: the same with ``chunk=1``, a loop over the peers inside the program;
* side by side: of four networks that are equal but not one: every layer stands in the program four times.

Four separate learners, called one after the other, of three kinds:

* the same loss: ``distill(network, the other three, ...)``. Each runs the others' forward passes for itself. They are
  frozen, as they were at the start: real peers would have to be handed on after every step, which is not timed;
* one teacher: ``distill(network, a frozen one of its kind, ...)``, which is an ordinary distillation;
* alone: ``distill(network, None, hard_label(), ...)``.

All are compiled as ``jaxkd.training.parallel`` compiles: a ``lax.scan`` over a chunk of steps with the state donated,
fetching its batches from a set that sits on the device. What is timed is as many steps of all four peers, by turns,
after all are compiled; a ratio is of times measured one after the other. Compilation is reported apart: the four
separate learners share one program.

Expected: less than four separate learners of the same loss; stacked for MLPs, the other forms for convolutions on CPU,
where grouped ones are slow. README.md has numbers.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from rich.console import Console
from rich.table import Table

from jaxkd import data, learners, models, networks, objectives
from jaxkd.networks import Outputs
from jaxkd.objectives import Objective, Signals, Taps
from jaxkd.training import parallel

PEERS = 4
TEMPERATURE = 3.0

PyTree = Any


class Case(NamedTuple):
    """A model, and how many steps of what batch size make a chunk of a fraction of a second."""

    name: str
    module: nn.Module
    batch_size: int
    steps: int


CASES = (
    Case("mlp_64", models.MLP((64,)), 64, 100),
    Case("mlp_512_512", models.MLP((512, 512)), 64, 20),
    Case("resnet8", models.create("resnet8", 10), 32, 3),
)
TOGETHER = ("stacked", "one by one", "side by side")
SEPARATE = ("the same loss", "one teacher", "alone")


class Way:
    """One of the ways to train the four: one learner, or four of one program."""

    def __init__(self, learner: learners.Learner, batches: data.Batches, xs: PyTree, count: int, teacher: Any = None):
        compiled = parallel.compile(learner, batches)
        self._source = compiled.put_source(batches.source)
        example = batches.fetch(self._source, jax.tree.map(lambda x: x[0], xs))
        self._frozen = compiled.put({} if teacher is None else jax.jit(teacher.init)(jax.random.key(0), example))
        init = jax.jit(learner.init)
        self._states = [compiled.put(init(jax.random.key(k), self._frozen, example)) for k in range(count)]
        start = time.perf_counter()
        self._chunk = compiled.chunk.lower(self._states[0], self._frozen, self._source, xs).compile()
        self.compilation = time.perf_counter() - start
        self.seconds: list[float] = []

    def run(self, xs: PyTree) -> float:
        """Trains all four for a chunk of steps, and gives the seconds it took."""
        start = time.perf_counter()
        for k, state in enumerate(self._states):
            self._states[k], _ = self._chunk(state, self._frozen, self._source, xs)
        jax.block_until_ready(self._states)
        return time.perf_counter() - start


def from_three() -> Objective:
    """Labels, and the mean over three teachers that stand side by side of the loss of their soft labels."""
    soft = objectives.soft_label(TEMPERATURE)

    def apply(variables: Any, signals: Signals) -> tuple[dict, dict, dict]:
        terms = {}
        for name, logits in signals.teacher.logits.items():
            term = soft.apply(variables, signals._replace(teacher=Outputs(logits)))[0]["soft_label"]
            terms[name] = term._replace(weight=1 / (PEERS - 1))
        return terms, {}, {}

    each = Objective(Taps(), lambda key, signals: {}, apply)
    return objectives.weighted_sum(hard=(1.0, objectives.hard_label()), soft=(1.0, each))


def ways(case: Case, batches: data.Batches, xs: PyTree) -> dict[str, Way]:
    """All of them, compiled and warm."""
    network, optimizer = networks.from_linen(case.module), optax.adam(1e-3)
    apart = [networks.from_linen(case.module) for _ in range(PEERS)]
    three = networks.side_by_side({str(k): network for k in range(PEERS - 1)})
    labels = objectives.peer_labels(TEMPERATURE)
    alone = learners.distill(network, None, objectives.hard_label(), optimizer)
    found = {
        "stacked": Way(learners.mutual([network] * PEERS, labels, optimizer), batches, xs, 1),
        "one by one": Way(learners.mutual([network] * PEERS, labels, optimizer, chunk=1), batches, xs, 1),
        "side by side": Way(learners.mutual(apart, labels, optimizer), batches, xs, 1),
        "the same loss": Way(learners.distill(network, three, from_three(), optimizer), batches, xs, PEERS, three),
        "one teacher": Way(learners.distill(network, network, labels, optimizer), batches, xs, PEERS, network),
        "alone": Way(alone, batches, xs, PEERS),
    }
    for way in found.values():
        way.run(xs)
    return found


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """All that is said of a model."""
    batches = data.Batches(data.load("digits", "train"), case.batch_size)
    chunks = [jax.device_put(batches.chunk(i * case.steps, case.steps)) for i in range(10)]
    found = ways(case, batches, chunks[0])
    names = list(found)
    for i in range(rounds):
        # Who comes first changes, so that no one profits from what another left in the caches.
        for name in names[i % len(names) :] + names[: i % len(names)]:
            found[name].seconds.append(found[name].run(chunks[i % 10]))
    seconds = {name: np.asarray(way.seconds) for name, way in found.items()}
    return {
        "model": case.name,
        "batch_size": case.batch_size,
        "steps": case.steps,
        "rounds": rounds,
        "compilation_seconds": {name: way.compilation for name, way in found.items()},
        "milliseconds_per_step": {name: 1e3 * float(np.median(x)) / case.steps for name, x in seconds.items()},
        "time_ratio": {of: {to: _quartiles(seconds[of] / seconds[to]) for to in SEPARATE} for of in TOGETHER},
    }


def _quartiles(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("q25", "median", "q75"), np.quantile(values, (0.25, 0.5, 0.75)).tolist(), strict=True))


def main() -> None:
    """Measures, prints the table, and writes the file if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="timed chunks of each way")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")

    results = []
    for case in CASES:
        result = measure(case, arguments.rounds)
        results.append(result)
        title = f"{PEERS} peers {case.name}, batch {case.batch_size}, {arguments.rounds} chunks of {case.steps} steps"
        table = Table(title=title)
        for column in ("", "ms a step", *(f"over 4, {name}" for name in SEPARATE), "compile, s"):
            table.add_column(column, justify="right" if column else "left")
        for name, milliseconds in result["milliseconds_per_step"].items():
            ratios = result["time_ratio"].get(name, {}).values()
            over = ["{median:.2f} ({q25:.2f}-{q75:.2f})".format(**x) for x in ratios] or [""] * len(SEPARATE)
            of_what = name if name in TOGETHER else f"4 separate, {name}"
            table.add_row(of_what, f"{milliseconds:.3f}", *over, f"{result['compilation_seconds'][name]:.1f}")
        Console(width=120).print(table)
    versions = {"jax": jax.__version__, "backend": jax.default_backend()}
    print(f"Ratios: the median of neighbouring times and their quartiles. jax {versions['jax']}, {versions['backend']}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"versions": versions, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
