"""Optional dependencies: imported where they are used, with one line that says what to install."""

import importlib
from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports ``module``; where it is missing, raises ImportError with the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is there, and what is missing is one of its own dependencies
        raise ImportError(f'{purpose} needs {module}: pip install "jaxkd[{extra}]"') from error
