"""What a search over hyperparameters has found, as data and as text."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

from jaxkd.evaluation._compare import statistic
from jaxkd.evaluation._comparison import markdown, percents


@dataclasses.dataclass(frozen=True)
class Trial:
    """One point of a search, trained from several seeds.

    Attributes:
      point: the hyperparameters by name.
      validation: accuracy on the validation split after its last step, in [0, 1], one number a seed.
      diverged_at: the step at which the training stopped being finite, which leaves its accuracy meaningless; or None.
      test: accuracy on the test split, one number a seed; None for all that nobody looked at.
      stopped_at: the step at which a halving dropped it, as it was then; None if it was trained to the end.
    """

    point: Mapping[str, float]
    validation: tuple[float, ...]
    diverged_at: int | None = None
    test: tuple[float, ...] | None = None
    stopped_at: int | None = None


@dataclasses.dataclass(frozen=True)
class Surface:
    """The trials of a search.

    Attributes:
      title: what was searched on what, for headings.
      examples: how many labelled examples the validation split has.
      trials: in the order in which they were asked for, all of the same hyperparameters and number of seeds.
      alone: the student that learnt without the teacher, by name, each at the best of the learning rates searched.
    """

    title: str
    examples: int
    trials: tuple[Trial, ...]
    alone: Mapping[str, Trial] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters."""
        return tuple(self.trials[0].point)

    @property
    def seeds(self) -> int:
        """How many seeds each trial has."""
        return len(self.trials[0].validation)

    @property
    def ranking(self) -> tuple[int, ...]:
        """Positions of the trials, the best on the validation split first; those that diverged are left out.

        What counts is how many examples all seeds together have right: of equals, the first asked for comes first.
        Behind those that were trained to the end are those that were dropped, the last of them first.
        """
        going = [i for i, trial in enumerate(self.trials) if trial.diverged_at is None]

        def place(i: int) -> tuple[float, int]:
            stopped_at = self.trials[i].stopped_at
            return (-math.inf if stopped_at is None else -stopped_at), -self._right(self.trials[i])

        return tuple(sorted(going, key=place))

    @property
    def chosen(self) -> Trial:
        """The best trial on the validation split.

        Raises:
          ValueError: all have diverged.
        """
        if not self.ranking:
            steps = [trial.diverged_at for trial in self.trials]
            raise ValueError(f"all {len(steps)} points of the search have diverged, the last at step {max(steps)}")  # type: ignore[type-var]
        return self.trials[self.ranking[0]]

    @property
    def runner_up(self) -> Trial | None:
        """The second best on the validation split, if there is one."""
        return self.trials[self.ranking[1]] if len(self.ranking) > 1 else None

    def axes(self) -> dict[str, tuple[float, ...]]:
        """The values that each hyperparameter takes, in ascending order."""
        return {name: tuple(sorted({trial.point[name] for trial in self.trials})) for name in self.names}

    def is_grid(self) -> bool:
        """Whether every combination of the values was tried."""
        there = {tuple(trial.point.values()) for trial in self.trials}
        return there == set(itertools.product(*self.axes().values()))

    def verdict(self) -> str:
        """Says in a few sentences what was chosen, and how sure that is."""
        best, second = self.chosen, self.runner_up
        tried = f"{len(self.trials)} point{'s' * (len(self.trials) > 1)}"
        if self.seeds > 1:
            tried += f" of {self.seeds} seeds each"
        text = f"Of {tried}, {described(best.point)} is best on the validation split ({_of(best.validation)})"
        text += "" if best.test is None else f" and has {_of(best.test)} on the test split"
        if second is not None:
            text += f". The runner-up is {described(second.point)} ({_of(second.validation)}"
            text += ")" if second.test is None else f"; test {_of(second.test)})"
            gap = statistic(best.validation).mean - statistic(second.validation).mean
            if self._right(best) == self._right(second):
                text += ", tied with it: the one asked for first is kept"
            elif gap <= max((statistic(trial.validation).spread or 0.0) for trial in (best, second)):
                text += ", within the spread over seeds"
        for name, trial in self.alone.items():
            text += f". “{name}”: {_of(trial.validation)}"
            text += "" if trial.test is None else f", test {_of(trial.test)}"
        if diverged := len(self.trials) - len(self.ranking):
            text += f". Diverged: {diverged}"
        if dropped := sum(trial.stopped_at is not None for trial in self.trials):
            text += f". Dropped before the end: {dropped}"
        return text + "."

    def rows(self) -> list[list[str]]:
        """Gives the table as text, headings first: the trials, best first, then those that diverged, then `alone`."""
        diverged = [i for i, trial in enumerate(self.trials) if trial.diverged_at is not None]
        rows = [["", *self.names, "validation", "test"]]
        for rank, i in enumerate((*self.ranking, *diverged), 1):
            trial = self.trials[i]
            failed = trial.diverged_at is not None
            rows.append(
                [
                    "" if failed else str(rank),
                    *(f"{value:.4g}" for value in trial.point.values()),
                    f"diverged at step {trial.diverged_at}" if failed else _validation(trial),
                    _of(trial.test),
                ]
            )
        for name, trial in self.alone.items():
            values = (f"{trial.point[key]:.4g}" if key in trial.point else "" for key in self.names)
            rows.append([name, *values, _of(trial.validation), _of(trial.test)])
        return rows

    def footnote(self) -> str:
        """Says what the numbers are over."""
        spread = "; mean ± sample standard deviation over seeds" if self.seeds > 1 else ""
        return (
            f"Chosen on {self.examples:,} validation examples{spread}. The test split was looked at for the first two "
            "points and the student alone, after the choice"
        )

    def to_markdown(self) -> str:
        """Gives the table in Markdown, with the verdict above and the footnote below."""
        head, *body = [[markdown(cell) for cell in row] for row in self.rows()]
        lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
        lines += [f"| {' | '.join(cells)} |" for cells in body]
        return (
            f"# {markdown(self.title)}\n\n{markdown(self.verdict())}\n\n"
            + "\n".join(lines)
            + (f"\n\n{markdown(self.footnote())}.\n")
        )

    def to_json(self) -> str:
        """Gives everything as JSON: each trial's numbers, their mean and their spread."""
        return json.dumps(
            {
                "title": self.title,
                "examples": self.examples,
                "ranking": self.ranking,
                "trials": [_as_json(trial) for trial in self.trials],
                "alone": {name: _as_json(trial) for name, trial in self.alone.items()},
            },
            indent=2,
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: if the text is no such JSON.
        """
        try:
            fields = json.loads(text)
            trials = tuple(_from_json(trial) for trial in fields["trials"])
            alone = {name: _from_json(trial) for name, trial in fields["alone"].items()}
            return cls(fields["title"], fields["examples"], trials, alone)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"this is not the JSON of a search: {error!r}") from error

    def _right(self, trial: Trial) -> int:
        # Whole numbers: the mean of the same accuracies in another order may differ in its last bits.
        return sum(round(accuracy * self.examples) for accuracy in trial.validation)


def described(point: Mapping[str, float]) -> str:
    """A point as text: ``temperature 4, alpha 0.9``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in point.items())


def _validation(trial: Trial) -> str:
    text = _of(trial.validation)
    return text if trial.stopped_at is None else f"{text} at step {trial.stopped_at}, dropped"


def _of(accuracies: Sequence[float] | None) -> str:
    return "" if accuracies is None else percents(statistic(accuracies))


def _as_json(trial: Trial) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "point": dict(trial.point),
        "diverged_at": trial.diverged_at,
        "stopped_at": trial.stopped_at,
    }
    for split, accuracies in (("validation", trial.validation), ("test", trial.test)):
        if accuracies is not None:
            mean, spread, _ = statistic(accuracies)
            fields[split] = {"mean": mean, "spread": spread, "seeds": list(accuracies)}
    return fields


def _from_json(fields: Mapping[str, Any]) -> Trial:
    test = fields.get("test")
    return Trial(
        fields["point"],
        tuple(fields["validation"]["seeds"]),
        fields["diverged_at"],
        None if test is None else tuple(test["seeds"]),
        fields.get("stopped_at"),
    )
