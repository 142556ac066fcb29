"""The battery over the losses of this family."""

from .battery import *  # noqa: F403
from .families.correlations import CASES  # noqa: F401
