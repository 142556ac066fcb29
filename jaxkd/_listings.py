"""The commands that list what there is: methods, losses, models, pairs, data sets."""

import math
import shutil
from collections.abc import Sequence
from itertools import groupby
from json import dumps
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Column, Table

from jaxkd import data, jobs, methods, models


def list_methods() -> None:
    """List the ways to distil, with the parameters that `jaxkd distill --set` takes and their defaults."""
    rows = [
        (
            m.name,
            m.family,
            str(m.year),
            m.paper,
            m.phases,
            " ".join(_with_default(*one) for one in m.parameters.items()),
        )
        for m in methods.methods()
    ]
    print_table(("name", "family", "year", "paper", "phases", "parameters"), rows)


def _with_default(name: str, default: Any) -> str:
    """A parameter as `--set` takes it; of taps, which the networks name, the name alone."""
    if default is None:
        return name
    values = default if isinstance(default, tuple) else (default,)
    return f"{name}=" + ",".join(f"{x:g}" if isinstance(x, float) else str(x) for x in values)


def list_losses(
    name: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[NAME]")] = None,
    family: Literal["logits", "features", "relations", "transformers", "detection"] | None = None,
    json: bool = False,
) -> None:
    """List the losses, with the weights they were published with, or describe one.

    Args:
      name: Name of a loss to describe, with its formula.
      family: Family of losses to list.
      json: Print what programs can read.
    """
    if json:
        print(jobs.losses_as_json(name, family))
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        print(jobs.describe_losses(name, family, width=min(width, 120)))


def list_models() -> None:
    """List the models, with parameters and FLOPs at as many classes as the literature has them for."""
    rows = [
        (m.name, f"{m.parameters:,}", _short(m.flops), str(m.classes), "x".join(map(str, m.image_shape)), m.paper)
        for m in models.names()
    ]
    print_table(("name", "parameters", "FLOPs", "classes", "images", "paper"), rows)
    Console().print("FLOPs: forward pass of one image or 128 words; a multiplication and an addition are two.")


def list_pairs(json: bool = False) -> None:
    """List teachers and students that are often seen together, with what is published of them.

    Args:
      json: Print what programs can read.
    """
    if json:
        print(dumps([pair._asdict() for pair in models.pairs()], indent=1))
        return
    columns = ("teacher", "student", "parameters", "teacher's", "alone", "distilled")
    for (measure, method, source), group in groupby(models.pairs(), lambda p: (p.measure, p.method, p.source)):
        by = f", distilled by {method}" if method else ""
        head = f"{measure}{by}: {source}" if measure else "Without numbers of one measure"
        Console().print(head, soft_wrap=True, markup=False)
        rows = [
            (
                pair.teacher,
                pair.student,
                f"{_short(pair.teacher_parameters)}, {_short(pair.student_parameters)}",
                *("" if x is None else f"{x:.2f}" for x in (pair.teacher_result, pair.alone, pair.distilled)),
            )
            for pair in group
        ]
        print_table(columns, rows)


def _short(number: float) -> str:
    """Three digits and a prefix: 25.6M."""
    number = float(f"{number:.3g}")
    power = min(4, int(math.log10(number) / 3)) if number >= 1 else 0
    return f"{number / 1000**power:.3g}{' kMGT'[power].strip()}"


def list_datasets() -> None:
    """List the data sets."""
    rows = [
        (
            d.name,
            str(d.classes),
            "x".join("?" if size is None else str(size) for size in d.shape),
            ", ".join(f"{split} {size}" for split, size in d.sizes.items()),
            d.source,
            d.licence,
        )
        for d in data.names()
    ]
    print_table(("name", "classes", "images", "examples", "from", "licence"), rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under the names of their columns."""
    # Names stay whole, as they are copied into commands; of the rest nothing is cut off.
    name, *others = (Column(column, overflow="fold", no_wrap=i == 0) for i, column in enumerate(columns))
    table = Table(name, *others, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
