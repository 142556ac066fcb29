"""The plots of a comparison, as Matplotlib figures that belong to no window and no global state."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxkd.evaluation._comparison import Comparison, Entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves: TypeAlias = Mapping[str, tuple[Any, Mapping[str, Any]]]
"""By participant: steps [n], and by metric values [n] or [n, seeds]; NaN where a metric was not measured."""

# The neutral colours; a page with a dark background replaces them.
INK, GRID = "#24292f", "#d8dee4"
STYLE = {
    "axes.edgecolor": GRID,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a model may be called $x$
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
}
# Middle tones, to be read on white and on black; the teacher's is the first.
_COLORS = ("#8b949e", "#e0823d", "#3b82f6", "#2aa876", "#d0558f", "#8b6fe8", "#1f9fb5", "#b08a1e")
_MARKERS = "Dosv^<>p"
_MOST_BARS = 20


def draw(comparison: Comparison, curves: Curves) -> dict[str, "Figure"]:
    """Gives the figures by name, within the style of the caller's ``rc_context(STYLE)``."""
    figures = {}
    if any(metrics for _, metrics in curves.values()):
        figures["learning_curves"] = _learning_curves(comparison, curves)
    if len(comparison.students) > 2:
        figures["students"] = _students(comparison)
    figures["accuracy_against_size"] = _accuracy_against_size(comparison)
    figures["reliability"] = _reliability(comparison)
    figures["per_class_agreement"] = _per_class_agreement(comparison)
    return figures


