"""The report of a run, written when it ends and again when its student is exported."""

import json
from pathlib import Path

from jaxkd import evaluation
from jaxkd.evaluation import Comparison
from jaxkd.jobs._config import Settings, as_json
from jaxkd.jobs._curves import curves_of
from jaxkd.jobs._rundir import read_environments

EXPORTS = "exports.jsonl"
"""In the directory of a run: a line for each export of its student."""


def write_report(path: Path, comparison: Comparison, settings: Settings) -> None:
    """Writes the report of a run, from what is in its directory and its comparison."""
    exports = path / EXPORTS
    evaluation.write_report(
        path / "report.html",
        comparison,
        curves=curves_of(path / "metrics.jsonl"),
        config=as_json(settings),
        versions=read_environments(path)[-1],
        exports=[json.loads(line) for line in exports.read_text().splitlines()] if exports.exists() else (),
    )
