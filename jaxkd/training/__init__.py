"""Training: the loop, its compiled unit on any devices, checkpoints and logs.

The loop and ``parallel`` need jax only; checkpoints need the extra ``train``: ``pip install "jaxkd[train]"``.
"""

from jaxkd.training import parallel
from jaxkd.training._fit import Fitted, InterruptedTraining, example_batch, fit
from jaxkd.training._guard import DivergedError
from jaxkd.training._run import run

__all__ = ["DivergedError", "Fitted", "InterruptedTraining", "example_batch", "fit", "parallel", "run"]
