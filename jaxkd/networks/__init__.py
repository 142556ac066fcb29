"""Models as pure functions, whichever library they are written in."""

from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables

__all__ = ["Batch", "Network", "Outputs", "PyTree", "Variables"]
