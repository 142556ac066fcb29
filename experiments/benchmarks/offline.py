"""What an epoch costs that learns from a teacher's cached outputs, and what a cache that keeps less of them is off by.

    python experiments/benchmarks/offline.py [--rounds 30] [--json PATH]

Teachers and students on digits, whose images are cropped and flipped: each epoch sees a view of its own, and the cache
holds all of them. What is timed is what ``training.fit`` does of an epoch: a chunk of steps is planned on the host
while the one before it runs, put on the device and run there. By turns, all after they are compiled:

* alone: the student learns from labels, ``distill(student, None, hard_label(), ...)``;
* loss only: the objective of distillation, with logits made of the labels: what its loss costs without a teacher;
* online: ``distill(network, teacher, distillation(), ...)``, of the same views;
* offline: the same from ``cached()`` and a float32 cache that sits on the device;
* offline, read: its outputs are read from the files as they are needed.

A ratio is of stretches measured one after the other. Before anything is timed, trainings online and offline, for as
many epochs as there are views, are held against each other: losses, terms and parameters, bit by bit.

The second table is of the soft loss of a student that has learned for an epoch, with what a cache keeps instead of the
teacher's logits: the mean over examples of how far each one's loss is off, over the mean loss.

Expected: no bit apart, and offline at most about 1.15 times the student alone. README.md has numbers.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxkd import data, learners, losses, models, networks, objectives
from jaxkd.data import augment
from jaxkd.training import fit, parallel
from jaxkd.training.checkpoints import tree_hash

PyTree = Any

RIVALS = ("alone", "loss only")
TEMPERATURES = (1.0, 4.0)
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"dtype": "float16"},
    {"dtype": "bfloat16"},
    {"top_k": 2},
    {"top_k": 3},
    {"top_k": 5},
    {"top_k": 3, "dtype": "float16"},
)


class Case(NamedTuple):
    """A teacher, for how many epochs it learns, its student, the batch, the views, and the timed steps and chunks."""

    teacher: str
    epochs: int
    student: str
    batch_size: int
    views: int
    steps: int
    chunk: int


CASES = (
    Case("mlp_512_512", 5, "mlp_8", 64, 8, 200, 20),
    Case("mlp_512_512", 5, "mlp_128", 64, 8, 100, 20),
    Case("resnet14", 1, "resnet8", 32, 1, 4, 4),
)


class Way:
    """One of the ways to train the student, compiled and warm."""

    def __init__(self, learner: learners.Learner, batches: parallel.Data, case: Case, frozen: PyTree):
        self._batches, self._case = batches, case
        self._compiled = parallel.compile(learner, batches)
        self._source, self._frozen = self._compiled.put_source(batches.source), self._compiled.put(frozen)
        example = jax.jit(batches.fetch)(self._source, jax.tree.map(lambda x: x[0], batches.chunk(0, 1)))
        self._state = self._compiled.put(jax.jit(learner.init)(jax.random.key(0), self._frozen, example))
        self._step = 0
        self.run()

    def run(self) -> float:
        """Trains for ``case.steps`` steps, chunk by chunk, and gives the seconds it took."""
        start = time.perf_counter()
        for _ in range(self._case.steps // self._case.chunk):
            xs = self._compiled.put_chunk(self._batches.chunk(self._step, self._case.chunk))
            self._state, _ = self._compiled.chunk(self._state, self._frozen, self._source, xs)
            self._step += self._case.chunk
        jax.block_until_ready(self._state)
        return time.perf_counter() - start


def measure(case: Case, rounds: int, directory: Path) -> dict[str, Any]:
    """All that is said of a teacher and its student."""
    teacher, student = (networks.from_linen(models.create(name, 10)) for name in (case.teacher, case.student))
    crop_and_flip = augment.compose(augment.random_crop(1), augment.random_flip())
    views = data.ViewBatches(
        data.load("digits", "train"),
        case.batch_size,
        augmentation=crop_and_flip,
        key=jax.random.key(1),
        views=case.views,
    )
    epoch = len(views.examples) // case.batch_size
    optimizer = optax.adam(1e-3)
    alone = learners.distill(teacher, None, objectives.hard_label(), optimizer)
    variables = alone.deploy(fit(alone, views, case.epochs * epoch, key=jax.random.key(2)).state, {})
    digest = tree_hash(variables)

    start = time.perf_counter()
    data.cache_teacher(directory / "full", teacher.apply, variables, views, digest=digest)
    writing = time.perf_counter() - start
    cached = data.CachedBatches(views, directory / "full", digest=digest)
    read = data.CachedBatches(views, directory / "full", digest=digest, resident_outputs=False)

    objective = objectives.distillation(4.0, 0.9)
    online = learners.distill(student, teacher, objective, optimizer)
    offline = learners.distill(student, networks.cached(), objective, optimizer)
    steps = case.views * len(views.examples) // case.batch_size
    fitted = [
        fit(learner, batches, steps, key=jax.random.key(0), frozen=frozen, chunk=case.chunk)
        for learner, batches, frozen in ((online, views, variables), (offline, cached, {}), (offline, read, {}))
    ]
    compared = [(x.history, x.state.params) for x in fitted]
    apart = max(_apart(compared[0], other) for other in compared[1:])

    label_only = learners.distill(student, None, objectives.hard_label(), optimizer)
    free = networks.Network(lambda key, batch: {}, _labels_as_logits)
    ways = {
        "alone": Way(label_only, views, case, {}),
        "loss only": Way(learners.distill(student, free, objective, optimizer), views, case, {}),
        "online": Way(online, views, case, variables),
        "offline": Way(offline, cached, case, {}),
        "offline, read": Way(offline, read, case, {}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds):
        # Who comes first changes, so that no one profits from what another left in the caches.
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds[name].append(ways[name].run())
    return {
        **case._asdict(),
        "rounds": rounds,
        "writing_seconds": writing,
        "compared_steps": steps,
        "bits_apart": apart,
        "milliseconds_per_step": {name: 1e3 * float(np.median(x)) / case.steps for name, x in seconds.items()},
        "time_ratio": {
            to: {name: _quartiles(np.divide(x, seconds[to])) for name, x in seconds.items()} for to in RIVALS
        },
        "forms": forms(teacher, variables, views, student, online, directory) if case is CASES[0] else [],
    }


def forms(
    teacher: networks.Network,
    variables: PyTree,
    views: data.ViewBatches,
    student: networks.Network,
    learner: learners.Learner,
    directory: Path,
) -> list[dict[str, Any]]:
    """Bytes and errors of what may be kept of the teacher's logits."""
    digest, epoch = tree_hash(variables), len(views.examples) // views.batch_size
    state = fit(learner, views, epoch, key=jax.random.key(0), frozen=variables).state
    learned = learner.deploy(state, variables)

    def losses_of(batches: data.CachedBatches) -> np.ndarray:
        """The soft loss of every example of an epoch at both temperatures, [temperatures, examples]."""

        @jax.jit
        def of_chunk(source: PyTree, xs: PyTree) -> jax.Array:
            def of_batch(x: PyTree) -> list[jax.Array]:
                batch = batches.fetch(source, x)
                logits = student.apply(learned, batch)[0].logits
                return [losses.soft_label_kl(logits, batch["teacher_logits"], t) for t in TEMPERATURES]

            return jax.lax.map(of_batch, xs)

        values = of_chunk(jax.device_put(batches.source), batches.chunk(0, epoch))
        return np.asarray(values, np.float64).reshape(len(TEMPERATURES), -1)

    found = []
    for number, form in enumerate(FORMS):
        path = directory / f"form_{number}"
        data.cache_teacher(path, teacher.apply, variables, views, digest=digest, **form)
        batches = data.CachedBatches(views, path, digest=digest)
        of_form = losses_of(batches)
        if not form:
            exact = of_form
        error = np.abs(of_form - exact).mean(1) / exact.mean(1)
        found.append(
            {
                **form,
                "bytes_per_example": batches.bytes_per_example,
                "bytes_on_disk": batches.bytes_on_disk,
                "relative_error": dict(zip(map(str, TEMPERATURES), error.tolist(), strict=True)),
            }
        )
    return found


