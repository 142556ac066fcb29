"""What the commands do, without a terminal: ``jaxkd.cli`` parses, draws and exits."""

from jaxkd.jobs._config import DistillConfig, RunOptions, with_recipe
from jaxkd.jobs._distill import Outcome, Watcher, distill, evaluate
from jaxkd.jobs._rundir import RunError

__all__ = ["DistillConfig", "Outcome", "RunError", "RunOptions", "Watcher", "distill", "evaluate", "with_recipe"]
