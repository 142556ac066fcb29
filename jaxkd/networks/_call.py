"""How a Flax module is called when nothing else is said."""

import inspect
from collections.abc import Callable
from typing import Any

from jaxkd.networks._network import Batch, PyTree

Call = Callable[[Any, Batch, bool], PyTree]
"""``(module, batch, train) -> logits``."""

_MODES = ("train", "training", "is_training", "deterministic")
_BESIDE = ("attention_mask", "token_type_ids", "position_ids", "decoder_input_ids", "decoder_attention_mask")


def default_call(method: Callable[..., Any]) -> Call:
    """Makes the call of a module that takes images or words and perhaps says somehow whether it trains.

    A module with a parameter ``input_ids`` gets by name what the batch has of ``"input_ids"``, ``"attention_mask"``,
    ``"token_type_ids"``, ``"position_ids"``, ``"decoder_input_ids"``, ``"decoder_attention_mask"`` and ``"image"``, and
    it has a parameter for. Any other gets ``batch["image"]``, or if there is none ``batch["input_ids"]``, as its first
    argument, and masks and the like by name.

    Args:
      method: the ``__call__`` of the module's class. The mode is passed as its parameter ``train``, ``training`` or
        ``is_training``, negated as ``deterministic``, or not at all if it has none of them.

    Returns:
      ``(module, batch, train) -> logits``, which raises ValueError if the batch lacks what the module has to be given;
      the error names its keys.
    """
    parameters = inspect.signature(method).parameters
    mode = next((name for name in _MODES if name in parameters), None)
    of_words = "input_ids" in parameters
    by_name = [name for name in (*(("image", "input_ids") if of_words else ()), *_BESIDE) if name in parameters]
    required = [name for name in by_name if parameters[name].default is inspect.Parameter.empty]
    if by_name[:1] == ["input_ids"] and "input_ids" not in required:
        required.insert(0, "input_ids")  # optional for the sake of other inputs, which no batch has names for

    def call(module: Any, batch: Batch, train: bool) -> PyTree:
        keywords: dict[str, Any] = {name: batch[name] for name in by_name if name in batch}
        first = [name for name in ("image", "input_ids") if name in batch and not of_words][:1]
        lacking = [f'"{name}"' for name in required if name not in batch]
        if not of_words and not first:
            lacking = ['"image" nor "input_ids"', *lacking]
        if lacking:
            raise ValueError(
                f"the batch has no {', no '.join(lacking)} but {sorted(batch)}: say how the module is called, "
                'call=lambda module, batch, train: module(batch["..."])'
            )
        if mode is not None:
            keywords[mode] = not train if mode == "deterministic" else train
        return module(*(batch[name] for name in first), **keywords)

    return call
