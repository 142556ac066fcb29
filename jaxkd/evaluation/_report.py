"""A comparison as one HTML file that needs nothing beside it."""

import html
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxkd.evaluation import _exports, _heat_map, _plots
from jaxkd.evaluation._comparison import Comparison, Entry, Statistic
from jaxkd.evaluation._surface import Surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADINGS = {
    "search": "Search",
    "learning_curves": "Learning curves",
    "students": "The students, in the order of their training",
    "accuracy_against_size": "Accuracy against size",
    "reliability": "Reliability",
    "per_class_agreement": "Agreement with the teacher by class",
}
_CAPTIONS = {
    "search": "Mean accuracy over seeds on the validation split, in percent, by hyperparameters. The frame is the "
    "chosen point, the dashed one the runner-up; hatched (or a cross): diverged.",
    "learning_curves": "Mean over seeds; the band is one sample standard deviation to either side.",
    "students": "Top-1 accuracy, generation by generation, say. Bars are one sample standard deviation over seeds.",
    "accuracy_against_size": "Top-1 accuracy against the number of parameters (logarithmic). Bars are one sample "
    "standard deviation over seeds.",
    "reliability": "Above: accuracy by confidence, all seeds together; dots are at a bin's mean confidence, and a "
    "calibrated classifier has them on the dashed line. Below: how many examples each bin holds.",
    "per_class_agreement": "How often a student predicts what the teacher predicts, for the examples of each class; "
    "mean over seeds.",
}
_CSS = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --panel: #f6f8fa;
  --mark: #3b82f61a; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #30363d;
  --panel: #151b23; --mark: #3b82f633; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 48px 24px 64px; }
h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 48px 0 12px; font-size: 20px; }
.kind { margin: 0 0 6px; color: var(--soft); font-size: 13px; letter-spacing: .08em; text-transform: uppercase; }
.verdict { margin: 16px 0 28px; font-size: 19px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 0; }
.tiles div { display: flex; flex-direction: column; justify-content: space-between; padding: 14px 16px;
  border: 1px solid var(--line); border-radius: 8px; background: var(--panel); }
