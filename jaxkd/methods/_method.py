"""What there is by name, for the command line."""

import difflib
import inspect
from collections.abc import Callable
from typing import NamedTuple

from jaxkd.methods import _feature, _response
from jaxkd.objectives import Objective


class Method(NamedTuple):
    """A way to distil.

    Attributes:
      name: its name on the command line.
      family: what is matched.
      year: of the paper.
      paper: authors and title, with the arXiv number.
      objective: makes the objective; see its docstring for where its defaults come from.
    """

    name: str
    family: str
    year: int
    paper: str
    objective: Callable[..., Objective]


def methods() -> tuple[Method, ...]:
    """All methods there are."""
    return (
        Method("kd", "response", 2015, "Hinton et al., Distilling the Knowledge, arXiv:1503.02531", _response.kd),
        Method("fitnets", "feature", 2014, "Romero et al., FitNets, arXiv:1412.6550", _feature.fitnets),
    )


def create(name: str, **parameters: float) -> Objective:
    """The objective of a method, with some of its parameters given.

    Raises:
      ValueError: there is no such method (the message has the nearest names), or it has no such parameter.
    """
    by_name = {method.name: method for method in methods()}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4) or sorted(by_name)
        raise ValueError(f"no method is called {name!r}; nearest: {', '.join(near)}")
    objective = by_name[name].objective
    if unknown := sorted(set(parameters) - set(inspect.signature(objective).parameters)):
        known = ", ".join(inspect.signature(objective).parameters)
        raise ValueError(f"method {name} has no parameter {', '.join(unknown)}; it has {known}")
    return objective(**parameters)
