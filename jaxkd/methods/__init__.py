"""Methods by name: the paper's defaults and its citation."""

from jaxkd.methods._feature import fitnets
from jaxkd.methods._method import Method, create, methods
from jaxkd.methods._response import kd

__all__ = ["Method", "create", "fitnets", "kd", "methods"]
