"""A comparison of students with their teacher, as data and as text."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from rich.table import Table


class Statistic(NamedTuple):
    """Mean over seeds, sample standard deviation (``n - 1``) over seeds (None for one seed), and their number ``n``."""

    mean: float
    spread: float | None = None
    n: int = 1


class Timing(NamedTuple):
    """Seconds of one forward pass of ``batch_size`` examples, and the teacher's median over this median."""

    batch_size: int
    median: float
    p95: float
    speed_up: float


class Reliability(NamedTuple):
    """A reliability diagram over all seeds together; accuracy and confidence are NaN in an empty bin."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    accuracy: tuple[float, ...]
    confidence: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One participant, the teacher or a student. Fractions are in [0, 1]; what cannot be had is None.

    Attributes:
      name: of the participant.
      accuracy: top-1.
      retention: accuracy / teacher's accuracy.
      gains: mean accuracy - mean accuracy of each student it is to beat, which learnt without the teacher; by name.
      agreement: fraction of examples predicted as the teacher predicts them.
      kl_to_teacher: mean KL(teacher || student) at temperature 1, in nats.
      calibration_error: expected calibration error, 15 bins.
      negative_log_likelihood: in nats.
      parameters: their number.
      compression: teacher's parameters / parameters; None where either has none (outputs from a cache).
      flops: of one forward pass of one example.
      memory: peak bytes of that program.
      timings: latency for one example and for a batch.
      reliability: the reliability diagram.
      per_class_agreement: mean over seeds, [classes]; NaN for a class without examples.
      bytes: of its variables; None in a comparison that was written before they were measured.
      likeness: fraction of examples predicted as by the student that it was made of, by that one's name.
    """

    name: str
    accuracy: Statistic
    retention: Statistic
    gains: Mapping[str, float]
    agreement: Statistic
    kl_to_teacher: Statistic
    calibration_error: Statistic
    negative_log_likelihood: Statistic
    parameters: int
    compression: float | None
    flops: float | None
    memory: int | None
    timings: tuple[Timing, ...]
    reliability: Reliability
    per_class_agreement: tuple[float, ...]
    bytes: int | None = None
    likeness: Mapping[str, Statistic] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
      title: what was compared on what, for headings.
      device: where costs were measured.
      examples: how many examples the metrics are over.
      teacher: the teacher.
      students: the students, in the order they were given.
    """

    title: str
    device: str
    examples: int
    teacher: Entry
    students: tuple[Entry, ...]

    @property
    def best(self) -> Entry:
        """The most accurate student of those that have a student alone to beat, or else of all that were trained."""
        distilled = [student for student in self.students if student.gains]
        trained = [student for student in self.students if not student.likeness]
        return max(distilled or trained or self.students, key=lambda student: student.accuracy.mean)

    def verdict(self) -> str:
        """Says in one sentence what the best student keeps of the teacher, and what the teacher brought."""
        best, smaller = self.best, ""
        if best.compression is not None and best.compression > 1:
            smaller = f" with 1/{_ratio(best.compression)} of its parameters"
        sentence = (
            f"The student “{best.name}” keeps {_percent(best.retention.mean)} of the teacher's accuracy "
            f"({_percent(best.accuracy.mean)} of {_percent(self.teacher.accuracy.mean)}){smaller}"
        )
        for name, gain in best.gains.items():
            alone = next(student for student in self.students if student.name == name)
            noise = max(best.accuracy.spread or 0.0, alone.accuracy.spread or 0.0)
            points = f"{100 * abs(gain):.1f} points"
            if abs(gain) <= noise:
                sentence += f"; the {points} between it and “{name}” are within the spread over seeds"
            elif gain > 0:
                sentence += f"; it beats “{name}” by {points}"
            else:
                sentence += f"; it is {points} behind “{name}”"
        if best.accuracy.n > 1:
            sentence += f" (mean of {best.accuracy.n} seeds)"
        return sentence + "."

    def rows(self) -> list[tuple[str, list[str]]]:
        """Gives the table as text: (what, [the teacher's value, each student's ...]) by row."""
        students, entries = self.students, [self.teacher, *self.students]
        baselines = dict.fromkeys(name for student in students for name in student.gains)
        originals = dict.fromkeys(name for student in students for name in student.likeness)
        table = [
            ("accuracy", [percents(e.accuracy) for e in entries]),
            ("retention", ["", *(percents(e.retention) for e in students)]),
            *(
                (
                    f"gain over {name}",
                    ["", *(f"{100 * e.gains[name]:+.1f} points" if name in e.gains else "" for e in students)],
                )
                for name in baselines
            ),
            ("agreement", ["", *(percents(e.agreement) for e in students)]),
            *(
                (
                    f"agreement with {name}",
                    ["", *(percents(e.likeness[name]) if name in e.likeness else "" for e in students)],
                )
                for name in originals
            ),
            ("KL to teacher", ["", *(_numbers(e.kl_to_teacher) for e in students)]),
            ("calibration error", [percents(e.calibration_error) for e in entries]),
            ("neg. log-likelihood", [_numbers(e.negative_log_likelihood) for e in entries]),
            ("seeds", [str(e.accuracy.n) for e in entries]),
            ("parameters", [f"{e.parameters:,}" for e in entries]),
            ("size", ["" if e.bytes is None else scaled(e.bytes, ("B", "kB", "MB", "GB")) for e in entries]),
            ("compression", ["", *(_times(e.compression) for e in students)]),
            ("FLOPs", [scaled(e.flops, ("", "k", "M", "G", "T")) for e in entries]),
            ("memory", [scaled(e.memory, ("B", "kB", "MB", "GB")) for e in entries]),
        ]
        for i, timing in enumerate(self.teacher.timings):
            table += [
                (f"latency, batch {timing.batch_size}", [latency_text(e.timings[i].median) for e in entries]),
                ("95th percentile", [latency_text(e.timings[i].p95) for e in entries]),
                (f"speed-up, batch {timing.batch_size}", ["", *(_times(e.timings[i].speed_up) for e in students)]),
            ]
        return [(name, cells) for name, cells in table if any(cells)]

    def table(self) -> "Table":
        """Gives the table for a terminal: ``rich.print(comparison.table())``.

        Raises:
          ImportError: without rich, which the extra ``train`` brings.
        """
        try:
            from rich.markup import escape
            from rich.table import Table
        except ImportError as error:
            raise ImportError('the table in the terminal needs rich: pip install "jaxkd[train]"') from error
        table = Table(title=escape(self.title) or None, caption=escape(self.footnote()))
        table.add_column("", max_width=19)
        for entry in [self.teacher, *self.students]:
            table.add_column(escape(entry.name), justify="right")
        for name, cells in self.rows():
            table.add_row(name, *cells)
        return table

    def to_markdown(self) -> str:
        """Gives the table in Markdown, with the verdict above and the footnote below."""
        names = [markdown(entry.name) for entry in [self.teacher, *self.students]]
        lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in self.rows()]
        return f"{markdown(self.verdict())}\n\n" + "\n".join(lines) + f"\n\n{markdown(self.footnote())}\n"

    def footnote(self) -> str:
        """Says what the numbers are over and how they were measured."""
        spread = "mean ± sample standard deviation over seeds; " if self._seeds() > 1 else ""
        return (
            f"{self.examples:,} examples; {spread}FLOPs and memory of a forward pass of one example, and the median "
            f"latency, on {self.device}"
        )

    def to_json(self) -> str:
        """Gives everything as JSON, NaN as null."""
        return json.dumps(_without_nan(dataclasses.asdict(self)), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: if the text is no such JSON.
        """
        try:
            fields = json.loads(text)
            teacher, *students = [_parsed_entry(entry) for entry in [fields["teacher"], *fields["students"]]]
            return cls(**{**fields, "teacher": teacher, "students": tuple(students)})
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not the JSON of a comparison: {error!r}") from error

    def _seeds(self) -> int:
        return max(entry.accuracy.n for entry in [self.teacher, *self.students])


