"""What the battery knows of a loss, and the arguments it draws for it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import losses

from . import oracles

DIM = 7
"""Classes of logits, width of features."""

KINDS: Mapping[str, tuple[int, ...]] = {
    # The axes behind those of the examples.
    "logits": (DIM,),
    "features": (DIM,),
    "embedding": (5,),
    "map": (2, 3, 4),
    "tokens": (6, 4),
    "cells": (2, 3),
    "labels": (),
}
PER_EXAMPLE_ROWS = {"logits", "features", "labels"}
"""Kinds of which a loss takes any number of axes of examples, or none."""
NOT_FLOATING = {"labels", "cells"}
"""Kinds without a gradient: integers, and flags of the positions of a map."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A loss in the battery.

    Attributes:
      name: of the loss in ``jaxkd.losses`` and of its oracle in ``oracles``.
      takes: the kinds of its positional arguments, the student's first.
      parameters: keyword arguments of loss and oracle.
      not_zero: why it is not 0 where the student equals the teacher.
      over: what ``where`` selects: "elements" [*examples, dim], "positions" [batch, height, width], "tokens"
        [batch, length], "examples" [batch], or "" where the loss has no ``where``. "" and a loss that has one: its
        family tests it.
      unmasked: indices of the arguments that ``where`` does not reach (class centres, for one).
      keeps_axis: whether the result keeps the axis of the classes.
      draw: draws the arguments itself: ``(rng, examples) -> float64 arrays``, of the kinds in ``takes``.
      pack: makes the loss's and the oracle's positional arguments of the arrays, where these are not arrays.
      needs_two: it has no meaning for one example, and raises.
      skip: parts of the battery that it cannot take, by the name of the test, and why.
    """

    name: str
    takes: tuple[str, ...]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    not_zero: str = ""
    over: str = "elements"
    unmasked: tuple[int, ...] = ()
    keeps_axis: bool = False
    draw: Callable[[np.random.Generator, tuple[int, ...]], Sequence[Any]] | None = None
    pack: Callable[..., Sequence[Any]] | None = None
    needs_two: bool = False
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.parameters.items())])

    @property
    def signature(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(getattr(losses, self.name)).parameters

    @property
    def relational(self) -> bool:
        """Whether it relates the examples of a batch: a scalar comes out."""
        return "axis_name" in self.signature

    @property
    def floating(self) -> list[int]:
        return [i for i, kind in enumerate(self.takes) if kind not in NOT_FLOATING]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of examples to try."""
        if self.relational:
            return [(6,), (2,)]
        return [(), (4,), (2, 3)] if set(self.takes) <= PER_EXAMPLE_ROWS and self.draw is None else [(4,)]

    @property
    def eager(self) -> Callable[..., jax.Array]:
        loss = functools.partial(getattr(losses, self.name), **self.parameters)
        if self.pack is None:
            return loss
        pack = self.pack
        return lambda *arrays, **keywords: loss(*pack(*arrays), **keywords)

    @functools.cached_property
    def loss(self) -> Callable[..., jax.Array]:
        return jax.jit(self.eager, static_argnames="axis" if "axis" in self.signature else ())

    def oracle(self, *arrays: Any, where: Any = None) -> np.ndarray:
        masked = {} if where is None else {"where": where}
        arrays = arrays if self.pack is None else self.pack(*arrays)
        return np.asarray(getattr(oracles, self.name)(*arrays, **self.parameters, **masked))

    @functools.cached_property
    def value_and_gradients(self) -> Callable[..., tuple[jax.Array, list[jax.Array]]]:
        """``(arrays, where)`` to the loss, and the gradients of its sum after ``weighted``, of the floating ones."""

        def weighted_sum(*arrays, where):
            values = self.eager(*arrays, **({} if where is None else {"where": where}))
            return jnp.sum(weighted(values)), values

        @jax.jit
        def compute(arrays, where):
            gradients, values = jax.grad(weighted_sum, self.floating, has_aux=True)(*arrays, where=where)
            return values, list(gradients)

        return compute

    def inputs(self, *examples: int, seed: int = 0, dtype: Any = np.float64, labels_below: int = DIM) -> list[Any]:
        """Random arguments; of labels some are missing."""
        rng = np.random.default_rng(seed)
        if self.draw is not None:
            drawn = self.draw(rng, examples)
            pairs = zip(drawn, self.takes, strict=True)
            return [x if kind in NOT_FLOATING else np.asarray(x, dtype) for x, kind in pairs]
        drawn = []
        for kind in self.takes:
            shape = examples + KINDS[kind]
            if kind == "labels":
                labels = rng.integers(0, labels_below, shape)
                drawn.append(np.where(rng.random(shape) < 0.3, -1, labels).astype(np.int32))
            elif kind == "cells":
                drawn.append(rng.random(shape) < 0.5)
            else:
                drawn.append(((3 if kind == "logits" else 1) * rng.standard_normal(shape)).astype(dtype))
        return drawn

    def masked(self) -> list[int]:
        """The arguments that ``where`` reaches."""
        return [i for i in range(len(self.takes)) if i not in self.unmasked]

    def mask(self, *examples: int) -> np.ndarray:
        """A ``where`` that drops as much of every example, or of the batch some examples."""
        rng = np.random.default_rng(1)
        if self.over == "examples":
            where = np.ones(examples, bool)
            where[rng.permutation(examples[0])[: examples[0] // 3]] = False
            return where
        shape = {"positions": KINDS["map"][:-1], "tokens": KINDS["tokens"][:-1]}.get(self.over, (DIM,))
        where = np.ones((*examples, int(np.prod(shape))), bool)
        for i in np.ndindex(examples):
            # Never the first two classes, which the labels are of.
            where[i][2 + rng.permutation(where.shape[-1] - 2)[:2]] = False
        return where.reshape(*examples, *shape)

    def spread(self, where: np.ndarray, x: np.ndarray, kind: str) -> np.ndarray:
        """``where`` as a mask of an argument's elements."""
        if kind == "labels" and self.over != "examples":
            return np.ones(x.shape, bool)
        return np.broadcast_to(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), x.shape)

    def kept(self, where: np.ndarray, x: np.ndarray, kind: str) -> np.ndarray:
        """An argument without what ``where`` drops."""
        if self.over == "examples":
            return x[where]
        if kind == "labels":
            return x
        if self.over in ("positions", "tokens"):
            return x[where].reshape(len(x), -1, *x.shape[where.ndim :])
        return x[where].reshape(*x.shape[:-1], -1)


def weighted(values):
    """Values with weights of their own: the sum of a distribution would have no gradient."""
    return values * np.cos(np.arange(values.size)).reshape(values.shape)
