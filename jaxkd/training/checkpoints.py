"""Rotating checkpoints of a running phase, and the results of finished ones.

Orbax writes asynchronously and atomically, but it does not notice a flipped byte, takes an empty step directory for the
latest checkpoint and raises a bare error on a truncated file. So a manifest with a digest of every leaf is committed
together with the arrays, nothing is restored that does not agree with it, and what is damaged is named and passed over.
"""

import errno
import math
import os
import shutil
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxkd.training._orbax import epath
from jaxkd.training._tree_store import (
    CheckpointError,
    CheckpointMismatchError,
    Manifest,
    describe_mismatch,
    leaf_specs,
    one_line,
    read_manifest,
    read_tree,
    tree_hash,
    write_tree,
)
from jaxkd.training.logging import from_jsonable, to_jsonable

__all__ = [
    "CheckpointError",
    "CheckpointMismatchError",
    "Checkpoints",
    "Restored",
    "Result",
    "load_result",
    "save_result",
    "tree_hash",
]

# How Orbax names a directory that it has not committed yet.
_TEMPORARY = ".orbax-checkpoint-tmp"


class Restored(NamedTuple):
    """A checkpoint that was read back bit for bit.

    `skipped` lists the newer ones that were not sound, newest first: `(400, "leaf params/kernel: digest differs ...")`.
    """

    step: int
    state: Any
    metrics: dict[str, float]
    skipped: list[tuple[int, str]]


class Result(NamedTuple):
    """What a finished phase left behind."""

    variables: Any
    metadata: dict[str, Any]