.tiles dt, figcaption, .note { color: var(--soft); font-size: 14px; }
.tiles dd { margin: 2px 0 0; font-size: 25px; font-weight: 650; font-variant-numeric: tabular-nums; }
.tiles small { font-size: 14px; font-weight: 400; color: var(--soft); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
thead th, thead td { border-bottom-width: 2px; vertical-align: bottom; white-space: normal; overflow-wrap: anywhere; }
tbody th { font-weight: 400; color: var(--soft); }
.best { background: var(--mark); }
.dot { display: inline-block; width: 10px; height: 10px; margin-right: 7px; border-radius: 50%; }
figure { margin: 0; padding: 16px; border: 1px solid var(--line); border-radius: 8px; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: 10px; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere;
  font-family: ui-monospace, Consolas, monospace; font-size: 14px; }
.facts th { width: 30%; vertical-align: top; }
"""


def write_report(
    path: str | os.PathLike[str],
    comparison: Comparison,
    *,
    curves: _plots.Curves | None = None,
    config: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
    surface: Surface | None = None,
    exports: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes a comparison as one HTML file, with its plots inside and as PNG files in ``plots/`` beside it.

    The file loads nothing: styles and plots (SVG) are in it. It follows the reader's choice of light or dark.

    Args:
      path: of the HTML file; directories are made, and what is there is replaced.
      comparison: what `compare` found.
      curves: by participant ``(steps, {metric: values})``, values [steps] or [steps, seeds]; NaN where a metric was not
        measured. Each metric is one plot.
      config: the settings of the run; may be nested.
      versions: of the libraries, the commit, and so on; may be nested.
      surface: the search that has found the distilled student, as a heat map and a table of all its points.
      exports: what ``jaxkd.deployment.export`` said of each file a student was written to, and the file's ``"path"``.

    Returns:
      The path of the HTML file.

    Raises:
      ImportError: without Matplotlib, which the extra ``demo`` brings.
      ValueError: if values of a curve are not one for each step.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('the report needs matplotlib: pip install "jaxkd[demo]"') from error
    _check_curves(curves or {})
    path = Path(path)
    plots = path.parent / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    pictures = {}
    # The fonts stay text, which is smaller and can be searched; the salt makes the same report the same bytes.
    with matplotlib.rc_context({**_plots.STYLE, "svg.fonttype": "none", "svg.hashsalt": "jaxkd"}):
        figures = {} if surface is None else {"search": _heat_map.draw(surface)}
        for name, figure in (figures | _plots.draw(comparison, curves or {})).items():
            figure.savefig(plots / f"{name}.png", dpi=150, facecolor="white")
            pictures[name] = _inline_svg(figure, name)
    facts = {"Configuration": config, "Versions": versions}
    path.write_text(_page(comparison, pictures, facts, surface, exports), encoding="utf-8")
    return path


def _check_curves(curves: _plots.Curves) -> None:
    for name, (steps, metrics) in curves.items():
        for metric, values in metrics.items():
            if len(values) != len(steps):
                raise ValueError(
                    f"curves of {name!r}: {metric!r} has {len(values)} values for {len(steps)} steps; it has to be "
                    "[steps] or [steps, seeds]"
                )


def _inline_svg(figure: "Figure", name: str) -> str:
    """A figure as an ``<svg>`` element for a page: neutral colours follow the page's, ids are the figure's own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None})
    text = file.getvalue()
    # The document's head names DTD and namespaces by address, which an element of an HTML page does without.
    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None  # Matplotlib always writes one
    label = html.escape(_HEADINGS[name])
    text = f'<svg {view[0]} role="img" aria-label="{label}">' + text[text.index(">") + 1 :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    return text.replace(_plots.INK, "currentColor").replace(_plots.GRID, "var(--line)")


def _page(
    comparison: Comparison,
    pictures: Mapping[str, str],
    facts: Mapping[str, Mapping[str, Any] | None],
    surface: Surface | None,
    exports: Sequence[Mapping[str, Any]],
) -> str:
    title = html.escape(comparison.title or "Students and their teacher")
    figures = "".join(
        f"<h2>{_HEADINGS[name]}</h2>\n<figure>{svg}<figcaption>{_CAPTIONS[name]}</figcaption></figure>\n"
        for name, svg in pictures.items()
    )
    if surface is not None:
        figures += _trials(surface)
    if exports:
        figures = _exported(exports) + figures
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<p class="kind">Knowledge distillation</p>
<h1>{title}</h1>
<p class="verdict">{html.escape(comparison.verdict())}</p>
{_tiles(comparison)}
<h2>Comparison</h2>
{_table(comparison)}
<p class="note">{html.escape(comparison.footnote())}.</p>
{figures}{"".join(_facts(heading, values) for heading, values in facts.items() if values)}</main>
</body>
</html>
"""


def _tiles(comparison: Comparison) -> str:
    best = comparison.best
    tiles = [(f"accuracy of {best.name}", _percent(best.accuracy))]
    for name, gain in best.gains.items():
        tiles.append((f"gain over {name}", f"{100 * gain:+.1f} <small>points</small>"))
    tiles.append(("of the teacher's accuracy kept", _percent(best.retention)))
    if best.compression is not None:
        tiles.append(("times fewer parameters", f"{best.compression:,.1f}"))
    items = "".join(f"<div><dt>{html.escape(what)}</dt><dd>{value}</dd></div>" for what, value in tiles)
    return f'<dl class="tiles">{items}</dl>'


def _percent(value: Statistic) -> str:
    spread = "" if value.spread is None else f" <small>± {100 * value.spread:.1f}</small>"
    return f"{100 * value.mean:.1f}{spread} <small>%</small>"


def _table(comparison: Comparison) -> str:
    entries: list[Entry] = [comparison.teacher, *comparison.students]
    marks = [' class="best"' if entry is comparison.best else "" for entry in entries]
    colors = _plots.colors(comparison)
    head = "".join(
        f'<th scope="col"{mark}><span class="dot" style="background:{colors[entry.name]}"></span>'
        f"{html.escape(entry.name)}</th>"
        for entry, mark in zip(entries, marks, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td{mark}>{html.escape(cell)}</td>" for cell, mark in zip(cells, marks, strict=True))
        + "</tr>\n"
        for name, cells in comparison.rows()
    )
    return f'<div class="scroll"><table><thead><tr><td></td>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _trials(surface: Surface) -> str:
    """All points of a search, as a table."""
    head, *body = surface.rows()
    return (
        f"<h2>All points of the search</h2>\n<p>{html.escape(surface.verdict())}</p>\n"
        f"{_lines(head, body)}"
        f'<p class="note">{html.escape(surface.footnote())}.</p>\n'
    )


def _exported(exports: Sequence[Mapping[str, Any]]) -> str:
    """The files that a student was written to, as a table."""
    devices = html.escape(", ".join(dict.fromkeys(one["device"] for one in exports)))
    return (
        f"<h2>Exported</h2>\n{_lines(_exports.HEAD, _exports.rows(exports))}"
        '<p class="note">Each file was read again and run on test images, one and many at once: the largest error of '
        f"its logits, relative to the largest logit, and the median latency, on {devices}.</p>\n"
    )


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of one entry a line; the line whose first cell is 1, a rank, is marked."""
    lines = "".join(
        ("<tr" + ' class="best"' * (cells[0] == "1") + ">")
        + f'<th scope="row">{html.escape(cells[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[1:])
        + "</tr>\n"
        for cells in body
    )
    columns = "".join(f'<th scope="col">{html.escape(cell)}</th>' if cell else "<td></td>" for cell in head)
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead>\n<tbody>{lines}</tbody></table></div>\n'


def _facts(heading: str, values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>\n'
        for name, value in _flat(values)
    )
    return f'<h2>{heading}</h2>\n<table class="facts"><tbody>{rows}</tbody></table>\n'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as ``outer.inner``."""
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat
