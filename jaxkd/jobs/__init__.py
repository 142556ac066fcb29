"""What the commands do, without a terminal: ``jaxkd.cli`` parses, draws and exits."""

from jaxkd.jobs._benchmark import benchmark
from jaxkd.jobs._benchmark_rows import BenchmarkConfig
from jaxkd.jobs._config import DistillConfig, RunOptions, with_recipe
from jaxkd.jobs._distill import Outcome, Watcher, distill, evaluate
from jaxkd.jobs._export import export
from jaxkd.jobs._losses import describe_losses, losses_as_json
from jaxkd.jobs._rundir import RunError
from jaxkd.jobs._search import Found, search
from jaxkd.jobs._space import SearchSpace, points_of

__all__ = [
    "BenchmarkConfig",
    "DistillConfig",
    "Found",
    "Outcome",
    "RunError",
    "RunOptions",
    "SearchSpace",
    "Watcher",
    "benchmark",
    "describe_losses",
    "distill",
    "evaluate",
    "export",
    "losses_as_json",
    "points_of",
    "search",
    "with_recipe",
]