class Checkpoints:
    """A directory of rotating checkpoints, for one phase of one run.

    The teacher is never in them: `frozen_hash` says which one it was. Every process of a multi-host program has to make
    the same calls, on a file system they share. A saved state is also plain Orbax:
    `orbax.checkpoint.v1.load_checkpointables(directory / "400")["arrays"]`.

    Args:
      directory: is made if it does not exist; a local path or a bucket (`gs://...`).
      keep: how many of the newest checkpoints are kept.
      best: name of the metric, higher is better, whose best checkpoint is kept as well; the first one of equals.
      config_hash: identifies the config of the run; `restore` refuses another one's checkpoints.
      frozen_hash: `tree_hash` of the learner's frozen part; likewise.

    Raises:
      CheckpointError: the directory is a file or cannot be written.
      ValueError: `keep` is less than 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        best: str | None = None,
        config_hash: str = "",
        frozen_hash: str = "",
    ):
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least 1 checkpoint has to be kept")
        self._directory = _writable_directory(directory)
        self._keep = keep
        self._best = best
        self._hashes = {"config_hash": config_hash, "frozen_hash": frozen_hash}
        self._pending: tuple[int, Any] | None = None
        self._unsound: set[int] = set()
        self._discard_uncommitted()

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Starts to write a checkpoint; at most one is being written, an earlier one is waited for first.

        The state is copied to the host before this returns, so that its buffers may be donated to the next step.

        Args:
          step: how many steps have been taken; larger than that of every checkpoint here that is sound.
          state: pytree of arrays.
          metrics: numbers by name, among them the one that `best` names.

        Raises:
          CheckpointError: the earlier save failed (a full disk), or this one at its start; or the directory holds a
            checkpoint at this step or later.
          ValueError: the metric that `best` names is missing, or two leaves cannot be told apart by name.
          TypeError: a leaf is not an array.
        """
        self.wait()
        metrics = metrics or {}
        if self._best is not None and self._best not in metrics:
            raise ValueError(f"metrics have no {self._best!r}, by which the best checkpoint is kept: {sorted(metrics)}")
        newer = [s for s in self.steps() if s >= step]
        if newer:
            raise CheckpointError(
                f"{self._directory} already holds a checkpoint of step {newer[-1]}, and step {step} is to be saved: "
                "restore it first, or choose another directory"
            )
        leaf_specs(state)  # raises for what is no state, before anything is touched
        self._delete(step)
        self._check_space(step, state)
        header = {**self._hashes, "step": step, "metrics": {k: to_jsonable(float(v)) for k, v in metrics.items()}}
        try:
            self._pending = step, write_tree(self._directory / str(step), state, header)
        except Exception as error:  # a full disk comes as any of several types
            raise self._failed(step, error) from error

    def wait(self) -> None:
        """Waits for the checkpoint that is being written, and deletes those that it makes superfluous.

        Raises:
          CheckpointError: it could not be written; the ones before are still there.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        try:
            response.result()
        except Exception as error:
            raise self._failed(step, error) from error
        self._rotate()

    def restore(self, like: Any, step: int | None = None) -> Restored | None:
        """Reads the newest checkpoint that is sound, or the one of `step`.

        Args:
          like: tree of arrays or `jax.ShapeDtypeStruct`, such as `jax.eval_shape` of the learner's init; leaves are
            placed on its shardings.
          step: only this one, such as `best_step()`.

        Returns:
          The checkpoint, or None if there is none at all.

        Raises:
          CheckpointMismatchError: the newest sound checkpoint is of another config, another teacher or another program;
            the message names both sides.
          CheckpointError: there are checkpoints, but none is sound.
        """
        self.wait()
        steps = self._directories() if step is None else [step]
        skipped: list[tuple[int, str]] = []
        for candidate in reversed(steps):
            directory = self._directory / str(candidate)
            state, reason = None, ""
            try:
                manifest = read_manifest(directory)
                self._check(candidate, manifest, like)
                state = read_tree(directory, manifest, like)
            except CheckpointMismatchError:
                raise
            except CheckpointError as error:
                reason = str(error)
            if _all_processes(not reason):
                metrics = from_jsonable(manifest.header["metrics"])
                return Restored(candidate, state, metrics, skipped)
            self._unsound.add(candidate)
            skipped.append((candidate, reason or "another process could not read it"))
        if not skipped:
            return None
        listed = "; ".join(f"step {number}: {reason}" for number, reason in skipped)
        raise CheckpointError(f"no checkpoint in {self._directory} is sound ({listed}): delete it to start anew")

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending; without those that `restore` found damaged."""
        return [step for step in self._directories() if step not in self._unsound and self._manifest(step) is not None]

    def best_step(self) -> int | None:
        """The step with the highest metric `best`, or None if there is none (NaN is never the best)."""
        if self._best is None:
            return None
        found, highest = None, -math.inf
        for step in self.steps():
            manifest = self._manifest(step)
            value = from_jsonable(manifest.header["metrics"].get(self._best, "NaN")) if manifest else math.nan
            if value > highest:
                found, highest = step, value
        return found

    def close(self) -> None:
        """Waits for the checkpoint that is being written, like `wait`."""
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, step: int, manifest: Manifest, like: Any) -> None:
        where = f"the checkpoint of step {step} in {self._directory}"
        cures = {
            "config_hash": "resume with the config it was written with, or choose another run name",
            "frozen_hash": "resume with the teacher it was trained with, or choose another run name",
        }
        for name, cure in cures.items():
            there, here = manifest.header[name], self._hashes[name]
            if there != here:
                raise CheckpointMismatchError(f"{where} has {name} {there!r}, this run has {here!r}: {cure}")
        difference = describe_mismatch(manifest, like)
        if difference is not None:
            raise CheckpointMismatchError(f"{where} holds another state: {difference}; resume with the same learner")

    def _check_space(self, step: int, state: Any) -> None:
        """Raises if a local disk cannot hold what may be written: known before, it need not fail half-way."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError:
            return  # a bucket
        if free < needed:
            raise self._failed(step, OSError(errno.ENOSPC, f"it needs {needed:,} bytes, and {free:,} are free"))

    def _rotate(self) -> None:
        steps = self.steps()
        kept = {*steps[-self._keep :], self.best_step()}
        for step in self._directories():
            if step not in kept:
                self._delete(step)

    def _delete(self, step: int) -> None:
        directory = self._directory / str(step)
        if jax.process_index() == 0 and directory.exists():
            # The manifest goes first: killed in between, what is left is not taken for a checkpoint.
            for part in (directory / "manifest", directory):
                if part.exists():
                    part.rmtree()
        self._unsound.discard(step)
        _barrier("jaxkd_checkpoint_deleted")

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        self._discard_uncommitted()
        steps = self.steps()
        rest = f"the last good one is of step {steps[-1]}" if steps else "there is none before it"
        return CheckpointError(f"the checkpoint of step {step} in {self._directory} failed, {rest}: {one_line(error)}")

    def _discard_uncommitted(self) -> None:
        if jax.process_index() == 0:
            for entry in self._directory.iterdir():
                if _TEMPORARY in entry.name:
                    entry.rmtree()
        _barrier("jaxkd_checkpoints_swept")

    def _directories(self) -> list[int]:
        return sorted(int(entry.name) for entry in self._directory.iterdir() if entry.name.isdecimal())

    def _manifest(self, step: int) -> Manifest | None:
        try:
            return read_manifest(self._directory / str(step))
        except CheckpointError:
            return None


def save_result(
    directory: str | os.PathLike[str], name: str, variables: Any, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes the result of a finished phase, once, and waits until it is there; it appears whole or not at all.

    Saving the same variables again changes nothing, which is what a resumed run does; a damaged result is replaced.

    Args:
      directory: where the results of a run are, apart from its rotating checkpoints.
      name: of the phase; a plain file name.
      variables: pytree of arrays.
      metadata: numbers, strings and lists to go with them.

    Raises:
      CheckpointError: it could not be written, or there is a sound result with this name and other variables.
      ValueError: the name is not a plain file name.
    """
    target = _writable_directory(directory) / _plain(name)
    header = {"metadata": to_jsonable(metadata or {}), "hash": tree_hash(variables)}
    try:
        there = load_result(directory, name) if target.exists() else None
    except CheckpointError:
        there = None
    if there is not None:
        if tree_hash(there.variables) == header["hash"]:
            return
        raise CheckpointError(f"{target} is already written, with other variables: choose another run name")
    if jax.process_index() == 0:
        for damaged in (target, target.with_name(target.name + _TEMPORARY)):
            if damaged.exists():
                damaged.rmtree()
    _barrier("jaxkd_result_cleared")
    try:
        write_tree(target, variables, header).result()
    except Exception as error:  # a full disk comes as any of several types
        raise CheckpointError(f"the result {target} could not be written: {one_line(error)}") from error


