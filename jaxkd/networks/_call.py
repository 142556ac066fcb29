"""How a Flax module is called when nothing else is said."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxkd.networks._network import Batch, PyTree

Call = Callable[[Any, Batch, bool], PyTree]
"""``(module, batch, train) -> logits``."""


def default_call(method: Callable[..., Any]) -> Call:
    """Makes the call of a module that takes ``batch["image"]`` and perhaps says somehow whether it trains.

    Args:
      method: the ``__call__`` of the module's class. The mode is passed as its parameter ``train``, ``training`` or
        ``is_training``, negated as ``deterministic``, or not at all if it has none of them.

    Returns:
      ``(module, batch, train) -> logits``, which raises ValueError if the batch has no image.
    """
    parameters = inspect.signature(method).parameters
    mode = next((name for name in ("train", "training", "is_training", "deterministic") if name in parameters), None)

    def call(module: Any, batch: Batch, train: bool) -> PyTree:
        if "image" not in batch:
            raise ValueError(
                f'the batch has no "image" but {sorted(batch)}: say how the module is called, '
                'call=lambda module, batch, train: module(batch["..."])'
            )
        keywords = {} if mode is None else {mode: not train if mode == "deterministic" else train}
        return module(batch["image"], **keywords)

    return call
