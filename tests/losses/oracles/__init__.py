"""The losses as their papers have them, in float64, with plain loops; written without jax, and without jaxkd."""

from .features import *  # noqa: F403
from .logits import *  # noqa: F403
