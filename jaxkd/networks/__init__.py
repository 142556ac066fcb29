"""Models as pure functions, whichever library they are written in."""

from jaxkd.networks._cached import cached
from jaxkd.networks._ensemble import ensemble
from jaxkd.networks._function import from_function
from jaxkd.networks._linen import from_linen
from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables
from jaxkd.networks._nnx import from_nnx, variables_of
from jaxkd.networks._precision import mixed_precision
from jaxkd.networks._side_by_side import member_of, side_by_side
from jaxkd.networks._taps import UnknownTapError

__all__ = [
    "Batch",
    "Network",
    "Outputs",
    "PyTree",
    "UnknownTapError",
    "Variables",
    "cached",
    "ensemble",
    "from_function",
    "from_linen",
    "from_nnx",
    "member_of",
    "mixed_precision",
    "side_by_side",
    "variables_of",
]
