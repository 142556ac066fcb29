"""What the commands do, without a terminal: ``jaxkd.cli`` parses, draws and exits."""

from jaxkd.jobs._config import DistillConfig, RunOptions, with_recipe
from jaxkd.jobs._distill import Outcome, Watcher, distill, evaluate
from jaxkd.jobs._losses import describe_losses, losses_as_json
from jaxkd.jobs._rundir import RunError

__all__ = [
    "DistillConfig",
    "Outcome",
    "RunError",
    "RunOptions",
    "Watcher",
    "describe_losses",
    "distill",
    "evaluate",
    "losses_as_json",
    "with_recipe",
]
