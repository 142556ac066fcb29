"""The catalogue of losses as text for a terminal, and as JSON."""

import inspect
import json
import textwrap
from collections.abc import Iterator, Sequence

from jaxkd import losses
from jaxkd.losses import catalogue
from jaxkd.losses.catalogue import Loss, Number, Weights

_COLUMNS = ("published for (source)", "own", "CE", "KD at T", "with")
_NUMBERS = (7, 7, 9)  # how wide the middle columns are; the outer ones share the rest
_LEGEND = (
    "Weights of means over the batch. own: of the loss itself. CE: of the cross-entropy with the labels, or of what "
    "the task has in its place. KD at T: of soft_label_kl at this temperature, beside it. with: the loss's arguments; "
    "other terms and their weights. -: there is no such term. ?: not said. jaxkd losses NAME has formula and sources."
)


def describe_losses(name: str | None = None, family: str | None = None, *, width: int = 100) -> str:
    """The losses of a family (of all, by default), or one with its documentation.

    Args:
      name: of the loss to describe, or what its paper or an objective goes by: if several do, they are listed.
      family: of the losses to list.
      width: of the text, at least 80 characters.

    Raises:
      ValueError: there is no such loss or family, or both are given.
    """
    width = max(width, 80)
    chosen = _chosen(name, family)
    if name is not None and len(chosen) == 1:
        return "\n".join(_details(chosen[0], width))
    lines = []
    for of in dict.fromkeys(loss.family for loss in chosen):
        lines += [f"{of} ".ljust(width, "-"), *_row(_COLUMNS, width), ""]
        for loss in chosen:
            if loss.family == of:
                lines += [*_heading(loss, width), *_weights(loss, width, short=True), ""]
    return "\n".join([*lines, *textwrap.wrap(_LEGEND, width)])


def losses_as_json(name: str | None = None, family: str | None = None) -> str:
    """The same choice for programs: a list, with the fields of ``catalogue.Loss`` and ``catalogue.Weights``."""
    records = [
        {**loss._asdict(), "weights": [weights._asdict() for weights in loss.weights]} for loss in _chosen(name, family)
    ]
    return json.dumps(records, indent=2, ensure_ascii=False)


def _chosen(name: str | None, family: str | None) -> Sequence[Loss]:
    if name is not None and family is not None:
        raise ValueError("a loss or a family, not both")
    return catalogue.losses(family) if name is None else catalogue.find(name)


def _heading(loss: Loss, width: int) -> list[str]:
    line = f"{loss.name:<28}  {_source(loss)}".rstrip()
    return textwrap.wrap(line, width, subsequent_indent=" " * 30, break_on_hyphens=False)


def _source(loss: Loss) -> str:
    return ", ".join(str(x) for x in (loss.paper, loss.year, loss.arxiv and f"arXiv:{loss.arxiv}") if x)


def _weights(loss: Loss, width: int, *, short: bool = False) -> Iterator[str]:
    """The lines below a loss's heading; short ones have repositories without their owners."""
    for weights in loss.weights:
        yield from _row(_cells(loss, weights, short), width)
    if loss.part_of:
        yield f"  part of {', '.join(loss.part_of)}"
    elif not loss.weights:
        yield "  no published weight"
    if loss.objectives:
        objectives = f"jaxkd.objectives: {', '.join(loss.objectives)}"
        yield from textwrap.wrap(objectives, width, initial_indent="  ", subsequent_indent="    ")


def _cells(loss: Loss, weights: Weights, short: bool) -> tuple[str, ...]:
    soft = _number(weights.soft)
    sources = weights.source.split(", ")
    return (
        f"{weights.setting} ({', '.join(s.split('/')[-1] if short else s for s in sources)})",
        "-" if weights.own is None and loss.part_of else _number(weights.own),
        _number(weights.hard),
        soft if weights.temperature is None else f"{soft} at {_number(weights.temperature)}",
        "; ".join(x for x in (", ".join(f"{k}={v}" for k, v in weights.arguments.items()), weights.beside) if x),
    )


def _number(value: Number) -> str:
    if isinstance(value, tuple):
        return f"{min(value):g}-{max(value):g}"
    return "?" if value is None else f"{round(value, 4):g}" if value else "-"


def _row(cells: Sequence[str], width: int) -> Iterator[str]:
    """A row of the table, on as many lines as its longest cell needs."""
    left = width - 2 - sum(_NUMBERS) - 2 * (len(_COLUMNS) - 1)
    widths = (left - left * 13 // 25, *_NUMBERS, left * 13 // 25)
    columns = [_lines(cell, w) for cell, w in zip(cells, widths, strict=True)]
    for i in range(max(len(column) for column in columns)):
        parts = [(column[i] if i < len(column) else "").ljust(w) for column, w in zip(columns, widths, strict=True)]
        yield ("  " + "  ".join(parts)).rstrip()


def _lines(cell: str, width: int) -> list[str]:
    """The cell in lines: a repository or an argument wider than its column goes on after a sign of its own."""
    lines = [""]
    for word in cell.split():
        for i, piece in enumerate(_pieces(word, width, ("/", "-", "=", "_"))):
            gap = " " if i == 0 and lines[-1] else ""
            if lines[-1] and len(lines[-1] + gap + piece) > width:
                lines.append(piece)
            else:
                lines[-1] += gap + piece
    return lines


def _pieces(word: str, width: int, signs: Sequence[str]) -> list[str]:
    if len(word) <= width or not signs:
        return [word]
    first, *later = signs
    parts = [part + first for part in word.split(first)]
    parts[-1] = parts[-1].removesuffix(first)
    return [piece for part in parts for piece in _pieces(part, width, later)]


def _details(loss: Loss, width: int) -> Iterator[str]:
    function = getattr(losses, loss.name)
    arguments = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]
    signature = f"jaxkd.losses.{loss.name}{inspect.Signature(arguments)}"
    yield from textwrap.wrap(signature, width, subsequent_indent="    ", break_on_hyphens=False)
    yield ""
    yield "; ".join(x for x in (loss.family, _source(loss)) if x)
    yield from _row(_COLUMNS, width) if loss.weights else ()
    yield from _weights(loss, width)
    yield ""
    yield inspect.getdoc(function) or ""
