"""Writes a student in a format, and leaves it only if what was written gives the student's logits."""

import importlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.deployment import _onnx, _safetensors, _saved_model, _stablehlo
from jaxkd.deployment._program import BATCH, ExportError, Program, program
from jaxkd.deployment._timing import Run
from jaxkd.networks import Network, Variables


class _Format(NamedTuple):
    """How a format is written and read.

    Attributes:
      file: what is written, a file or a directory.
      extra: the extra of jaxkd that brings ``needs``.
      needs: modules that have to be there, by the name of their package.
      write: ``(directory, program) -> what is to be told of it``.
      runs: ``(directory, program, sizes) -> a run of what was written for each size of batch``.
    """

    file: str
    extra: str
    needs: tuple[str, ...]
    write: Callable[[Path, Program], dict[str, Any]]
    runs: Callable[[Path, Program, Sequence[int]], list[Run]]


_FORMATS = {
    "stablehlo": _Format(_stablehlo.FILE, "train", ("flatbuffers",), _stablehlo.write, _stablehlo.runs),
    "savedmodel": _Format(_saved_model.FILE, "savedmodel", ("tensorflow",), _saved_model.write, _saved_model.runs),
    "onnx": _Format(_onnx.FILE, "onnx", ("jax2onnx", "onnxruntime"), _onnx.write, _onnx.runs),
    "safetensors": _Format(_safetensors.FILE, "train", ("safetensors",), _safetensors.write, _safetensors.runs),
}
FORMATS = tuple(_FORMATS)
"""What `export` writes."""


def check_format(format: str) -> None:
    """Raises ValueError for a format there is not, and ImportError, naming the extra, for one that lacks one."""
    if format not in _FORMATS:
        raise ValueError(f"format is {format!r}: it has to be one of {', '.join(FORMATS)}")
    for module in _FORMATS[format].needs:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise  # it is there, and what is missing is one of its own dependencies
            extra = _FORMATS[format].extra
            raise ImportError(f'an export as {format} needs {module}: pip install "jaxkd[{extra}]"') from None


def export(
    directory: str | os.PathLike[str],
    network: Network,
    variables: Variables,
    example: Mapping[str, Any],
    *,
    format: str = "stablehlo",
    config: Mapping[str, Any] | None = None,
    tolerance: float = 1e-5,
) -> dict[str, Any]:
    """Writes a network with its weights as a program (``train=False``, to the logits), and checks what was written.

    What is written is read again, ``"stablehlo"`` by a fresh process that has JAX alone, the others by the library that
    they are for, and run on the CPU for the example's first row and for all of it. Where ``max |logits - expected| >
    tolerance * max |expected|`` for either, nothing is left. Latency is the median of up to 100 calls in a second; the
    first, which compiles, is told apart.

    ==============  ====================  =============================================================================
    format          file                  what it is
    ==============  ====================  =============================================================================
    stablehlo       student.stablehlo     ``jax.export``: weights inside, batch size open, for CPU, CUDA and TPU
    savedmodel      saved_model           TensorFlow's, as jax2tf writes it: weights inside, batch size open
    onnx            student.onnx          ONNX, as jax2onnx writes it: weights inside, batch size open
    safetensors     student.safetensors   the weights alone; ``config`` has what `pretrained.save` asks for
    ==============  ====================  =============================================================================

    Args:
      directory: to be made, with the file and ``export.json``; it must not exist yet, and appears whole or not at all.
      network: of one array of logits, [batch, ...].
      variables: the network's.
      example: two or more real inputs, what the network reads of a batch and no more: ``{"image": [n, H, W, C]}``. The
        program's arguments are in the order of their names.
      format: one of ``FORMATS``.
      config: what else is known of it, as JSON can hold it: classes, how pixels were normalised, where it comes from.
      tolerance: how far logits may be off, relative to the largest of the expected ones.

    Returns:
      What ``export.json`` holds: format, file, bytes, inputs, outputs, versions, check, latency, and the config.

    Raises:
      FileExistsError: there is such a directory.
      ImportError: the format needs an extra; the message names it.
      ExportError: what was written cannot be run, or its logits are others.
      ValueError: there is no such format; see the arguments.
    """
    check_format(format)
    directory = Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} exists; give another path, nothing is overwritten")
    how = _FORMATS[format]
    made = program(network, variables, example, config or {})
    sizes = (1, len(made.logits))
    temporary = directory.with_name(f"{directory.name}.tmp-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        written = how.write(temporary, made)
        runs = how.runs(temporary, made, sizes)
        about = {
            "format": format,
            "file": how.file,
            "bytes": sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file()),
            "inputs": [
                {"name": name, "shape": [BATCH, *x.shape[1:]], "dtype": str(x.dtype)}
                for name, x in zip(made.names, made.example, strict=True)
            ],
            "logits": {"shape": [BATCH, *made.logits.shape[1:]], "dtype": str(made.logits.dtype)},
            **written,
            "versions": {name: metadata.version(name) for name in ("jax", "flax")},
            "check": _check(made, runs, tolerance),
            "latency": [
                {"batch": size, "first": run.first, "median": run.median, "p95": run.p95, "calls": run.calls}
                for size, run in zip(sizes, runs, strict=True)
            ],
            "device": f"cpu ({platform.machine()}, {os.cpu_count()} cores)",
            "config": dict(made.config),
        }
        (temporary / "export.json").write_text(json.dumps(about, indent=2) + "\n")
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return about


def _check(made: Program, runs: Sequence[Run], tolerance: float) -> dict[str, Any]:
    """Compares logits with the expected ones, and says how far off they are."""
    errors = {}
    for run in runs:
        expected = made.logits[: len(run.logits)]
        if run.logits.shape != expected.shape:
            raise ExportError(f"what was written gives {list(run.logits.shape)}, and not {list(expected.shape)}")
        largest = float(np.abs(expected).max())
        error = float(np.abs(run.logits.astype(np.float64) - expected).max())
        if not error <= tolerance * largest:  # NaN is not
            raise ExportError(
                f"what was written gives logits that are off by {error:.2g} for a batch of {len(expected)}, whose "
                f"largest is {largest:.3g}: allowed is {tolerance:g} of it, and nothing is left"
            )
        errors[len(expected)] = error / largest if largest else 0.0
    return {
        "batches": list(errors),
        "max_relative_error": max(errors.values()),
        "largest_logit": float(np.abs(made.logits).max()),
        "tolerance": tolerance,
    }
