"""Knowledge distillation in JAX.

The packages are imported by name (``from jaxkd import losses``), so that what is not used is not loaded:
``jaxkd.losses`` needs jax and optax only.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
