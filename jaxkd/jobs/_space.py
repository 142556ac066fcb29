"""The space of a search, as it is written on the command line, and its points."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import tyro

from jaxkd import methods
from jaxkd.jobs._config import DistillConfig

Points = Mapping[str, tuple[float, ...]]

SEARCHED_OF_CONFIG = ("temperature", "alpha", "learning_rate")
"""What is searched and stands in the config; all else is a parameter of the method."""

_Appended = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What is searched: the learning rate, and parameters of the method that are numbers."""

    grid: Annotated[_Appended, tyro.conf.arg(metavar="NAME=V,V,...")] = ()
    """Values of a parameter; may be given several times. All combinations are tried, the last one changing fastest."""
    random: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: all combinations)")] = None
    """Draw so many points instead: of each range a number, of each grid one of its values."""
    range: Annotated[_Appended, tyro.conf.arg(metavar="NAME=LOW:HIGH[:log]")] = ()
    """Range of a parameter to draw from, evenly or evenly on a logarithmic scale; may be given several times."""
    points_at_once: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: what fits a quarter of the memory)")
    ] = None
    """Points that are trained by one program; the others wait for their turn."""
    halving: Annotated[
        float | None, tyro.conf.arg(metavar="FACTOR", help_behavior_hint="(default: every point to the end)")
    ] = None
    """Successive halving: train all points for a while, the best 1 / FACTOR of them for FACTOR times as long, and so
    on. Best is meant on the validation split."""


def points_of(space: SearchSpace, config: DistillConfig) -> dict[str, tuple[float, ...]]:
    """The points that a space has, by parameter: all combinations of its grid, or as many as are to be drawn.

    What is drawn depends on the config's seed only.

    Raises:
      ValueError: the space is empty, a parameter is unknown, no number, given twice or elsewhere too, a value is no
        number, or a range has no length, or no logarithm. The message names the option.
    """
    grid = {name: _values(name, text) for name, text in _named("grid", space.grid).items()}
    ranges = {name: _range(name, text) for name, text in _named("range", space.range).items()}
    if not (grid or ranges):
        raise ValueError(
            "the search space is empty: give --grid temperature=1,2,4, or "
            "--random 20 --range learning_rate=1e-4:1e-2:log"
        )
    if both := sorted(set(grid) & set(ranges)):
        raise ValueError(f"{both[0]} has a --grid and a --range: give one of them")
    for name in (*grid, *ranges):
        _check_searchable(name, config)
    lowest = {
        **{name: min(values) for name, values in grid.items()},
        **{name: ends[0] for name, ends in ranges.items()},
    }
    if lowest.get("learning_rate", 1.0) <= 0:
        raise ValueError(f"learning_rate is {lowest['learning_rate']}: it has to be above 0")
    if space.random is None:
        if ranges:
            raise ValueError(f"--range {next(iter(ranges))} is to draw from: say how many points with --random")
        mesh = np.meshgrid(*(np.asarray(values, float) for values in grid.values()), indexing="ij")
        return {name: floats(values.ravel()) for name, values in zip(grid, mesh, strict=True)}
    if space.random < 1:
        raise ValueError(f"--random is {space.random}: it has to be at least 1")
    rng = np.random.default_rng(config.seed)
    drawn = {name: rng.choice(values, space.random) for name, values in grid.items()}
    for name, (low, high, logarithmic) in ranges.items():
        if logarithmic:
            drawn[name] = np.exp(rng.uniform(math.log(low), math.log(high), space.random))
        else:
            drawn[name] = rng.uniform(low, high, space.random)
    return {name: floats(values) for name, values in drawn.items()}


def _named(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    named: dict[str, str] = {}
    for text in texts:
        name, given, values = (part.strip() for part in text.partition("="))
        if not (name and given and values):
            example = "temperature=1,2,4" if option == "grid" else "learning_rate=1e-4:1e-2:log"
            raise ValueError(f"--{option} is {text!r}: write it as {example}")
        if name in named:
            raise ValueError(f"--{option} {name} is given twice")
        named[name] = values
    return named


def _values(name: str, text: str) -> tuple[float, ...]:
    values = tuple(_number(f"--grid {name}", word) for word in text.split(","))
    if len(set(values)) < len(values):
        raise ValueError(f"--grid {name}={text} has a value twice")
    return values


def _range(name: str, text: str) -> tuple[float, float, bool]:
    low, _, rest = text.partition(":")
    high, logarithmic, scale = rest.partition(":")
    if (logarithmic and scale != "log") or not rest:
        raise ValueError(f"--range {name} is {text!r}: write it as LOW:HIGH or LOW:HIGH:log")
    ends = _number(f"--range {name}", low), _number(f"--range {name}", high)
    if not ends[0] < ends[1]:
        raise ValueError(f"--range {name} is {text!r}: it has to go from a lower number to a higher one")
    if logarithmic and ends[0] <= 0:
        raise ValueError(f"--range {name} is {text!r}: a logarithmic range has to start above 0")
    return *ends, bool(logarithmic)


def _number(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{what} has {text.strip()!r}: it has to be a number")
    return value


def _check_searchable(name: str, config: DistillConfig) -> None:
    """Raises ValueError unless the parameter is a number that is given nowhere else."""
    parameters = methods.find(config.method).parameters
    if name == "learning_rate":
        given = config.learning_rate is not None
    elif name not in parameters:
        numbers = [known for known, default in parameters.items() if isinstance(default, float)]
        raise ValueError(
            f"method {config.method} has no parameter {name} to search: it has {', '.join(('learning_rate', *numbers))}"
        )
    elif not isinstance(parameters[name], float):
        kind = "a whole number" if isinstance(parameters[name], int) else "no number"
        raise ValueError(
            f"{name} of method {config.method} is {kind}, which decides the program: it cannot be searched, give it "
            "with --set"
        )
    else:
        given = name in {text.partition("=")[0].strip() for text in config.set}
        given |= name in SEARCHED_OF_CONFIG and getattr(config, name) is not None
    if given:
        raise ValueError(f"{name} is searched and given as one value too: leave that out")


def rungs_of(points: int, steps: int, factor: float) -> tuple[int, ...]:
    """The steps after which a halving drops points: the last of them leaves at least two, and a FACTOR-th of the steps.

    Raises:
      ValueError: there are too few points or steps for it, or the factor is not above 1.
    """
    if not factor > 1:
        raise ValueError(f"--halving is {factor:g}: it has to be above 1, for 1 / FACTOR of the points go on")
    count = math.floor(math.log(points / 2, factor) + 1e-9) if points > 2 else 0
    rungs = tuple(round(steps / factor**k) for k in range(count, 0, -1))
    if not rungs or rungs[0] < 1 or len(set(rungs)) < len(rungs):
        raise ValueError(
            f"--halving {factor:g} of {points} points in {steps} steps: that leaves nothing to drop, or no step "
            "between two times; give more points or steps, or another factor"
        )
    return rungs


def floats(values: Any) -> tuple[float, ...]:
    """Numbers of an array, as Python has them."""
    return tuple(float(value) for value in np.asarray(values))
