"""Metrics on the disk as they are learnt: JSON lines that a reader needs no library for, and TensorBoard."""

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

__all__ = ["MetricsLog", "TensorBoardLog", "from_jsonable", "read_metrics", "to_jsonable"]

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_jsonable(value: Any) -> Any:
    """Turns a metric into what strict JSON can hold without losing a bit.

    Args:
      value: a number, bool, string, None, a NumPy or JAX array, or lists and string-keyed mappings of them.

    Returns:
      Numbers, strings and nested lists. A floating number becomes the float64 of the same value, so that reading it
      back as its own dtype gives its own bits (of a NaN only that it is one); `nan`, `inf` and `-inf`, which JSON does
      not know, become the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.

    Raises:
      TypeError: the value is none of these.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if math.isfinite(value):
                return value
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case Mapping():
            return {str(key): to_jsonable(item) for key, item in value.items()}
        case list() | tuple():
            return [to_jsonable(item) for item in value]
    array = np.asarray(value)
    if array.dtype.kind in "biu":
        return array.tolist()
    try:
        # Also bfloat16 and the like, which are no floats to NumPy.
        wide = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"a metric is a number, a string or an array of numbers, not {value!r}") from error
    return to_jsonable(wide.tolist())


def from_jsonable(value: Any) -> Any:
    """Undoes `to_jsonable`, but for arrays, which stay lists."""
    match value:
        case str():
            return _NON_FINITE.get(value, value)
        case list():
            return [from_jsonable(item) for item in value]
        case dict():
            return {key: from_jsonable(item) for key, item in value.items()}
    return value


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads what a `MetricsLog` has written so far.

    A last line without its end, which a killed process leaves behind, is left out.

    Args:
      path: the file.

    Returns:
      One dictionary a line, in the order of writing; arrays are lists.

    Raises:
      ValueError: a line in between is no JSON object; the message names file and line.
    """
    return [record for _, record in _records(Path(path))]


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Says in an error of the disk which file it is about: those of an open file do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_all(file: io.FileIO, content: bytes) -> None:
    """Writes all of it: one unbuffered write may take a part only."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


class MetricsLog:
    """Appends metrics to a file, one JSON object a line.

    ```
    {"step": 300, "phase": "distilled", "loss": 0.25, "accuracy": [0.5, 0.75]}
    ```
    Every line reaches the operating system before `write` returns: a killed process loses none of them (`flush` also
    survives a crash of the machine). On several hosts only one should have a log.

    Args:
      path: the file; it and its directory are made if they do not exist. Lines that are there are kept, except for a
        last one without its end.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        content = self._path.read_bytes()
        self._file.truncate(content.rfind(b"\n") + 1)

    def write(self, step: int, metrics: Mapping[str, Any], **extra: Any) -> None:
        """Writes one line: the step, then `extra` (such as `phase="distilled"`), then the metrics.

        Raises:
          ValueError: a metric has the name of another field.
          TypeError: a metric is not a number, string or array.
          OSError: the disk is full, or the like; the lines before are whole and the file ends with them.
        """
        fields = {"step": int(step), **extra}
        twice = sorted(fields.keys() & metrics.keys())
        if twice:
            raise ValueError(f"metrics {twice} have the name of a field of the line {sorted(fields)}: rename them")
        line = json.dumps(to_jsonable({**fields, **metrics}), allow_nan=False) + "\n"
        size = self._file.seek(0, os.SEEK_END)
        with _named(self._path):
            try:
                _write_all(self._file, line.encode())
            except OSError:
                self._file.truncate(size)
                raise

    def flush(self) -> None:
        """Waits until the lines are on the disk itself."""
        os.fsync(self._file.fileno())

    def cut(self, phase: str, step: int) -> None:
        """Drops the lines of `phase` after `step`, and a last line without its end: what a resume does first.

        The file is replaced atomically: killed in between, it is either the old or the new one.

        Raises:
          OSError: the disk is full, or the like; the file is the old one.
        """
        kept = b"".join(
            line for line, record in _records(self._path) if record.get("phase") != phase or record["step"] <= step
        )
        temporary = self._path.with_name(self._path.name + ".tmp")
        try:
            with _named(temporary), temporary.open("wb", buffering=0) as file:
                _write_all(file, kept)
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)  # what there is of it only fills the disk
            raise
        self._file.close()
        temporary.replace(self._path)
        self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorBoardLog:
    """Writes scalars for TensorBoard, without TensorFlow.

    A metric `loss` of `phase="distilled"` has the tag `distilled/loss`. The entries of an array (one a seed, one a
    point of a sweep) are `loss/0`, `loss/1` ...; strings are left out.

    Args:
      directory: where the event file goes.
      purge_step: on a resume, the first step to be written again; TensorBoard then forgets what a run before had
        written from there on.

    Raises:
      ImportError: tensorboardX is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str], *, purge_step: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError('TensorBoard logs need tensorboardX: pip install "jaxkd[tensorboard]"') from error
        # Its names have whole seconds: without a suffix, a quick resume would overwrite the file before.
        suffix = f".{time.time_ns()}"
        self._writer = SummaryWriter(os.fspath(directory), purge_step=purge_step, filename_suffix=suffix)

    def write(self, step: int, metrics: Mapping[str, Any], **extra: Any) -> None:
        """Writes the numbers among `metrics` at `step`, under the `phase` given in `extra`."""
        phase = f"{extra['phase']}/" if "phase" in extra else ""
        for name, value in metrics.items():
            for suffix, number in _scalars(value):
                self._writer.add_scalar(f"{phase}{name}{suffix}", number, int(step))

    def flush(self) -> None:
        """Waits until what was written is in the file."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the event file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _scalars(value: Any) -> Iterator[tuple[str, float]]:
    array = np.asarray(value)
    if array.dtype.kind not in "USO":
        for index, number in np.ndenumerate(array):
            yield "".join(f"/{i}" for i in index), float(number)


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object but {line[:80]!r}")
        yield line, from_jsonable(record)
