"""Models as pure functions, whichever library they are written in."""

from jaxkd.networks._linen import from_linen
from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables
from jaxkd.networks._taps import UnknownTapError

__all__ = ["Batch", "Network", "Outputs", "PyTree", "UnknownTapError", "Variables", "from_linen"]
