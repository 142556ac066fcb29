"""Learning curves, read from the metrics of a run."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.training.logging import read_metrics


def curves_of(path: Path) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Every participant's loss and validation accuracy by step, thinned out to what a plot can show."""
    by_phase: dict[str, dict[str, dict[int, Any]]] = {}
    for record in read_metrics(path):
        of_phase = by_phase.setdefault(record["phase"], {"loss": {}, "validation/accuracy": {}})
        for name in of_phase:
            if name in record:
                of_phase[name][record["step"]] = record[name]
    curves = {}
    for phase, metrics in by_phase.items():
        last = max(metrics["loss"])
        width = max(1, last // 200)
        wanted = sorted({*range(width, last + 1, width), *metrics["validation/accuracy"], last})
        empty = np.full_like(np.asarray(metrics["loss"][last], float), np.nan)
        curves[phase] = (
            np.asarray(wanted),
            {
                # The loss of single batches is noise: a point is the mean since the point before.
                "loss": np.stack(
                    [np.mean([metrics["loss"][s] for s in range(max(1, w - width + 1), w + 1)], 0) for w in wanted]
                ),
                "validation accuracy": np.stack(
                    [np.asarray(metrics["validation/accuracy"].get(w, empty)) for w in wanted]
                ),
            },
        )
    return curves
