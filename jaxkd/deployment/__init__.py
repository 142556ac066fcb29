"""Students out: in int8, and as a program in a file that runs elsewhere, checked before it is left."""

from jaxkd.deployment._export import FORMATS, check_format, export
from jaxkd.deployment._program import ExportError
from jaxkd.deployment._quantize import check_int8, quantize_dynamic, quantize_weights

__all__ = ["FORMATS", "ExportError", "check_format", "check_int8", "export", "quantize_dynamic", "quantize_weights"]