_STATISTICS = ("accuracy", "retention", "agreement", "kl_to_teacher", "calibration_error", "negative_log_likelihood")


def _without_nan(tree: Any) -> Any:
    # asdict keeps the named tuples, which JSON would write as bare lists.
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {key: _without_nan(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _parsed_entry(fields: dict[str, Any]) -> Entry:
    statistics = {name: Statistic(**{**fields[name], "mean": _or_nan(fields[name]["mean"])}) for name in _STATISTICS}
    reliability = Reliability(**{name: _floats(values) for name, values in fields["reliability"].items()})
    return Entry(
        **{
            **fields,
            **statistics,
            "timings": tuple(Timing(**timing) for timing in fields["timings"]),
            "reliability": reliability,
            "per_class_agreement": _floats(fields["per_class_agreement"]),
            "likeness": {name: Statistic(**value) for name, value in fields.get("likeness", {}).items()},
        }
    )


def _or_nan(value: Any) -> Any:
    return math.nan if value is None else value


def _floats(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_or_nan(value) for value in values)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def percents(value: Statistic) -> str:
    """As text in percent, with the spread if there is one."""
    if value.spread is None:
        return _percent(value.mean)
    return f"{100 * value.mean:.1f} ± {100 * value.spread:.1f} %"


def _numbers(value: Statistic) -> str:
    return f"{value.mean:.3f}" if value.spread is None else f"{value.mean:.3f} ± {value.spread:.3f}"


def _ratio(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _times(value: float | None) -> str:
    return "unknown" if value is None else f"{_ratio(value)}x"


def scaled(value: float | None, units: Sequence[str]) -> str:
    """As text with one of the units, a thousand of one being one of the next."""
    if value is None:
        return "unknown"
    power = 0
    while value >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {units[power]}".strip()


def latency_text(seconds: float) -> str:
    """As text in micro- or milliseconds."""
    return f"{_ratio(seconds * 1e6)} µs" if seconds < 1e-3 else f"{_ratio(seconds * 1e3)} ms"


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for character in "\\|<>*_`[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