def _labels_as_logits(
    variables: PyTree, batch: networks.Batch, **options: Any
) -> tuple[networks.Outputs, networks.Variables]:
    return networks.Outputs(8 * jax.nn.one_hot(batch["label"], 10)), {}


def _apart(a: PyTree, b: PyTree) -> int:
    """In how many numbers two trees of float32 differ."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(int(np.sum(np.asarray(x).view(np.uint32) != np.asarray(y).view(np.uint32))) for x, y in pairs)


def _quartiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return dict(zip(("q25", "median", "q75"), np.quantile(values, (0.25, 0.5, 0.75)).tolist(), strict=True))


def main() -> None:
    """Measures, prints the tables, and writes the file if one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timed stretches of each way")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")

    console, results = Console(width=120), []
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            result = measure(case, arguments.rounds, Path(directory))
        results.append(result)
        table = Table(title=f"{case.teacher} -> {case.student}, batch {case.batch_size}, {arguments.rounds} rounds")
        for column in ("", "ms a step", *(f"over {name}" for name in RIVALS)):
            table.add_column(column, justify="right" if column else "left")
        for name, milliseconds in result["milliseconds_per_step"].items():
            ratios = ("{median:.2f} ({q25:.2f}-{q75:.2f})".format(**result["time_ratio"][to][name]) for to in RIVALS)
            table.add_row(name, f"{milliseconds:.3f}", *ratios)
        console.print(table)
        print(
            f"Written in {result['writing_seconds']:.1f} s, {case.views} views. Online and offline differ in "
            f"{result['bits_apart']} numbers after {result['compared_steps']} steps."
        )
    table = Table(title=f"What a cache keeps, {CASES[0].teacher} on digits")
    for column in ("kept", "bytes an example", *(f"error of the loss at T = {t:g}" for t in TEMPERATURES)):
        table.add_column(column, justify="right" if column != "kept" else "left")
    for form in results[0]["forms"]:
        kept = f"top {form['top_k']}" if "top_k" in form else "all"
        errors = (f"{100 * form['relative_error'][str(t)]:.2g} %" for t in TEMPERATURES)
        table.add_row(f"{kept}, {form.get('dtype', 'float32')}", str(form["bytes_per_example"]), *errors)
    console.print(table)
    versions = {"jax": jax.__version__, "backend": jax.default_backend()}
    print(f"Ratios: the median of neighbouring times and their quartiles. jax {versions['jax']}, {versions['backend']}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"versions": versions, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
