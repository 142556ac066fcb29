"""Runs the phases of a method, so that being killed anywhere and resumed is the same as never having been killed."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxkd.learners import Phase
from jaxkd.networks import PyTree, Variables
from jaxkd.training import parallel
from jaxkd.training._fit import Log, Metrics, example_batch, fit
from jaxkd.training.checkpoints import (
    CheckpointError,
    CheckpointMismatchError,
    Checkpoints,
    load_result,
    save_result,
    tree_hash,
)
from jaxkd.training.logging import MetricsLog

Evaluate = Callable[[PyTree, PyTree], Mapping[str, Any]]


def run(
    phases: Sequence[Phase],
    data: parallel.Data,
    *,
    key: jax.Array,
    workdir: str | Path,
    config_hash: str = "",
    mesh: Any = None,
    mode: parallel.Mode = "jit",
    chunk: int | None = None,
    evaluate: Callable[[Phase], Evaluate] | None = None,
    every: int | Callable[[Phase], int] | None = None,
    best: str | None = None,
    keep: int = 3,
    phase_logs: Callable[[Phase, int], Sequence[Log]] | None = None,
    on_phase: Callable[[Phase, int], None] | None = None,
    on_chunk: Callable[[Phase, int, Metrics], None] | None = None,
    on_skipped: Callable[[Phase, int, str], None] | None = None,
    stop: Callable[[int], str | None] | None = None,
    profile: str | None = None,
) -> dict[str, Variables]:
    """Trains phase after phase and returns what each of them deploys.

    Below ``workdir``: ``metrics.jsonl``, the metrics of every step; ``checkpoints/PHASE``, the newest states;
    ``results/PHASE``, what a finished phase deploys, written once. Called again on the same ``workdir`` it goes on
    where it was: results of finished phases are read, ``enter`` is called again on them, what is frozen is compared by
    its hash, and the state is that of the newest sound checkpoint, to which the metrics are cut. A result that is there
    already without a run's hashes in its metadata (``checkpoints.save_result``) is taken for its phase's.

    Several processes call it alike, with one ``workdir`` on a file system they share. The first one writes the metrics.

    Args:
      phases: in order; their names are unique.
      data: the batches of phases that bring none of their own.
      key: of the whole run; phase i draws from ``fold_in(key, i)``.
      workdir: the directory of the run.
      config_hash: of the configuration; checkpoints and results of another one are refused.
      mesh: from ``parallel.make_mesh``; by default one device.
      mode: see ``parallel.compile``.
      chunk: steps per call, see ``fit``.
      evaluate: ``phase -> (state, frozen) -> metrics``, see ``fit``.
      every: evaluate and save every so many steps: a number, or ``phase -> number``; see ``fit``.
      best: the name of an evaluated metric: the checkpoint where it is highest is kept.
      keep: how many of the newest checkpoints are kept.
      phase_logs: ``(phase, step it starts at) -> logs``: more places that get the metrics of every step, beside
        ``metrics.jsonl``, opened when a phase starts and closed when it ends. Asked in the first process only.
      on_phase: ``(phase, step it starts at)``, when a phase starts.
      on_chunk: ``(phase, steps done, metrics)``, after each chunk.
      on_skipped: ``(phase, step, reason)``, for each checkpoint that was found damaged and passed over.
      stop: see ``fit``.
      profile: a directory for the profile of the second chunk of each phase.

    Returns:
      What each phase deploys, by its name.

    Raises:
      CheckpointMismatchError: a checkpoint or a result is of another configuration, teacher, learner or length.
      CheckpointError: a checkpoint cannot be written, or none is sound.
      DivergedError, InterruptedTraining, ValueError: see ``fit``.
    """
    workdir = Path(workdir)
    names = [phase.name for phase in phases]
    if len(set(names)) != len(names):
        raise ValueError(f"phases need names of their own, and these are {names}")
    results: dict[str, Variables] = {}
    batches: dict[int, Any] = {}
    # Phases of one learner over one data set (the generations of a born-again network) share their compiled program.
    programs: dict[tuple[int, int], parallel.Compiled] = {}
    with contextlib.ExitStack() as stack:
        # Of several processes one writes the metrics, which are the same in all of them.
        metrics = stack.enter_context(MetricsLog(workdir / "metrics.jsonl")) if jax.process_index() == 0 else None
        for number, phase in enumerate(phases):
            of_phase = data if phase.data is None else phase.data
            if id(of_phase) not in batches:
                batches[id(of_phase)] = example_batch(of_phase)
            state, frozen = phase.enter(jax.random.fold_in(key, number), results, batches[id(of_phase)])
            like = jax.eval_shape(phase.learner.deploy, state, frozen)
            frozen_hash = tree_hash(frozen)
            origin = {"config_hash": config_hash, "frozen_hash": frozen_hash, "steps": phase.steps}
            try:
                results[phase.name] = _read_result(workdir / "results", phase.name, like, origin)
                continue
            except FileNotFoundError:
                pass
            except CheckpointMismatchError:
                raise
            except CheckpointError as damage:
                # Its last checkpoint is still there, and gives the same result again.
                if on_skipped is not None:
                    on_skipped(phase, phase.steps, str(damage))
            program = (id(phase.learner), id(of_phase))
            if program not in programs:
                programs[program] = parallel.compile(phase.learner, of_phase, mesh=mesh, mode=mode)
            with (
                Checkpoints(
                    workdir / "checkpoints" / phase.name,
                    keep=keep,
                    best=best,
                    config_hash=config_hash,
                    frozen_hash=frozen_hash,
                ) as checkpoints,
                contextlib.ExitStack() as of_logs,
            ):
                restored = checkpoints.restore(state)
                start = 0
                if restored is not None:
                    start, state = restored.step, restored.state
                    if start > phase.steps:
                        raise CheckpointMismatchError(
                            f"the newest checkpoint in {workdir / 'checkpoints' / phase.name} is of step {start}, and "
                            f"the phase has {phase.steps} steps: give it as many as before, or choose another workdir"
                        )
                    for step, reason in restored.skipped:
                        if on_skipped is not None:
                            on_skipped(phase, step, reason)
                logs: list[Log] = []
                if metrics is not None:
                    metrics.cut(phase.name, start)
                    logs.append(metrics)
                    for log in () if phase_logs is None else phase_logs(phase, start):
                        of_logs.callback(log.close)
                        logs.append(log)
                if on_phase is not None:
                    on_phase(phase, start)
                state, _ = fit(
                    phase.learner,
                    of_phase,
                    phase.steps,
                    state=state,
                    frozen=frozen,
                    start=start,
                    compiled=programs[program],
                    chunk=chunk,
                    evaluate=None if evaluate is None else evaluate(phase),
                    every=every(phase) if callable(every) else every,
                    checkpoints=checkpoints,
                    logs=logs,
                    on_chunk=None if on_chunk is None else functools.partial(on_chunk, phase),
                    stop=stop,
                    profile=profile,
                    name=phase.name,
                )
            save_result(workdir / "results", phase.name, phase.learner.deploy(state, frozen), origin)
            # What the next phase gets is what a resumed run would give it: the same containers, on the same device.
            results[phase.name] = _read_result(workdir / "results", phase.name, like, origin)
    return results


def _read_result(directory: Path, name: str, like: Variables, origin: Mapping[str, Any]) -> Variables:
    """A finished phase's result, if it comes from this run as it is now."""
    result = load_result(directory, name, like)
    for field, here in origin.items():
        # A teacher that was found elsewhere and put there does not say how this run would have trained it.
        there = result.metadata.get(field, here)
        if there != here:
            raise CheckpointMismatchError(
                f"the result {directory / name} has {field} {there!r}, this run has {here!r}: choose another workdir"
            )
    return result.variables
