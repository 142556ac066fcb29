"""What a sweep costs as one program, against the same trainings one after the other.

    python experiments/benchmarks/sweep.py

5 temperatures x 6 alphas x 5 seeds on digits: 150 students (MLP-8) of one teacher (MLP-512-512), 30 epochs each of all
1297 images, batch 64, Adam. Four ways to train them, from the same fresh students and in the same data order:

* sweep: ``sweep`` of ``seeds`` of ``distill``; all steps of all trainings are one call of one compiled program;
* loop: a step written by hand with flax and optax, jitted once (temperature and alpha are traced arguments, parameters
  and optimizer state are donated, the teacher sits on the device), called from a Python loop, one training after the
  other, on batches of NumPy; each step's loss is read, as the sweep gives the loss of each step: how such studies are
  usually run;
* queued: that loop with nothing to wait for. The data set sits on the device, the step takes row numbers, and no loss
  is ever read, so that Python runs ahead of the device;
* scan: that step in a ``lax.scan``, so one call is a whole training. It pays for no dispatch, and shows what of the
  gain is dispatch and what is batching.

Of the three by hand a sample of the 150 is trained to the end in every round, and its time is scaled to 150
(``--sample 50 --rounds 3`` trains every one of the 150 once). A round measures all, compilation included, with
JAX's caches emptied before; the ratio of a round is of two times measured within a minute.

Goal on 2 CPU cores: the sweep is at least 8 times as fast as the loop with compilation, and at least 40 times without
(README.md says what was measured); accuracies agree to the last bits of float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from rich.console import Console
from rich.table import Table

from jaxkd import data, evaluation, learners, models, networks, objectives
from jaxkd.training import fit, parallel

TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SEEDS = 5
TRAININGS = len(TEMPERATURES) * len(ALPHAS) * SEEDS
LEARNING_RATE = 1e-3

PyTree = Any


class Task(NamedTuple):
    """What all three ways share.

    Attributes:
      teacher: the module.
      student: the module.
      teacher_params: of the trained teacher.
      batches: the data order.
      steps: of a training.
      grid: temperature and alpha of the sweep's points, each [30].
    """

    teacher: nn.Module
    student: nn.Module
    teacher_params: PyTree
    batches: data.Batches
    steps: int
    grid: learners.Points


class Measured(NamedTuple):
    """Seconds to compile and to run (of the trainings that were run), and the students that came out, [n, ...]."""

    compilation: float
    run: float
    students: PyTree


def make_task(epochs: int) -> Task:
    """Loads the digits and trains the teacher."""
    batches = data.Batches(data.load("digits", "train"), 64)
    teacher, student = models.create("mlp_512_512", 10), models.create("mlp_8", 10)
    steps = round(epochs * batches.steps_per_epoch)
    learner = learners.distill(networks.from_linen(teacher), None, objectives.hard_label(), optax.adam(LEARNING_RATE))
    state = fit(learner, batches, steps, key=jax.random.key(0)).state
    grid = learners.product(temperature=TEMPERATURES, alpha=ALPHAS)
    # Plain arrays, as if from a file: arrays that name their mesh would make the step by hand compile twice.
    teacher_params = jax.device_get(learner.deploy(state, {})["params"])
    return Task(teacher, student, teacher_params, batches, steps, grid)


def run_sweep(task: Task) -> tuple[Measured, PyTree]:
    """All trainings as one program. Also gives the fresh students [5, ...] they started from."""
    start = time.perf_counter()
    student, teacher = networks.from_linen(task.student), networks.from_linen(task.teacher)

    def make_learner(point: learners.Points) -> learners.Learner:
        objective = objectives.distillation(point["temperature"], point["alpha"])
        return learners.seeds(learners.distill(student, teacher, objective, optax.adam(LEARNING_RATE)), SEEDS)

    learner = learners.sweep(make_learner, task.grid)
    compiled = parallel.compile(learner, task.batches)
    frozen = compiled.put({"params": task.teacher_params})
    source = compiled.put_source(task.batches.source)
    xs = compiled.put_chunk(task.batches.chunk(0, task.steps))
    shapes = jax.eval_shape(lambda source, xs: task.batches.fetch(source, jax.tree.map(lambda x: x[0], xs)), source, xs)
    state = compiled.put(jax.jit(lambda key, frozen: learner.init(key, frozen, shapes))(jax.random.key(1), frozen))
    # Every point starts from the same students.
    fresh = jax.tree.map(lambda x: np.asarray(x[0]), learner.deploy(state, frozen)["params"])
    chunk = compiled.chunk.lower(state, frozen, source, xs).compile()
    compilation = time.perf_counter() - start
    start = time.perf_counter()
    state, _ = jax.block_until_ready(chunk(state, frozen, source, xs))
    run = time.perf_counter() - start
    students = learner.deploy(state, frozen)["params"]
    return Measured(compilation, run, jax.tree.map(lambda x: x.reshape(TRAININGS, *x.shape[2:]), students)), fresh


def make_step(task: Task) -> Callable[..., tuple[PyTree, PyTree, jax.Array]]:
    """One step of one training, by hand."""
    optimizer = optax.adam(LEARNING_RATE)

    def step(
        params: PyTree,
        opt_state: PyTree,
        teacher_params: PyTree,
        temperature: jax.Array,
        alpha: jax.Array,
        image: jax.Array,
        label: jax.Array,
    ) -> tuple[PyTree, PyTree, jax.Array]:
        targets = jax.nn.log_softmax(task.teacher.apply({"params": teacher_params}, image) / temperature)

        def loss_of(params: PyTree) -> jax.Array:
            logits = task.student.apply({"params": params}, image)
            predictions = jax.nn.log_softmax(logits / temperature)
            soft = temperature**2 * optax.losses.kl_divergence_with_log_targets(predictions, targets).mean()
            hard = optax.losses.softmax_cross_entropy_with_integer_labels(logits, label).mean()
            return alpha * soft + (1 - alpha) * hard

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return step


def run_by_hand(task: Task, fresh: PyTree, which: list[int], way: str) -> Measured:
    """Some of the trainings, one after the other: by "loop", "queued" or "scan"."""
    # What a careful user prepares once: decoded images, teacher and row numbers where they are needed. Not timed.
    arrays = task.batches.examples.arrays
    assert arrays is not None
    images = task.batches.examples.decode({"image": arrays["image"]})["image"]
    labels = jnp.asarray(arrays["label"])
    teacher_params = jax.tree.map(jnp.asarray, task.teacher_params)
    order = jnp.asarray(task.batches.chunk(0, task.steps)["index"])
    of_numpy = (np.asarray(images), np.asarray(labels), np.asarray(order))
    rows = list(order)
    seeds = [jax.tree.map(lambda x, seed=seed: x[seed], fresh) for seed in range(SEEDS)]
    # Copies, for the parameters are donated.
    points = [
        (
            task.grid["temperature"][i // SEEDS],
            task.grid["alpha"][i // SEEDS],
            jax.tree.map(jnp.array, seeds[i % SEEDS]),
        )
        for i in which
    ]
    jax.block_until_ready(points)

    start = time.perf_counter()
    by_hand = make_step(task)
    init = jax.jit(optax.adam(LEARNING_RATE).init)

    def on_rows(
        params: PyTree,
        opt_state: PyTree,
        teacher: PyTree,
        temperature: jax.Array,
        alpha: jax.Array,
        rows: jax.Array,
        images: jax.Array,
        labels: jax.Array,
    ) -> tuple[PyTree, PyTree, jax.Array]:
        return by_hand(params, opt_state, teacher, temperature, alpha, images[rows], labels[rows])

    def training(params: PyTree, opt_state: PyTree, *others: Any) -> tuple[PyTree, PyTree, jax.Array]:
        teacher, temperature, alpha, order, images, labels = others

        def body(carry: tuple[PyTree, PyTree], rows: jax.Array) -> tuple[tuple[PyTree, PyTree], jax.Array]:
            params, opt_state, loss = on_rows(*carry, teacher, temperature, alpha, rows, images, labels)
            return (params, opt_state), loss

        (params, opt_state), losses = jax.lax.scan(body, (params, opt_state), order)
        return params, opt_state, losses

    def batches() -> Iterator[tuple[Any, ...]]:
        """What the calls of one training get."""
        if way == "scan":
            yield order, images, labels
        elif way == "queued":
            yield from ((of_step, images, labels) for of_step in rows)
        else:
            yield from ((of_numpy[0][of_step], of_numpy[1][of_step]) for of_step in of_numpy[2])

    temperature, alpha, params = points[0]
    opt_state = init(params)
    function = {"loop": by_hand, "queued": on_rows, "scan": training}[way]
    jitted: Callable = jax.jit(function, donate_argnums=(0, 1))
    arguments = (teacher_params, temperature, alpha, *next(batches()))
    if way == "scan":
        jitted = jitted.lower(params, opt_state, *arguments).compile()
    else:
        # The first call compiles and fills the fast path of jit; its result is thrown away.
        spare = jax.tree.map(jnp.copy, (params, opt_state))
        jax.block_until_ready(jitted(*spare, *arguments))
    compilation = time.perf_counter() - start

    students = []
    start = time.perf_counter()
    for temperature, alpha, params in points:
        opt_state = init(params)
        losses = []
        for batch in batches():
            params, opt_state, loss = jitted(params, opt_state, teacher_params, temperature, alpha, *batch)
            if way == "loop":
                losses.append(float(loss))
        students.append(jax.block_until_ready(params))
    run = time.perf_counter() - start
    return Measured(compilation, run, jax.tree.map(lambda *x: jnp.stack(x), *students))


def accuracies(task: Task, students: PyTree) -> np.ndarray:
    """On the test split, of each of the students."""
    network = learners.stacked(networks.from_linen(task.student), len(jax.tree.leaves(students)[0]))
    test = data.load("digits", "test")
    logits, labels = evaluation.predict_labelled(network, {"params": students}, data.padded_batches(test, len(test)))
    return np.asarray(evaluation.accuracy(logits, labels))


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of the whole measurement")
    parser.add_argument("--sample", type=int, default=10, help="trainings a round that loop and scan really run")
    arguments = parser.parse_args()
    rounds, sample = arguments.rounds, arguments.sample
    if rounds < 1 or not 1 <= sample <= TRAININGS:
        parser.error(f"--rounds is at least 1, --sample between 1 and {TRAININGS}")

    task = make_task(arguments.epochs)
    # Spread over the grid and over the rounds: no two rounds have the same sample as long as they need not.
    spread = np.random.default_rng(0).permutation(TRAININGS)
    seconds: dict[str, list[tuple[float, float]]] = {"sweep": [], "loop": [], "queued": [], "scan": []}
    differences = []
    for i in range(rounds):
        which = [int(spread[j % TRAININGS]) for j in range(i * sample, (i + 1) * sample)]
        jax.clear_caches()
        swept, fresh = run_sweep(task)
        seconds["sweep"].append((swept.compilation, swept.run))
        expected = accuracies(task, swept.students)[which]
        for name in ("loop", "queued", "scan"):
            jax.clear_caches()
            measured = run_by_hand(task, fresh, which, name)
            seconds[name].append((measured.compilation, measured.run * TRAININGS / sample))
            differences.append(accuracies(task, measured.students) - expected)
        print(f"round {i + 1} of {rounds} is done", flush=True)

    table = Table(title=f"{TRAININGS} trainings of {task.steps} steps; median (least to most) of {rounds} rounds")
    for column in ("", "compilation, s", "run, s", "sweep is faster by, with compilation", "without"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in seconds.items():
        compilation, run = zip(*values, strict=True)
        pairs = list(zip(values, seconds["sweep"], strict=True))
        table.add_row(
            name,
            spread_of(compilation),
            spread_of(run),
            spread_of([sum(a) / sum(b) for a, b in pairs], "x"),
            spread_of([a[1] / b[1] for a, b in pairs], "x"),
        )
    Console(width=120).print(table)
    difference = np.concatenate(differences)
    print(
        f"By hand: {sample} of {TRAININGS} trainings were run in each round, and their time scaled by "
        f"{TRAININGS / sample:g}.\nTest accuracy, by hand less sweep, over {len(difference)} trainings: mean "
        f"{difference.mean():+.5f}, largest {np.abs(difference).max():.5f} (one image is {1 / 350:.5f}).\n"
        f"jax {jax.__version__}, {jax.default_backend()}."
    )


def spread_of(values: Sequence[float], unit: str = "") -> str:
    """``"median (least to most)"``."""
    return f"{statistics.median(values):.1f}{unit} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
