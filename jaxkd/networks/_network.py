"""What a model is to a learner: two pure functions, whichever library it is written in."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

PyTree = Any
Batch = Mapping[str, Any]
"""A batch: ``"image"`` or ``"input_ids"`` ...; ``"label"`` (below 0: unlabelled); ``"index"``, the position in the data
set; ``"where"``, bool [batch], or [batch, time] for logits of each word, False for padding. Every leaf has the batch as
its leading axis."""
Variables = Mapping[str, PyTree]
"""Flax's meaning: ``{"params": ..., "batch_stats": ...}``, pytrees of arrays by collection."""


class Outputs(NamedTuple):
    """What a forward pass gives.

    Attributes:
      logits: [batch, classes], [batch, time, vocab], or a dict of heads for a detector.
      taps: the inner features that were asked for, by the name they were asked by.
    """

    logits: PyTree
    taps: Mapping[str, jax.Array] = {}


class Network(NamedTuple):
    """A model as pure functions.

    Attributes:
      init: ``(key, batch) -> variables``.
      apply: ``(variables, batch, *, train=False, rng=None, taps=()) -> (Outputs, updated collections)``. With
        ``train=False`` dropout is off, BatchNorm uses its running statistics and nothing is updated (an empty mapping).
      roles: what tap paths stand for: ``{"penultimate": ("dense2",), "stages": ("stage1", "stage2")}``. A role of
        one path is itself a tap name; ``"stages[1]"`` is the second path of a role of several. May be empty.
      head: ``(variables, features) -> logits``, the classifier alone, for methods that reuse it; or None.
    """

    init: Callable[..., Variables]
    apply: Callable[..., tuple[Outputs, Variables]]
    roles: Mapping[str, tuple[str, ...]] = {}
    head: Callable[[Variables, jax.Array], PyTree] | None = None
