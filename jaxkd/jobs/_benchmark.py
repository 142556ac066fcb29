"""Methods x seeds on one data set: every method trained alike, and its difference to KD."""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from jaxkd import data, evaluation
from jaxkd.evaluation import Benchmark, Trained
from jaxkd.jobs._benchmark_rows import BenchmarkConfig, Entry, Pair, entries_of, jobs_of, renamed
from jaxkd.jobs._config import RunOptions, as_json
from jaxkd.jobs._distill import Watcher, check, new_run, resumed_run
from jaxkd.jobs._job import Job
from jaxkd.jobs._rundir import RunError, open_run, read_config, write_atomically
from jaxkd.learners import Phase, stacked
from jaxkd.networks import Network, Variables
from jaxkd.training import DivergedError, example_batch, run
from jaxkd.training.logging import read_metrics

_EVALUATIONS = 5
_TEST = "test/accuracy"
_VALIDATION = "validation/accuracy"
_EVALUATION_BATCH = 1000


class _Shared(NamedTuple):
    """What all rows of a pair share: its job, the student of all seeds, and the splits that are measured."""

    pair: Pair
    job: Job
    network: Network
    splits: Mapping[str, Any]


def benchmark(config: BenchmarkConfig, options: RunOptions, watcher: Watcher) -> tuple[Path, Benchmark]:
    """Trains all methods and writes the table, or goes on with it.

    Each method is trained twice where it can stand beside hard and soft labels: with the cross-entropy (weight 1), and
    with KD (hard labels .1, soft labels .9, T = 4). The others are trained as they were published. Every row starts
    from the same fresh students and sees the same batches. The test split is measured at every evaluation; nothing is
    chosen by it.

    Below the run's directory: ``config.json``, ``environment.json``, ``metrics.jsonl`` and ``results/`` of the teachers
    and in ``rows/`` of each row, ``benchmark.json``, ``benchmark.md`` and ``plots/benchmark.png``.

    Raises:
      RunError: the run's directory cannot be used; see ``open_run``.
      ValueError: a method is unknown, or cannot be trained with these networks.
      CheckpointError, InterruptedTraining: see ``training.run``.
    """
    check(options)
    if options.tensorboard or options.profile:
        raise ValueError("a benchmark writes no log for TensorBoard and no profile: leave out --tensorboard, --profile")
    if options.resume is not None:
        path = resumed_run(options)
        stored = read_config(path).get("benchmark")
        if stored is None:
            raise RunError(f"run {path.name} is no benchmark: see jaxkd distill --resume, or jaxkd search --resume")
        asked = dataclasses.asdict(config)
        for name, value in dataclasses.asdict(BenchmarkConfig()).items():
            if asked[name] != value and list(np.atleast_1d(asked[name])) != list(np.atleast_1d(stored[name])):
                raise RunError(f"run {path.name} has {name} {stored[name]!r}, not {asked[name]!r}: resume it without")
        config = BenchmarkConfig(**{**stored, "methods": tuple(stored["methods"])})
    jobs = jobs_of(config, options)
    if options.resume is None:
        path = new_run(next(iter(jobs.values()))[1].config, options)
    entries = [entry for pair, job in jobs.values() for entry in entries_of(config, pair, job)]
    _check(entries, {pair.title: job for pair, job in jobs.values()})
    first = next(iter(jobs.values()))[1]
    settings = {"benchmark": {**dataclasses.asdict(config), "methods": list(config.methods)}, **as_json(first.config)}
    with contextlib.ExitStack() as stack:
        config_hash = stack.enter_context(open_run(path, settings, resume=options.resume is not None))
        watcher.started(path)
        stack.enter_context(_compile_once())
        pairs = {pair.title: _shared(pair, job, options) for pair, job in jobs.values()}
        trainer = _Trainer(path, config_hash, options, watcher)
        teachers = {title: _teach(pair, trainer) for title, pair in pairs.items()}
        rows = [_train(entry, pairs[entry.row.pair], teachers, trainer) for entry in entries]
        examples = len(data.load(config.dataset, "test", data_dir=options.data_dir))
        table = Benchmark(
            f"{config.dataset}: methods", examples, _protocol(options, list(pairs.values()), teachers), tuple(rows)
        )
        write_atomically(path / "benchmark.json", table.to_json() + "\n")
        write_atomically(path / "benchmark.md", table.to_markdown())
        (path / "plots").mkdir(exist_ok=True)
        table.draw(path / "plots" / "benchmark.png")
    return path, table


