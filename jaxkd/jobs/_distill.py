"""The main job: a teacher, the student alone and the distilled student, and an honest comparison of them."""

import contextlib
import dataclasses
import importlib.util
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import jax
import numpy as np

from jaxkd.evaluation import Comparison
from jaxkd.jobs._config import DistillConfig, RunOptions, Settings, as_json, check_options, from_json, with_recipe
from jaxkd.jobs._job import DISTILLED, Job, mesh_of
from jaxkd.jobs._report import write_report
from jaxkd.jobs._rundir import RunError, open_run, read_config, write_atomically
from jaxkd.learners import Phase
from jaxkd.networks import Variables
from jaxkd.training import parallel, run
from jaxkd.training.checkpoints import CheckpointError, load_result, save_result
from jaxkd.training.logging import TensorBoardLog

SEARCH = "search"
"""What a search has in its ``config.json``, beside the settings."""


class Watcher(Protocol):
    """Who is told how a job goes on; the command line draws it."""

    def started(self, run: Path) -> None:
        """The directory of the run is there."""

    def phase(self, name: str, steps: int, start: int) -> None:
        """A training starts, at step ``start`` of ``steps``."""

    def chunk(self, name: str, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """A training has reached ``step``."""

    def note(self, text: str) -> None:
        """Something worth a line has happened."""

    def stop(self, step: int) -> str | None:
        """The reason to stop, if there is one."""


class Outcome(NamedTuple):
    """What a job leaves."""

    run: Path
    comparison: Comparison


def distill(
    config: DistillConfig, options: RunOptions, watcher: Watcher, quantize: Literal["int8"] | None = None
) -> Outcome:
    """Runs the job, or goes on with it.

    Three trainings share everything but what they learn from: the teacher (found again if it was trained before with
    the same settings), the student alone, on the images that have a label, and the distilled student, on all images.
    With fewer labels than images the student alone comes twice: for as many epochs over its own images as the distilled
    one has over all, and for as many steps. With ``quantize`` the distilled student comes in int8, too: quantised after
    training, its weights alone, and with what its layers take.

    Below the run's directory: ``config.json``, ``environment.json``, ``metrics.jsonl``, ``checkpoints/``, ``results/``
    (what each training deploys, and ``student``: the best distilled seed by validation accuracy), ``comparison.json``,
    ``report.html`` and ``plots/``.

    Raises:
      RunError: the run's directory cannot be used; see ``open_run``.
      ValueError, DivergedError, CheckpointError, InterruptedTraining: see ``training.run``.
    """
    settings, path = _resolve(config, options)
    check(options)
    job = Job(settings, mesh_of(options.mesh), options.data_dir, options.seeds_at_once, quantize)
    job.check()
    with open_run(path, as_json(settings), resume=options.resume is not None) as config_hash:
        watcher.started(path)
        results = train(job, path, config_hash, options, watcher)
        save_result(path / "results", "student", *job.best_student(results[DISTILLED]))
        comparison = job.compare(results)
        write_atomically(path / "comparison.json", comparison.to_json())
        write_report(path, comparison, settings)
    return Outcome(path, comparison)


def check(options: RunOptions) -> None:
    """Raises, before a directory is made, for what no run can end with: what cannot be run leaves nothing behind."""
    check_options(options)
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('the report needs matplotlib: pip install "jaxkd[demo]"')


def train(job: Job, path: Path, config_hash: str, options: RunOptions, watcher: Watcher) -> dict[str, Variables]:
    """Trains all phases of a job in its directory, the teacher only if no run has trained it before.

    Returns:
      What each phase deploys, by its name.
    """
    teachers = Path(options.workdir) / "teachers"
    teacher_name = f"{job.config.dataset}-{job.config.teacher}-{job.teacher_hash}"
    if job.given_teacher is None:
        _find_teacher(teachers, teacher_name, path / "results", watcher)
    elif not (path / "results" / "teacher").exists():
        save_result(path / "results", "teacher", job.given_teacher, {"weights": job.config.teacher_weights})
    started = time.monotonic()

    def tensorboard(phase: Phase, start: int) -> list[TensorBoardLog]:
        # In a directory of its own: what a resume purges there is of this phase only.
        return [TensorBoardLog(path / "tensorboard" / phase.name, purge_step=start + 1)]

    results = run(
        job.phases,
        job.batches(job.train),
        key=jax.random.key(job.config.seed),
        workdir=path,
        config_hash=config_hash,
        mesh=job.mesh,
        mode=job.config.parallel,
        chunk=options.chunk,
        evaluate=job.validation,
        every=(lambda phase: math.ceil(phase.steps / 5)) if options.every is None else options.every,
        best="validation/accuracy",
        keep=options.keep,
        phase_logs=tensorboard if options.tensorboard else None,
        on_phase=lambda phase, start: watcher.phase(phase.name, phase.steps, start),
        on_chunk=lambda phase, step, metrics: watcher.chunk(phase.name, step, metrics),
        on_skipped=lambda phase, step, why: watcher.note(f"{phase.name}: passed over step {step}: {why}"),
        stop=watcher.stop,
        profile=str(path / "profile") if options.profile else None,
    )
    # Another run may have been first, with other last bits: what is there stays.
    if job.given_teacher is None:
        with contextlib.suppress(CheckpointError):
            save_result(teachers, teacher_name, results["teacher"], {"config": job.teacher_config})
    watcher.note(f"trained in {time.monotonic() - started:.1f} s")
    return results


def evaluate(
    path: Path, split: str = "test", data_dir: str | None = None, quantize: Literal["int8"] | None = None
) -> Comparison:
    """Compares the results of a finished run again, on any split, and with the student in int8 if asked for.

    Raises:
      RunError: there is no such run, or it is not finished.
    """
    job = Job(_stored(path), parallel.make_mesh(devices=jax.devices()[:1]), data_dir, quantize=quantize)
    try:
        results = {phase.name: load_result(path / "results", phase.name).variables for phase in job.phases}
    except FileNotFoundError as error:
        raise RunError(f"run {path.name} is not finished: go on with --resume {path.name} ({error})") from None
    return job.compare(results, split)


def _resolve(config: DistillConfig, options: RunOptions) -> tuple[Settings, Path]:
    """The whole settings, and the directory of the run."""
    if options.resume is None:
        settings = with_recipe(config)
        return settings, new_run(settings, options)
    path = resumed_run(options)
    stored = _stored(path)
    check_asked(config, stored, path)
    return stored, path


def _stored(path: Path) -> Settings:
    """The settings that a run of this job was started with."""
    fields = read_config(path)
    if SEARCH in fields:
        raise RunError(f"run {path.name} is a search: jaxkd search --resume {path.name} goes on with it and compares")
    return from_json(fields)


def new_run(settings: Settings, options: RunOptions) -> Path:
    """The directory of a run that is to be made, by a name of its own where none is asked for."""
    workdir = Path(options.workdir)
    stem = f"{settings.dataset}-{settings.student}-{time.strftime('%Y%m%d-%H%M%S')}"
    return workdir / _plain(options.name or _unused(workdir, stem))


def resumed_run(options: RunOptions) -> Path:
    """The directory of the run to go on with."""
    assert options.resume is not None
    if options.name not in (None, options.resume):
        raise RunError(f"--resume {options.resume} and --name {options.name} are two runs: give one")
    return Path(options.workdir) / _plain(options.resume)


def check_asked(config: DistillConfig, stored: Settings, path: Path) -> None:
    """Raises RunError if something is asked of a run that it was not started with."""
    for field in dataclasses.fields(config):
        asked = getattr(config, field.name)
        if asked != field.default and asked != getattr(stored, field.name):
            raise RunError(
                f"run {path.name} was started with another config: {field.name} is {getattr(stored, field.name)!r} "
                f"there and {asked!r} here; resume it without --{field.name.replace('_', '-')}, or start a new run"
            )


def _find_teacher(teachers: Path, name: str, results: Path, watcher: Watcher) -> None:
    """Copies the teacher of an earlier run into this one, unless this one has its own already."""
    if (results / "teacher").exists():
        return
    try:
        found = load_result(teachers, name)
    except FileNotFoundError:
        return
    except CheckpointError as damage:
        watcher.note(f"the teacher is trained anew: {damage}")
        return
    save_result(results, "teacher", found.variables, found.metadata)
    watcher.note(f"found the teacher {name}")


def _unused(workdir: Path, name: str) -> str:
    """The name, with a number where one of the same second is there."""
    names = (name, *(f"{name}-{i}" for i in range(2, 100)))
    return next(candidate for candidate in names if not (workdir / candidate).exists())


def _plain(name: str) -> str:
    if Path(name).name != name:
        raise RunError(f"the name of a run is a plain directory name, not {name!r}")
    return name
