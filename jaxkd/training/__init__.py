"""Training: the loop, its compiled unit on any devices, checkpoints and logs.

The loop and ``parallel`` need no extra; checkpoints, and ``run``, which writes them, need ``train``:
``pip install "jaxkd[train]"``.
"""

from typing import TYPE_CHECKING, Any

from jaxkd.training import parallel
from jaxkd.training._fit import Fitted, InterruptedTraining, example_batch, fit
from jaxkd.training._guard import DivergedError

if TYPE_CHECKING:
    from jaxkd.training._run import run

__all__ = ["DivergedError", "Fitted", "InterruptedTraining", "example_batch", "fit", "parallel", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        # Only now: it loads Orbax, which takes seconds and may not be there.
        from jaxkd.training._run import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