def load_result(directory: str | os.PathLike[str], name: str, like: Any | None = None) -> Result:
    """Reads a result of `save_result`, and verifies every byte.

    Args:
      directory: where the results of the run are.
      name: of the phase.
      like: tree of arrays or `jax.ShapeDtypeStruct` to place the variables like. Without it they come as nested
        dictionaries of arrays on the default device; sequences are dictionaries by index, empty collections are left
        out.

    Returns:
      Variables and metadata.

    Raises:
      FileNotFoundError: there is no such result; the message lists those that there are.
      CheckpointMismatchError: `like` differs from it; the first leaf that does is named, with both sides.
      CheckpointError: it is damaged.
    """
    parent = epath.Path(directory).absolute()
    target = parent / _plain(name)
    if not target.exists():
        entries = parent.iterdir() if parent.exists() else ()
        names = sorted(entry.name for entry in entries if _TEMPORARY not in entry.name)
        raise FileNotFoundError(f"{parent} has no result {name!r}; it has {names}")
    try:
        manifest = read_manifest(target)
        difference = None if like is None else describe_mismatch(manifest, like)
        if difference is None:
            return Result(read_tree(target, manifest, like), from_jsonable(manifest.header["metadata"]))
    except CheckpointError as error:
        raise CheckpointError(f"the result {target} is damaged: {error}") from error
    raise CheckpointMismatchError(f"the result {target} is of another network: {difference}")


def _writable_directory(directory: str | os.PathLike[str]) -> epath.Path:
    path = epath.Path(directory).absolute()
    probe = path / f".writable_{jax.process_index()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} cannot be a directory of checkpoints, it is or is below a file") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({one_line(error)}): choose another directory") from error
    return path


def _plain(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or os.sep in name or _TEMPORARY in name:
        raise ValueError(f"a result's name is a plain file name, not {name!r}")
    return name


def _all_processes(sound: bool) -> bool:
    if jax.process_count() == 1:
        return sound
    return bool(np.all(multihost_utils.process_allgather(np.asarray(sound))))


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
