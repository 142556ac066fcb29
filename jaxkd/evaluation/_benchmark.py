"""A benchmark of methods over seeds: differences to KD with their intervals, as data, text and picture."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from jaxkd.evaluation import _plots
from jaxkd.evaluation._compare import statistic
from jaxkd.evaluation._comparison import markdown, percents

ALONE, KD = "alone", "kd"
BESIDE, PUBLISHED = ("cross-entropy", "KD"), "as published"


@dataclasses.dataclass(frozen=True)
class Trained:
    """One method of one pair of networks, trained from several seeds.

    Attributes:
      method: its name; ``ALONE`` and ``KD`` are what all others of the pair are held against.
      pair: the networks, ``"mlp_512_512 -> mlp_8"``.
      labels: what stood beside the method's own term: ``"cross-entropy"`` or ``"KD"``, or ``"as published"``.
      last: test accuracy after the last step, in [0, 1], one number a seed; empty if it diverged.
      best: the same at the evaluation at which the seed's validation accuracy was highest, the first of equals.
      note: what is to be known of it.
    """

    method: str
    pair: str
    labels: str
    last: tuple[float, ...]
    best: tuple[float, ...]
    note: str = ""


class Difference(NamedTuple):
    """The mean over seeds of accuracy less KD's, and how sure that is.

    Attributes:
      mean: of the differences of seeds.
      low: of the 95 % interval of Student's t.
      high: likewise.
      p: two-sided, of the paired t-test, corrected by Holm for all rows of the table.
    """

    mean: float
    low: float
    high: float
    p: float


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Methods on one data set.

    Attributes:
      title: for headings.
      examples: of the test split.
      protocol: what all rows have in common, a sentence each.
      rows: all that was trained.
    """

    title: str
    examples: int
    protocol: tuple[str, ...]
    rows: tuple[Trained, ...]

    def differences(self, of: str = "last") -> dict[int, Difference]:
        """By row, against KD of the same pair, seed by seed; without KD itself, and without what diverged.

        The interval is of one row by itself; p is corrected for the number of rows by Holm's method.

        Args:
          of: ``"last"`` or ``"best"``.
        """
        reference = {row.pair: np.asarray(getattr(row, of)) for row in self.rows if row.method == KD}
        found: dict[int, tuple[float, float, float, float]] = {}
        for number, row in enumerate(self.rows):
            if row.method == KD or not row.last or not reference.get(row.pair, np.empty(0)).size:
                continue
            found[number] = paired(np.asarray(getattr(row, of)) - reference[row.pair])
        corrected = holm([p for *_, p in found.values()])
        return {
            number: Difference(mean, low, high, p)
            for (number, (mean, low, high, _)), p in zip(found.items(), corrected, strict=True)
        }

    def to_json(self) -> str:
        """All of it; ``from_json`` reads it again."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What ``to_json`` has written."""
        fields: dict[str, Any] = json.loads(text)
        rows = tuple(
            Trained(**{**row, "last": tuple(row["last"]), "best": tuple(row["best"])}) for row in fields["rows"]
        )
        return cls(fields["title"], fields["examples"], tuple(fields["protocol"]), rows)

    def to_markdown(self) -> str:
        """The tables, under the heading that they are no ranking, with which methods do not help here.

        Of each pair, one row a method: beside a cross-entropy, and beside KD; then the methods that bring their own
        labels.
        """
        lines = [
            f"# {markdown(self.title)}",
            "",
            "**An implementation check, not a ranking.** Small networks, few images, weights that were published for",
            "other data: what a method is worth is for its paper's setting to say.",
            "",
            *(f"* {sentence}" for sentence in self.protocol),
            f"* A number of one seed has the binomial error of {self.examples} test images: "
            f"{100 * self._binomial():.1f} points at the accuracy of KD.",
            "* Difference: to KD of the same pair, seed by seed, with its 95 % interval; p is of the paired t-test, "
            "corrected by Holm for all rows.",
        ]
        for pair in dict.fromkeys(row.pair for row in self.rows):
            lines += ["", f"## {markdown(pair)}"]
            for labels in (BESIDE, (PUBLISHED,)):
                lines += self._table(pair, labels)
        return "\n".join([*lines, "", *self.verdict(), ""])

    def _table(self, pair: str, columns: tuple[str, ...]) -> list[str]:
        """One row a method, and the columns for each of what stood beside it; nothing where there is no such row."""
        differences = {of: self.differences(of) for of in ("last", "best")}
        there = {
            (row.method, row.labels): number
            for number, row in enumerate(self.rows)
            if row.pair == pair and row.labels in columns
        }
        if not there:
            return []

        def cells(number: int | None) -> list[str]:
            if number is None:
                return [""] * 5
            row, (last, best) = self.rows[number], (differences[of].get(number) for of in ("last", "best"))
            return [
                percents(statistic(row.last)) if row.last else "diverged",
                _points(last),
                "" if last is None else f"{last.p:.3f}",
                percents(statistic(row.best)) if row.best else "",
                _points(best),
            ]

        heads = [f"{labels}: last epoch" for labels in columns]
        each = ["less KD's, points", "p", "best epoch", "less KD's, points"]
        width = 1 + 5 * len(columns)
        lines = ["", "| method | " + " | ".join(" | ".join([head, *each]) for head in heads) + " |"]
        lines.append("|---|" + "---|" * (width - 1))
        for method in dict.fromkeys(method for method, _ in there):
            of_method = [there.get((method, labels)) for labels in columns]
            note = next((self.rows[number].note for number in of_method if number is not None), "")
            name = f"{method} ({note})" if note else method
            row = [name, *(cell for number in of_method for cell in cells(number))]
            lines.append("| " + " | ".join(markdown(cell) for cell in row) + " |")
        return lines

    def verdict(self) -> list[str]:
        """Which methods are better than KD here, which worse, which neither, as sentences."""
        differences = self.differences()
        named = {number: f"{row.method} ({row.labels})" for number, row in enumerate(self.rows) if row.method != ALONE}
        groups: dict[str, list[str]] = {"Better than KD": [], "Worse than KD": [], "Not to be told from KD": []}
        for number, name in named.items():
            if number in differences:
                one = differences[number]
                sign = (
                    "Not to be told from KD" if one.p >= 0.05 else "Better than KD" if one.mean > 0 else "Worse than KD"
                )
                groups[sign].append(name)
        groups["Diverged"] = [named[number] for number, row in enumerate(self.rows) if number in named and not row.last]
        return [
            f"{group} (p < .05 after correction): {', '.join(names)}."
            if "told" not in group and group != "Diverged"
            else f"{group}: {', '.join(names)}."
            for group, names in groups.items()
            if names
        ]

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draws every row's difference to KD with its interval, as a PNG file.

        Raises:
          ImportError: without Matplotlib, which the extra ``demo`` brings.
        """
        import matplotlib
        from matplotlib.figure import Figure

        differences = self.differences()
        with matplotlib.rc_context(_plots.STYLE):
            figure = Figure(figsize=(8, 1.2 + 0.2 * max(1, len(differences))), layout="constrained")
            axes = figure.subplots()
            order = sorted(differences, key=lambda number: differences[number].mean)
            means = np.asarray([differences[n].mean for n in order])
            ends = np.asarray([(differences[n].mean - differences[n].low) for n in order])
            for labels, marker, color in (
                ("cross-entropy", "o", "#3b82f6"),
                ("KD", "s", "#e0823d"),
                ("", "D", "#2aa876"),
            ):
                at = [
                    i
                    for i, n in enumerate(order)
                    if (self.rows[n].labels == labels)
                    or (not labels and self.rows[n].labels not in ("cross-entropy", "KD"))
                ]
                if at:
                    axes.errorbar(
                        100 * means[at],
                        at,
                        xerr=100 * ends[at],
                        fmt=marker,
                        ms=4,
                        lw=1,
                        color=color,
                        label=labels or "as published",
                    )
            axes.axvline(0, color=_plots.INK, lw=0.8)
            axes.set_yticks(
                range(len(order)), [f"{self.rows[n].method}, {self.rows[n].pair}" for n in order], fontsize=7
            )
            axes.set_xlabel("accuracy less KD's, points; 95 % interval over seeds")
            axes.set_title(self.title)
            axes.legend()
            figure.savefig(path, dpi=150)
        return Path(path)

    def _binomial(self) -> float:
        accuracies = [np.mean(row.last) for row in self.rows if row.method == KD and row.last]
        accuracy = float(np.mean(accuracies)) if accuracies else 0.5
        return math.sqrt(accuracy * (1 - accuracy) / self.examples)


def paired(differences: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, 95 % interval and two-sided p of Student's t for differences of pairs [n]; NaN of a single pair."""
    from scipy import stats  # comes with jax; slow to import

    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return mean, math.nan, math.nan, math.nan
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    if error == 0:
        return mean, mean, mean, float(mean == 0)
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, n - 1))


def holm(values: list[float]) -> list[float]:
    """p-values corrected by Holm's step-down method, in the order given; those that are NaN stay, and do not count.

    References:
      Holm, "A simple sequentially rejective multiple test procedure", 1979
    """
    known = sorted((p, number) for number, p in enumerate(values) if not math.isnan(p))
    corrected, highest = list(values), 0.0
    for rank, (p, number) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[number] = highest
    return corrected


def _points(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if math.isnan(difference.low):
        return f"{100 * difference.mean:+.1f}"
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
