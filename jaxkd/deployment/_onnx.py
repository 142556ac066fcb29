"""ONNX, through jax2onnx, and run by ONNX Runtime."""

import contextlib
import importlib.metadata
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxkd.deployment import _timing
from jaxkd.deployment._program import BATCH, ExportError, Program

FILE = "student.onnx"


def write(directory: Path, program: Program) -> dict[str, Any]:
    """Converts the program, its weights inside (those of large models in a file beside it), for any size of batch."""
    import jax2onnx

    version = importlib.metadata.version("jax2onnx")
    inputs = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in program.example]
    try:
        with _quiet():
            jax2onnx.to_onnx(
                jax.jit(program.forward),
                [(BATCH, *x.shape) for x in inputs],
                input_names=list(program.names),
                output_names=["logits"],
                return_mode="file",
                output_path=str(directory / FILE),
            )
    except Exception as error:  # it reaches into JAX, and what it does not find there comes as any of several types
        raise ExportError(
            f"jax2onnx {version} cannot convert it under JAX {jax.__version__} ({type(error).__name__}: {error}): "
            "it was written for an older JAX; --format stablehlo needs no converter"
        ) from error
    return {"converter": f"jax2onnx {version}"}


def runs(directory: Path, program: Program, sizes: Sequence[int]) -> list[_timing.Run]:
    """Runs what was written in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # jax2onnx notes some shapes of inner arrays wrongly, which the runtime warns of
    try:
        session = onnxruntime.InferenceSession(str(directory / FILE), options, providers=["CPUExecutionProvider"])

        def call(*inputs: Any) -> Any:
            return session.run(None, dict(zip(program.names, inputs, strict=True)))[0]

        return [_timing.run(call, program.head(size)) for size in sizes]
    except Exception as error:  # its own types have no common one
        raise ExportError(f"ONNX Runtime cannot run it: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """jax2onnx prints every convolution, and logs a traceback for each library that it does not find."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
