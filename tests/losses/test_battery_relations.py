"""The battery over the losses of this family."""

from .battery import *  # noqa: F403
from .families.relations import CASES  # noqa: F401
