"""Runs the phases of a method, so that being killed anywhere and resumed is the same as never having been killed."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxkd.learners import Phase
from jaxkd.networks import PyTree, Variables
from jaxkd.training import parallel
from jaxkd.training._fit import Metrics, example_batch, fit
from jaxkd.training.checkpoints import CheckpointError, Checkpoints, load_result, save_result, tree_hash
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
    logs: Sequence[Any] = (),
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
    its hash, and the state is that of the newest sound checkpoint, to which the metrics are cut.

    Args:
      phases: in order; their names are unique.
      data: the batches of phases that bring none of their own.
      key: of the whole run; phase i draws from ``fold_in(key, i)``.
      workdir: the directory of the run.
      config_hash: of the configuration; a checkpoint of another one is refused.
      mesh: from ``parallel.make_mesh``; by default one device.
      mode: see ``parallel.compile``.
      chunk: steps per call, see ``fit``.
      evaluate: ``phase -> (state, frozen) -> metrics``, see ``fit``.
      every: evaluate and save every so many steps: a number, or ``phase -> number``; see ``fit``.
      best: the name of an evaluated metric: the checkpoint where it is highest is kept.
      keep: how many of the newest checkpoints are kept.
      logs: more places that get the metrics of every step, beside ``metrics.jsonl``.
      on_phase: ``(phase, step it starts at)``, when a phase starts.
      on_chunk: ``(phase, steps done, metrics)``, after each chunk.
      on_skipped: ``(phase, step, reason)``, for each checkpoint that was found damaged and passed over.
      stop: see ``fit``.
      profile: a directory for the profile of the second chunk of each phase.

    Returns:
      What each phase deploys, by its name.

    Raises:
      CheckpointError: a checkpoint is of another configuration or another teacher, or cannot be written.
      DivergedError, InterruptedTraining, ValueError: see ``fit``.
    """
    workdir = Path(workdir)
    names = [phase.name for phase in phases]
    if len(set(names)) != len(names):
        raise ValueError(f"phases need names of their own, and these are {names}")
    results: dict[str, Variables] = {}
    # Phases of one learner over one data set (the generations of a born-again network) share their compiled program.
    programs: dict[tuple[int, int], parallel.Compiled] = {}
    with MetricsLog(workdir / "metrics.jsonl") as metrics:
        for number, phase in enumerate(phases):
            try:
                results[phase.name] = load_result(workdir / "results", phase.name).variables
                continue
            except FileNotFoundError:
                pass
            except CheckpointError as damage:
                # Its last checkpoint is still there, and gives the same result again.
                if on_skipped is not None:
                    on_skipped(phase, phase.steps, str(damage))
            of_phase = data if phase.data is None else phase.data
            program = (id(phase.learner), id(of_phase))
            if program not in programs:
                programs[program] = parallel.compile(phase.learner, of_phase, mesh=mesh, mode=mode)
            state, frozen = phase.enter(jax.random.fold_in(key, number), results, example_batch(of_phase))
            with Checkpoints(
                workdir / "checkpoints" / phase.name,
                keep=keep,
                best=best,
                config_hash=config_hash,
                frozen_hash=tree_hash(frozen),
            ) as checkpoints:
                restored = checkpoints.restore(state)
                start = 0
                if restored is not None:
                    start, state = restored.step, restored.state
                    for step, reason in restored.skipped:
                        if on_skipped is not None:
                            on_skipped(phase, step, reason)
                metrics.cut(phase.name, start)
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
                    logs=(metrics, *logs),
                    on_chunk=None if on_chunk is None else functools.partial(on_chunk, phase),
                    stop=stop,
                    profile=profile,
                    name=phase.name,
                )
            results[phase.name] = phase.learner.deploy(state, frozen)
            save_result(workdir / "results", phase.name, results[phase.name], {"steps": phase.steps})
    return results