@contextlib.contextmanager
def _compile_once() -> Iterator[None]:
    """Keeps what was compiled where JAX has no such cache already: many rows begin with the same program."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    if before[names[0]]:
        yield
        return
    with tempfile.TemporaryDirectory() as directory:
        for name, value in zip(names, (directory, 0.1), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def _check(entries: Sequence[Entry], jobs: Mapping[str, Job]) -> None:
    """Starts every phase on shapes alone: what cannot be trained is known before anything is."""
    teachers: dict[str, Any] = {}
    for pair, job in jobs.items():
        network, batch = job.teacher, example_batch(job.batches(job.train))
        teachers[f"{pair}, teacher"] = jax.eval_shape(network.init, jax.random.key(0), batch)
    for entry in entries:
        results = dict(teachers)
        for phase in entry.phases:

            def deployed(results: Any, phase: Phase = phase) -> Any:
                return phase.learner.deploy(*phase.enter(jax.random.key(0), results, example_batch(phase.data)))

            results[phase.name] = jax.eval_shape(deployed, results)


class _Trainer(NamedTuple):
    """Where and how all rows are trained."""

    path: Path
    config_hash: str
    options: RunOptions
    watcher: Watcher

    def run(self, phases: Sequence[Phase], job: Job, workdir: Path, **more: Any) -> dict[str, Variables]:
        options, watcher = self.options, self.watcher
        return run(
            phases,
            job.batches(job.train),
            key=jax.random.key(job.config.seed),
            workdir=workdir,
            config_hash=self.config_hash,
            mesh=job.mesh,
            chunk=options.chunk,
            every=lambda phase: options.every or math.ceil(phase.steps / _EVALUATIONS),
            keep=options.keep,
            on_phase=lambda phase, start: watcher.phase(phase.name, phase.steps, start),
            on_chunk=lambda phase, step, metrics: watcher.chunk(phase.name, step, metrics),
            stop=watcher.stop,
            **more,
        )


def _teach(shared: _Shared, trainer: _Trainer) -> Variables:
    pair, job, *_ = shared
    teacher = renamed(next(phase for phase in job.phases if phase.name == "teacher"), pair, job.config.seed, "teacher")
    return trainer.run([teacher], job, trainer.path)[teacher.name]


def _train(entry: Entry, shared: _Shared, teachers: Mapping[str, Variables], trainer: _Trainer) -> Trained:
    """Trains the phases of a row in its own directory, unless they are there, and gives the row with its numbers."""
    pair, job, network, splits = shared
    teacher = {f"{pair.title}, teacher": teachers[pair.title]}

    def taught(phase: Phase) -> Phase:
        return phase._replace(enter=lambda key, results, batch: phase.enter(key, {**teacher, **results}, batch))

    def measured(phase: Phase) -> Callable[[Any, Any], dict[str, Any]]:
        # One network for all rows that deploy the student: its forward passes are then compiled once.
        deploys_student = phase.name == entry.phases[-1].name and entry.network is job.student
        of_phase = network if deploys_student else phase.learner.network

        def evaluate(state: Any, frozen: Any) -> dict[str, Any]:
            variables = phase.learner.deploy(state, frozen)
            found = {name: evaluation.predict_labelled(of_phase, variables, split) for name, split in splits.items()}
            return {name: evaluation.accuracy(*predicted) for name, predicted in found.items()}

        return evaluate

    name = entry.phases[-1].name
    workdir = trainer.path / "rows" / name
    try:
        trainer.run([taught(phase) for phase in entry.phases], job, workdir, evaluate=measured)
    except DivergedError as error:
        trainer.watcher.note(f"{name}: {error}")
        return dataclasses.replace(entry.row, note="; ".join(filter(None, (entry.row.note, f"step {error.step}"))))
    last, best = accuracies(workdir / "metrics.jsonl", name)
    return dataclasses.replace(entry.row, last=last, best=best)


def accuracies(metrics: Path, phase: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Each seed's test accuracy after the last step, and where its validation accuracy was highest, first of equals."""
    records = [one for one in read_metrics(metrics) if one["phase"] == phase and _TEST in one]
    validation, test = (np.asarray([one[name] for one in records], np.float64) for name in (_VALIDATION, _TEST))
    best = np.take_along_axis(test, np.argmax(validation, 0)[None], 0)[0]
    return tuple(test[-1].tolist()), tuple(best.tolist())


def _shared(pair: Pair, job: Job, options: RunOptions) -> _Shared:
    splits = {}
    for name, split in ((_VALIDATION, "validation"), (_TEST, "test")):
        examples = data.load(job.config.dataset, split, data_dir=options.data_dir)
        batches = data.padded_batches(examples, min(_EVALUATION_BATCH, len(examples)))
        splits[name] = evaluation.on_device(batches, job.mesh)
    return _Shared(pair, job, stacked(job.student, job.config.seeds), splits)


def _protocol(options: RunOptions, pairs: Sequence[_Shared], teachers: Mapping[str, Variables]) -> tuple[str, ...]:
    job, settings = pairs[0].job, pairs[0].job.config
    held_out = len(data.load(settings.dataset, "validation", data_dir=options.data_dir))
    states = f"{_EVALUATIONS} states" if options.every is None else f"the states every {options.every} steps"
    epochs = " and ".join(f"{of_pair.job.config.epochs:g} ({of_pair.pair.student})" for of_pair in pairs)
    taught = []
    for pair, of_pair, _, splits in pairs:
        predicted = evaluation.predict_labelled(of_pair.teacher, teachers[pair.title], splits[_TEST])
        taught.append(f"{pair.teacher} {float(evaluation.accuracy(*predicted)):.1%}")
    return (
        f"Teachers, on the test split: {', '.join(taught)}.",
        f"{settings.seeds} seeds of each row, from the same fresh students and on the same batches; "
        f"{epochs} epochs of each phase, Adam {settings.learning_rate:g} to 0 by a cosine, batches of "
        f"{settings.batch_size}.",
        f"Labels: all {len(job.train)} of the training split, by every row. No row was tuned: methods have the numbers "
        f"of their papers, for other data and networks. The {held_out} labels of the validation split choose one of "
        f"{states} as the best epoch, and nothing else.",
        "Beside: cross-entropy has weight 1; KD is hard labels .1 and soft labels .9 at T = 4.",
    )