def colors(comparison: Comparison) -> dict[str, str]:
    """Gives every participant's colour, by name."""
    entries = [comparison.teacher, *comparison.students]
    return {entry.name: _COLORS[i % len(_COLORS)] for i, entry in enumerate(entries)}


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _learning_curves(comparison: Comparison, curves: Curves) -> "Figure":
    metrics = sorted({metric for _, values in curves.values() for metric in values})
    columns = min(len(metrics), 2)
    rows = -(-len(metrics) // columns)
    figure = _figure(9, 0.4 + 2.9 * rows)
    color = colors(comparison)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    # Participants that only the curves know come after the comparison's.
    order = [name for name in color if name in curves] + [name for name in curves if name not in color]
    lines: dict[str, Any] = {}
    for axis, metric in zip(axes, metrics, strict=False):
        for i, name in enumerate(order):
            steps, values = curves[name]
            if metric not in values:
                continue
            seeds = np.asarray(values[metric], np.float64).reshape(len(steps), -1)
            measured = np.isfinite(seeds).all(1)
            x, seeds = np.asarray(steps)[measured], seeds[measured]
            mean = seeds.mean(1)
            shade = color.get(name, _COLORS[-1 - i % len(_COLORS)])
            (lines[name],) = axis.plot(x, mean, color=shade, linewidth=1.8)
            if seeds.shape[1] > 1:
                spread = seeds.std(1, ddof=1)
                axis.fill_between(x, mean - spread, mean + spread, color=shade, alpha=0.2, linewidth=0)
        axis.set(title=metric, xlabel="step")
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    _legend(figure, lines.values(), lines.keys())
    return figure


def _students(comparison: Comparison) -> "Figure":
    from matplotlib.ticker import PercentFormatter

    figure = _figure(9, 3.4)
    axis = figure.subplots()
    (teacher, teachers), *students = _colored(comparison)
    axis.axhline(teacher.accuracy.mean, color=teachers, linestyle=(0, (4, 3)), label=teacher.name)
    for i, (entry, color) in enumerate(students):
        axis.errorbar(i, entry.accuracy.mean, yerr=entry.accuracy.spread, fmt="o", markersize=8, capsize=4, color=color)
    axis.set_xticks(range(len(students)), [textwrap.fill(entry.name, 16) for entry, _ in students])
    axis.grid(False, axis="x")
    axis.set_ylabel("accuracy")
    axis.margins(x=0.08, y=0.15)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    _legend(figure, *axis.get_legend_handles_labels())
    return figure


def _accuracy_against_size(comparison: Comparison) -> "Figure":
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, PercentFormatter

    figure = _figure(9, 3.6)
    axis = figure.subplots()
    for i, (entry, color) in enumerate(_colored(comparison)):
        axis.errorbar(
            # A logarithm has no 0: a teacher from a cache, which has no parameters, stands at 1.
            max(entry.parameters, 1),
            entry.accuracy.mean,
            yerr=entry.accuracy.spread,
            fmt=_MARKERS[i % len(_MARKERS)],
            markersize=9,
            capsize=4,
            color=color,
            label=entry.name,
        )
    axis.set(xscale="log", xlabel="parameters", ylabel="accuracy")
    axis.margins(x=0.15, y=0.2)
    # Plain "100k": the powers of ten of the usual formatter are mathematical markup. Within a decade, ticks between.
    sizes = [max(entry.parameters, 1) for entry in (comparison.teacher, *comparison.students)]
    axis.xaxis.set_major_locator(LogLocator(subs=(1,) if max(sizes) > 30 * min(sizes) else (1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(figure, *axis.get_legend_handles_labels())
    return figure


def _reliability(comparison: Comparison) -> "Figure":
    from matplotlib.ticker import PercentFormatter

    shown = _main_characters(comparison)
    figure = _figure(9, 3.9)
    axes = figure.subplots(2, len(shown), squeeze=False, sharex=True, sharey="row", height_ratios=(4, 1))
    for column, (entry, color) in enumerate(shown):
        above, below = axes[:, column]
        bins = entry.reliability
        left, width = np.asarray(bins.edges[:-1]), np.diff(bins.edges)
        filled = np.asarray(bins.counts) > 0
        accuracy, confidence = np.asarray(bins.accuracy)[filled], np.asarray(bins.confidence)[filled]
        above.bar(left[filled], accuracy, width[filled], align="edge", color=color, alpha=0.75, linewidth=0)
        above.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        above.plot(confidence, accuracy, "o", color=INK, markersize=3, clip_on=False)
        above.set(
            title=f"{textwrap.fill(entry.name, 30)}\nECE {100 * entry.calibration_error.mean:.1f} %",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        counts = np.asarray(bins.counts)
        below.bar(left, counts / counts.sum(), width, align="edge", color=color, alpha=0.75, linewidth=0)
        below.set(xlabel="confidence", ylim=(0, 1), xticks=(0, 0.5, 1))
        for axis in (above, below):
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("examples")
    return figure


def _per_class_agreement(comparison: Comparison) -> "Figure":
    from matplotlib.ticker import PercentFormatter

    shown = _main_characters(comparison)[1:]
    classes = len(comparison.teacher.per_class_agreement)
    figure = _figure(9, 3.2)
    axis = figure.subplots()
    for i, (entry, color) in enumerate(shown):
        values = np.asarray(entry.per_class_agreement)
        if classes <= _MOST_BARS:
            width = 0.8 / len(shown)
            axis.bar(np.arange(classes) - 0.4 + (i + 0.5) * width, values, width, color=color, label=entry.name)
        else:
            axis.plot(np.sort(values), color=color, linewidth=1.8, label=entry.name)
    if classes <= _MOST_BARS:
        axis.set_xticks(range(classes))
        axis.grid(False, axis="x")
    axis.set(xlabel="class" if classes <= _MOST_BARS else "classes, from least to most agreement", ylabel="agreement")
    axis.set_ylim(0, 1)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _legend(figure, *axis.get_legend_handles_labels())
    return figure


def _legend(figure: "Figure", handles: Iterable[Any], names: Iterable[str]) -> None:
    """A legend above the axes, of as many columns as its longest name leaves room for."""
    names = list(names)
    longest = max(len(name) for name in names)
    figure.legend(list(handles), names, loc="outside upper left", ncols=max(1, min(4, 110 // (longest + 7))))


def _main_characters(comparison: Comparison) -> list[tuple[Entry, str]]:
    """The teacher, the best student, and between them the one it is to beat: more would not be legible."""
    best = comparison.best
    names = {comparison.teacher.name, *best.gains, best.name}
    return [(entry, color) for entry, color in _colored(comparison) if entry.name in names]


def _colored(comparison: Comparison) -> list[tuple[Entry, str]]:
    color = colors(comparison)
    return [(entry, color[entry.name]) for entry in (comparison.teacher, *comparison.students)]
