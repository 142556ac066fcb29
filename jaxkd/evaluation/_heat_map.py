"""The surface of a search as a Matplotlib figure: accuracy over the hyperparameters."""

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxkd.evaluation._compare import statistic
from jaxkd.evaluation._plots import GRID, INK
from jaxkd.evaluation._surface import Surface, Trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHOSEN = "#f0652f"
_MOST_PANELS, _MOST_COLUMNS = 12, 16
_MOST_NUMBERS = 200  # of cells in which the accuracy can still be read


def draw(surface: Surface) -> "Figure":
    """Gives the figure, within the style of the caller's ``rc_context(STYLE)``.

    A grid is a heat map of its two longest axes, one panel for each combination of the others; what is no grid, or too
    large, is a scatter plot of each two neighbouring axes. The chosen point has a frame, the runner-up a
    dashed one; what was dropped before the end is in brackets, or pale.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    means = [_mean(trial) for trial in surface.trials if trial.diverged_at is None]
    low, high = min(means), max(means)
    shades = ScalarMappable(Normalize(low, high if high > low else low + 1e-3), "viridis")
    # The last two of equally long axes: the order in which the table goes through them.
    axes = surface.axes()
    longest = sorted(axes, key=lambda name: len(axes[name]))[-2:]
    columns = longest[-1]
    row = longest[0] if len(longest) > 1 and len(axes[longest[0]]) > 1 else None
    others = {name: values for name, values in axes.items() if name not in (columns, row) and len(values) > 1}
    combinations = list(itertools.product(*others.values()))
    if surface.is_grid() and len(axes[columns]) <= _MOST_COLUMNS and len(combinations) <= _MOST_PANELS:
        wide = min(len(combinations), 3)
        deep = -(-len(combinations) // wide)
        figure = Figure(figsize=(9, 0.9 + deep * _height(len(axes[row]) if row else 1, wide)), layout="constrained")
        panels = figure.subplots(deep, wide, squeeze=False).ravel()
        for panel, combination in zip(panels, combinations, strict=False):
            fixed = dict(zip(others, combination, strict=True))
            _heat_map(panel, surface, columns, row, fixed, shades)
        used = panels[: len(combinations)]
        for panel in panels[len(combinations) :]:
            panel.set_axis_off()
    else:
        varied = [name for name, values in axes.items() if len(values) > 1]
        # Of a single one, accuracy takes the place of the other.
        pairs: list[tuple[str, str | None]] = list(zip(varied, [*varied[1:4], None], strict=False))
        pairs = pairs[:-1] or pairs
        figure = Figure(figsize=(9, 4.2 if len(pairs) < 3 else 3.4), layout="constrained")
        used = figure.subplots(1, len(pairs), squeeze=False).ravel()
        for panel, (x, y) in zip(used, pairs, strict=True):
            _scatter(panel, surface, x, y, shades)
    bar = figure.colorbar(shades, ax=list(used), format=PercentFormatter(1, decimals=1))
    bar.outline.set_visible(False)
    bar.set_label("validation accuracy")
    return figure


def _height(rows: int, wide: int) -> float:
    return min(0.8 + 0.55 * rows, 6.0) if wide == 1 else min(1.2 + 0.3 * rows, 4.0)


def _heat_map(panel: Any, surface: Surface, x: str, y: str | None, fixed: dict[str, float], shades: Any) -> None:
    from matplotlib.patches import Rectangle

    axes = surface.axes()
    across, up = axes[x], axes[y] if y is not None else (0.0,)
    small = len(surface.trials) > 40 or len(across) > 9
    for trial in surface.trials:
        if any(trial.point[name] != value for name, value in fixed.items()):
            continue
        column, line = across.index(trial.point[x]), up.index(trial.point[y]) if y is not None else 0
        corner = (column - 0.5, line - 0.5)
        if trial.diverged_at is not None:
            panel.add_patch(Rectangle(corner, 1, 1, facecolor="none", edgecolor=GRID, hatch="///", linewidth=0))
            continue
        mean, spread, _ = statistic(trial.validation)
        color = shades.to_rgba(mean)
        panel.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="none"))
        if len(surface.trials) <= _MOST_NUMBERS:
            text = f"{100 * mean:.1f}" if trial.stopped_at is None else f"({100 * mean:.1f})"
            if spread is not None and not small:
                text += f"\n± {100 * spread:.1f}"
            bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 0.5
            ink = "#000000" if bright else "#ffffff"
            panel.text(column, line, text, ha="center", va="center", color=ink, fontsize=7 if small else 9)
    for trial, dashes in _marked(surface):
        if all(trial.point[name] == value for name, value in fixed.items()):
            column, line = across.index(trial.point[x]), up.index(trial.point[y]) if y is not None else 0
            panel.add_patch(
                Rectangle(
                    (column - 0.46, line - 0.46),
                    0.92,
                    0.92,
                    fill=False,
                    edgecolor=_CHOSEN,
                    linewidth=2.5,
                    linestyle=dashes,
                    zorder=3,
                )
            )
    panel.set(xlim=(-0.5, len(across) - 0.5), ylim=(-0.5, len(up) - 0.5), xlabel=x)
    panel.set_xticks(range(len(across)), [f"{value:.3g}" for value in across])
    panel.set_yticks(range(len(up)) if y is not None else [], [f"{value:.3g}" for value in up] if y is not None else [])
    panel.set_ylabel(y or "")
    panel.set_title(", ".join(f"{name} {value:.3g}" for name, value in fixed.items()))
    panel.grid(False)
    panel.tick_params(length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _scatter(panel: Any, surface: Surface, x: str, y: str | None, shades: Any) -> None:
    """Points by two hyperparameters, their accuracy as colour; or by one, accuracy upwards."""
    from matplotlib.ticker import PercentFormatter

    def at(trial: Trial) -> tuple[float, float]:
        return trial.point[x], _mean(trial) if y is None else trial.point[y]

    going = [trial for trial in surface.trials if trial.diverged_at is None]
    across, up = np.array([at(trial) for trial in going]).T
    if y is None:
        spreads = [statistic(trial.validation).spread or 0.0 for trial in going]
        panel.errorbar(across, up, yerr=spreads, fmt="none", ecolor=GRID, capsize=3)
    opaque = [1.0 if trial.stopped_at is None else 0.35 for trial in going]
    colors = [_mean(trial) for trial in going]
    panel.scatter(across, up, c=colors, cmap=shades.cmap, norm=shades.norm, alpha=opaque, s=60, zorder=2)
    if y is not None and (diverged := [at(trial) for trial in surface.trials if trial.diverged_at is not None]):
        panel.scatter(*zip(*diverged, strict=True), marker="x", color=INK, s=40)
    for trial, dashes in _marked(surface):
        ring = {"facecolors": "none", "edgecolors": _CHOSEN, "linewidths": 2.2, "linestyles": dashes}
        panel.scatter(*at(trial), s=190, zorder=3, **ring)
    for axis, name in (("x", x), ("y", y)):
        if name is not None and _is_logarithmic(surface.axes()[name]):
            panel.set(**{f"{axis}scale": "log"})
            # Plain numbers: the powers of ten of the usual formatter are mathematical markup.
            getattr(panel, f"{axis}axis").set_major_formatter(lambda value, _: f"{value:g}")
            getattr(panel, f"{axis}axis").set_minor_formatter(lambda value, _: "")
    panel.set(xlabel=x, ylabel="validation accuracy" if y is None else y)
    panel.margins(0.12)
    if y is None:
        panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _marked(surface: Surface) -> list[tuple[Trial, Any]]:
    """The trials that have a frame, with its dashes."""
    runner_up = surface.runner_up
    marked: list[tuple[Trial, Any]] = [(surface.chosen, "-")]
    return marked if runner_up is None else [*marked, (runner_up, (0, (2, 1.5)))]


def _mean(trial: Trial) -> float:
    return statistic(trial.validation).mean


def _is_logarithmic(values: tuple[float, ...]) -> bool:
    return min(values) > 0 and math.log10(max(values) / min(values)) > 1.3
