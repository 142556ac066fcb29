"""Students out: a program in a file that runs elsewhere, and is checked before it is left."""

from jaxkd.deployment._export import FORMATS, check_format, export
from jaxkd.deployment._program import ExportError

__all__ = ["FORMATS", "ExportError", "check_format", "export"]
