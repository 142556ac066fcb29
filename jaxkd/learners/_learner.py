"""Everything that trains is a Learner: pure functions over explicit state."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxkd.networks import Network, PyTree, Variables


class Learner(NamedTuple):
    """Pure functions that train something. Combinators take learners and give learners.

    Attributes:
      init: ``(key, frozen, batch) -> state``. ``batch`` may hold shapes only.
      step: ``(state, frozen, batch, *, axis_name=None) -> (state, metrics)``. Metrics are scalars (arrays with
        leading axes for ``seeds`` and ``sweep``): ``"loss"``, every term by its name, every metric of the objective.
      deploy: ``(state, frozen) -> variables`` of the network to keep: connectors and auxiliary heads are dropped.
      network: the network those variables belong to.

    ``frozen`` is what a step reads and never changes, the teacher's variables: an argument, never a closure, in no
    optimizer and in no checkpoint.
    """

    init: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, Mapping[str, Any]]]
    deploy: Callable[[PyTree, PyTree], Variables]
    network: Network
