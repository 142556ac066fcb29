"""What of a student has been written to files, as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxkd.evaluation._comparison import latency_text, scaled

HEAD = ("format", "seed", "size", "largest error", "latency, batch 1", "latency, batch", "file")


def rows(exports: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row of text for each export, under ``HEAD``: what `jaxkd.deployment.export` said of it, and its path."""
    return [_row(one) for one in exports]


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    single, many = one["latency"]
    return (
        one["format"],
        str(one["config"].get("seed", "")),
        scaled(one["bytes"], ("B", "kB", "MB", "GB")),
        f"{one['check']['max_relative_error']:.1e}",
        latency_text(single["median"]),
        f"{many['batch']}: {latency_text(many['median'])}",
        one["path"],
    )
