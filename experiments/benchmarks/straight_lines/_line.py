"""What is compared: a loss, the same as straight-line code, and the inputs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd import losses

SHAPES: Mapping[str, tuple[int, ...]] = {
    "logits": (512, 1000),
    "embedding": (256, 128),
    "map": (32, 16, 16, 64),
    "labels": (512,),
    "cells": (32, 16, 16),
    "scales": (32, 16, 16),
    "boxes": (8, 100, 152, 4),
    "objects": (32, 20, 4),
}


def draw(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random labels, flags of positions, scales of objects there, corners of boxes of positive area, or numbers."""
    if kind == "labels":
        return rng.integers(0, SHAPES["logits"][-1], shape)
    if kind == "cells":
        return rng.random(shape) < 0.3
    if kind == "scales":
        return np.where(rng.random(shape) < 0.3, np.float32(0.05), np.float32(0))
    if kind in ("boxes", "objects"):
        corners = rng.uniform(0, 4, (*shape[:-1], 2))
        return np.concatenate([corners, corners + rng.uniform(1, 4, corners.shape)], -1, dtype=np.float32)
    return rng.standard_normal(shape, np.float32)


class Line(NamedTuple):
    """A loss and its plain rival.

    Attributes:
      plain: the loss as one would write it in place, in at most 15 lines, without masks, checks and safe norms; its
        name is the loss's, its result means the same.
      takes: kinds of the positional arguments (see ``SHAPES``), or shapes. Those of floats are differentiated.
      parameters: keyword arguments of both.
      pack: makes the loss's positional arguments of the arrays, where these are not arrays.
    """

    plain: Callable[..., jax.Array]
    takes: Sequence[str | tuple[int, ...]]
    parameters: Mapping[str, Any] = {}
    pack: Callable[..., Sequence[Any]] | None = None

    @property
    def name(self) -> str:
        return self.plain.__name__

    @property
    def loss(self) -> Callable[..., jax.Array]:
        loss, pack = getattr(losses, self.name), self.pack
        return loss if pack is None else lambda *arrays, **parameters: loss(*pack(*arrays), **parameters)

    @property
    def length(self) -> int:
        """Lines of the plain form's body."""
        return len(inspect.getsource(self.plain).rstrip().splitlines()) - 1

    def inputs(self) -> list[np.ndarray]:
        """Random arguments."""
        rng = np.random.default_rng(0)
        return [draw(rng, kind, SHAPES[kind]) if isinstance(kind, str) else draw(rng, "", kind) for kind in self.takes]
