"""The losses as their papers have them, in float64, with plain loops; written without jax, and without jaxkd."""

from .correlations import *  # noqa: F403
from .detection import *  # noqa: F403
from .divergences import *  # noqa: F403
from .features import *  # noqa: F403
from .logits import *  # noqa: F403
from .maps import *  # noqa: F403
from .refined_logits import *  # noqa: F403
from .relations import *  # noqa: F403
from .transformers import *  # noqa: F403
