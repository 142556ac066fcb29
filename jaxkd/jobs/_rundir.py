"""The directory of a run: made once, never overwritten, by one process at a time."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxkd.jobs._config import content_hash

_CONFIG = "config.json"
_ENVIRONMENT = "environment.json"
_PACKAGES = ("jaxkd", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class RunError(Exception):
    """A run's directory is not what it has to be; the message says what to do."""


def read_config(run: Path) -> dict[str, Any]:
    """The settings a run was started with.

    Raises:
      RunError: there is no such run; the message lists those that there are.
    """
    try:
        return json.loads((run / _CONFIG).read_text())
    except (FileNotFoundError, NotADirectoryError):
        there = sorted(path.parent.name for path in run.parent.glob(f"*/{_CONFIG}"))
        raise RunError(f"{run} is no run; runs there: {', '.join(there) or 'none'}") from None
    except json.JSONDecodeError as error:
        raise RunError(f"{run / _CONFIG} is damaged ({error}): start a new run") from None


@contextlib.contextmanager
def open_run(run: Path, config: dict[str, Any], *, resume: bool) -> Iterator[str]:
    """Makes a run's directory, or opens it again to go on; held by one process at a time.

    Args:
      run: the directory.
      config: the settings; written to ``config.json``, beside ``environment.json`` (versions, commits, devices: one
        entry each time it is opened).
      resume: whether the run is expected to be there.

    Yields:
      The hash of the settings.

    Raises:
      RunError: the directory holds another run, or this one and it is not to be resumed, or something else; or another
        process is at it.
    """
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is a file: choose another --workdir or --name")
    if run.exists() and any(run.iterdir()):
        there = read_config(run) if (run / _CONFIG).exists() else None
        if there is None:
            raise RunError(f"{run} is not empty and holds no run: choose another --name")
        if there != config:
            name = next(key for key in sorted({**there, **config}) if there.get(key) != config.get(key))
            raise RunError(
                f"run {run.name} was started with another config: {name} is {there.get(name)!r} there and "
                f"{config.get(name)!r} here; choose another --name, or go on with it as it is: --resume {run.name}"
            )
        if not resume:
            raise RunError(f"run {run.name} is there already: go on with --resume {run.name}, or choose another --name")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunError(f"{run} is below a file: choose another --workdir") from None
    with (run / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"run {run.name} is being written by another process") from None
        if not (run / _CONFIG).exists():
            write_atomically(run / _CONFIG, json.dumps(config, indent=2) + "\n")
        environments = [*read_environments(run), environment()]
        write_atomically(run / _ENVIRONMENT, json.dumps(environments, indent=2) + "\n")
        yield content_hash(config)


def read_environments(run: Path) -> list[dict[str, Any]]:
    """What ``environment`` said each time the run was opened, the newest last."""
    path = run / _ENVIRONMENT
    return json.loads(path.read_text()) if path.exists() else []


def environment() -> dict[str, Any]:
    """Versions, devices, and the commits of the working directory and of jaxkd, where they are git checkouts."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processes": jax.process_count(),
        "commit": _commit(Path.cwd()),
        "commit of jaxkd": _commit(Path(__file__).parent),
    }


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _commit(directory: Path) -> str:
    try:
        asked = subprocess.run(
            ["git", "-C", directory, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return asked.stdout.strip()
