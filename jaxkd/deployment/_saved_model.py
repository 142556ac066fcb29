"""TensorFlow's SavedModel, through ``jax.experimental.jax2tf``, and run by TensorFlow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxkd.deployment import _timing
from jaxkd.deployment._program import BATCH, ExportError, Program
from jaxkd.deployment._stablehlo import PLATFORMS

FILE = "saved_model"
_SIGNATURE = "serving_default"


def write(directory: Path, program: Program) -> dict[str, Any]:
    """Saves the program, its weights inside, with one signature: inputs by name, and ``"logits"``."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        program.forward,
        polymorphic_shapes=[str((BATCH, *x.shape[1:])).replace("'", "") for x in program.example],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    signature = [
        tf.TensorSpec([None, *x.shape[1:]], x.dtype, name=name)
        for name, x in zip(program.names, program.example, strict=True)
    ]
    function = tf.function(
        lambda *inputs: {"logits": converted(*inputs)}, input_signature=signature, autograph=False
    ).get_concrete_function()
    module = tf.Module()
    module.serve = function
    tf.saved_model.save(module, str(directory / FILE), signatures={_SIGNATURE: function})
    return {"signature": _SIGNATURE, "tensorflow": tf.__version__}


def runs(directory: Path, program: Program, sizes: Sequence[int]) -> list[_timing.Run]:
    """Runs what was written in TensorFlow, on the CPU."""
    import tensorflow as tf

    try:
        with tf.device("/CPU:0"):
            loaded = tf.saved_model.load(str(directory / FILE))
            serve = loaded.signatures[_SIGNATURE]

            def call(*inputs: Any) -> Any:
                given = {name: tf.constant(x) for name, x in zip(program.names, inputs, strict=True)}
                return serve(**given)["logits"].numpy()

            return [_timing.run(call, program.head(size)) for size in sizes]
    except Exception as error:  # TensorFlow's errors have no common type that is public in every version
        last = str(error).strip().splitlines()
        cause = next((line for line in last if "StableHLO" in line and "failed" in line), last[0] if last else "")
        raise ExportError(
            f"TensorFlow {tf.__version__} cannot run what "
            f"JAX {jax.__version__} writes ({cause.strip()}): it knows an older StableHLO; --format stablehlo needs no "
            "TensorFlow"
        ) from error
