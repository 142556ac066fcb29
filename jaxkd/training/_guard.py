"""What stops a training that has gone wrong, and says where."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.networks import PyTree


class DivergedError(FloatingPointError):
    """A term of the loss is no longer finite.

    Attributes:
      step: the step at which it was seen first.
      terms: the names of the terms that were not finite there.
    """

    def __init__(self, message: str, step: int, terms: tuple[str, ...]):
        super().__init__(message)
        self.step = step
        self.terms = terms


def check_metrics(metrics: Mapping[str, np.ndarray], start: int, what: str = "") -> None:
    """Raises DivergedError if a metric is not finite.

    Metrics with ``"diverged_at"`` are a sweep's, which masks such points itself.

    Args:
      metrics: by name, [steps, ...].
      start: the step of the first entry.
      what: which training this is, for the message.
    """
    if "diverged_at" in metrics:
        return
    bad = {name: ~np.isfinite(values) for name, values in metrics.items()}
    firsts = [int(np.argmax(x.reshape(len(x), -1).any(1))) for x in bad.values() if x.any()]
    if not firsts:
        return
    first = min(firsts)
    # The loss is the sum of the terms: what names the cause is the term.
    terms = tuple(name for name, x in bad.items() if x[first].any() and name != "loss") or ("loss",)
    seeds = np.flatnonzero(bad[terms[0]][first]) if bad[terms[0]].ndim > 1 else ()
    values = ", ".join(f'"{name}" is {_worst(metrics[name][first])}' for name in terms)
    of = f" (seed {', '.join(map(str, seeds))} of {bad[terms[0]].shape[1]})" if len(seeds) else ""
    message = (
        f"{what + ': ' if what else ''}{values} at step {start + first}{of}: the training has diverged; "
        "lower the learning rate, clip gradients (optax.clip_by_global_norm), or look at the batch of that step and at "
        "the teacher's outputs for it"
    )
    raise DivergedError(message, start + first, terms)


def check_finite(tree: PyTree, what: str, cure: str) -> None:
    """Raises ValueError that names the first leaf with a NaN or an infinity."""
    leaves = [(path, x) for path, x in jax.tree_util.tree_leaves_with_path(tree) if _is_floating(x)]
    for (path, _), ok in zip(leaves, jax.device_get(_are_finite([x for _, x in leaves])), strict=True):
        if not ok:
            raise ValueError(f"{what}{jax.tree_util.keystr(path)} holds NaN or infinity: {cure}")


# At module level: trees of one structure share one compiled program.
@jax.jit
def _are_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.all(jnp.isfinite(x)) for x in arrays]


def check_data(arrays: PyTree, classes: int) -> None:
    """Raises ValueError if examples cannot be trained on.

    Args:
      arrays: a batch, a stack of batches or a whole set, on the host, by name; or nothing, ``()``.
      classes: how many the network tells apart, to hold the labels against.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(arrays):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if 0 in x.shape:
            raise ValueError(f'the batch is empty: "{name}" has shape {list(x.shape)}')
        if _is_floating(x) and not np.isfinite(x).all():
            raise ValueError(f'"{name}" holds NaN or infinity at {_first(~np.isfinite(x))}')
    label = arrays.get("label") if isinstance(arrays, Mapping) else None
    if label is not None and np.issubdtype(label.dtype, np.integer) and label.max() >= classes:
        where = _first(label >= classes)
        raise ValueError(
            f"label {label[tuple(where)]} at {where}, and the network has {classes} classes: labels go from 0 to "
            f"{classes - 1}, and are below 0 for unlabelled"
        )


def _is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _worst(values: np.ndarray) -> float:
    return float(values.reshape(-1)[np.argmax(~np.isfinite(values.reshape(-1)))])


def _first(condition: np.ndarray) -> list[int]:
    return [int(i) for i in np.argwhere(condition)[0]]
