"""Examples: a finite set of labelled images with random access."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from jaxkd.data._random import LABELS, check_seed, permutation

UNLABELLED = -1


class Reader(Protocol):
    """Random access to a set that does not fit in memory."""

    def __len__(self) -> int: ...

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images, uint8 [n, H, W, C], and the labels, int [n], at ``positions``."""
        ...

    def labels(self) -> np.ndarray:
        """All labels, int [len(self)]. May have to go through the whole set once."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """A finite set of labelled images with random access.

    Attributes:
      name: the data set, ``"digits"``.
      split: ``"train"``, ``"validation"`` or ``"test"``.
      class_names: one name a class.
      shape: of one image, (H, W, C); images are uint8.
      mean: per channel, in units of pixel values in [0, 1]; what :meth:`decode` subtracts.
      std: per channel, what :meth:`decode` then divides by.
      arrays: the whole set where it is in memory, else None: ``"image"`` uint8 [n, H, W, C], ``"label"`` int32 [n]
        (-1: unlabelled), ``"index"`` int32 [n], the position in the split as it was loaded.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    arrays: Mapping[str, np.ndarray] | None
    # Of a set that is read as it is needed: where from, the positions that belong to it, and the labels where they are
    # no longer the reader's own.
    _reader: Reader | None = None
    _positions: np.ndarray | None = None
    _labels: np.ndarray | None = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def nbytes(self) -> int:
        """Bytes of all images as uint8."""
        return len(self) * int(np.prod(self.shape))

    def __len__(self) -> int:
        if self.arrays is not None:
            return len(self.arrays["label"])
        assert self._positions is not None
        return len(self._positions)

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads the examples at ``indices``, int [n].

        Returns:
          ``"image"`` uint8 [n, H, W, C], ``"label"`` int32 [n] (-1: unlabelled), and ``"index"`` int32 [n], the
          position in the split as it was loaded: it names an example, also in what :func:`labelled` leaves of a set.
        """
        indices = np.asarray(indices)
        if self.arrays is not None:
            return {name: values[indices] for name, values in self.arrays.items()}
        assert self._reader is not None
        assert self._positions is not None
        positions = self._positions[indices]
        images, labels = self._reader.read(positions)
        if self._labels is None:
            labels = _checked(labels, positions, f"{self.name}/{self.split}", self.classes)
        else:
            labels = self._labels[indices]
        return {"image": images, "label": labels, "index": positions}

    def labels(self) -> np.ndarray:
        """All labels, int32 [len(self)]. Of a set that is not in memory: read through once, without decoding images."""
        if self.arrays is not None:
            return self.arrays["label"]
        if self._labels is not None:
            return self._labels
        assert self._reader is not None
        assert self._positions is not None
        labels = self._reader.labels()[self._positions]
        return _checked(labels, self._positions, f"{self.name}/{self.split}", self.classes)

    def decode(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What a network sees: ``(image / 255 - mean) / std`` in float32; other keys are untouched.

        Pure jax.numpy, to be called inside the compiled program: pixels travel as bytes.
        """
        mean, std = (jnp.asarray(value, jnp.float32) for value in (self.mean, self.std))
        return {**batch, "image": (batch["image"].astype(jnp.float32) / 255 - mean) / std}


def from_arrays(
    name: str,
    split: str,
    image: np.ndarray,
    label: np.ndarray,
    class_names: tuple[str, ...],
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Examples:
    """A set of examples in memory.

    Args:
      name: of the data set.
      split: of it.
      image: uint8 [n, H, W, C].
      label: integers [n] in [0, len(class_names)), or -1: unlabelled.
      class_names: one name a class.
      mean: per channel, of pixel values in [0, 1]; by default 0.5 each.
      std: per channel; by default 0.5 each, so that decoded pixels are in [-1, 1].

    Raises:
      ValueError: no examples, other shapes or types, or a label out of range.
    """
    if image.ndim != 4 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}: it has to be uint8 [n, height, width, channels]")
    if label.shape != image.shape[:1] or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"label is {label.dtype} {list(label.shape)}, image {list(image.shape)}: give an integer for each"
        )
    if not len(image):
        raise ValueError(f"{name}/{split} has no examples")
    channels = image.shape[3]
    mean, std = (value or (0.5,) * channels for value in (mean, std))
    if len(mean) != channels or len(std) != channels:
        raise ValueError(f"mean {mean} and std {std} need one value for each of the {channels} channels of image")
    index = np.arange(len(image), dtype=np.int32)
    arrays = {"image": image, "label": _checked(label, index, f"{name}/{split}", len(class_names)), "index": index}
    return Examples(name, split, class_names, image.shape[1:], mean, std, arrays)


def keep_labels(examples: Examples, n: int, *, seed: int = 0) -> Examples:
    """Keeps the labels of ``n`` examples, balanced by class; the others become unlabelled (-1).

    Every class keeps ``n // classes`` labels and some one more; a class that has fewer gives all it has and the others
    fill up. The choice is a pure function of ``(examples, seed)``, and that for a smaller ``n`` is a part of it.

    Raises:
      ValueError: ``n`` is less than one a class, or more labels than there are.
    """
    check_seed(seed)
    labels = examples.labels()
    candidates = np.flatnonzero(labels >= 0)
    if not examples.classes <= n <= len(candidates):
        raise ValueError(
            f"labels for {n} examples of {examples.name}/{examples.split}: it has {examples.classes} classes and "
            f"{len(candidates)} labelled examples; ask for a number from {examples.classes} to {len(candidates)}"
        )
    drawn = candidates[permutation(len(candidates), seed, use=LABELS)]
    # The first drawn of every class, then the second of every class ...; classes in the order they were first drawn.
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    starts = np.searchsorted(labels[by_class], labels[by_class])
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(by_class)) - starts
    kept = drawn[np.argsort(turn[drawn], kind="stable")][:n]
    remaining = np.full_like(labels, UNLABELLED)
    remaining[kept] = labels[kept]
    return _with(examples, np.arange(len(labels)), remaining)


def labelled(examples: Examples) -> Examples:
    """Only the examples with a label: what a student alone trains on. ``"index"`` still names the original position.

    Raises:
      ValueError: no example has a label.
    """
    labels = examples.labels()
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise ValueError(f"{examples.name}/{examples.split} has no labelled examples")
    return _with(examples, rows, labels[rows])


def joined(first: Examples, second: Examples) -> Examples:
    """Two splits of a data set as one, the examples of ``first`` before those of ``second``; ``"index"`` counts them.

    Raises:
      ValueError: they are of two data sets, or not in memory.
    """
    if (first.name, first.shape, first.class_names) != (second.name, second.shape, second.class_names):
        raise ValueError(
            f"{first.name} {first.shape} of {first.classes} classes and {second.name} {second.shape} of "
            f"{second.classes} are two data sets: join splits of one"
        )
    for examples in (first, second):
        if examples.arrays is None:
            raise ValueError(f"{examples.name}/{examples.split} is not in memory: only sets in memory can be joined")
    assert first.arrays is not None
    assert second.arrays is not None
    image, label = (np.concatenate([first.arrays[name], second.arrays[name]]) for name in ("image", "label"))
    split = f"{first.split}+{second.split}"
    return from_arrays(first.name, split, image, label, first.class_names, mean=first.mean, std=first.std)


def _with(examples: Examples, rows: np.ndarray, labels: np.ndarray) -> Examples:
    """The examples at ``rows``, with these labels."""
    if examples.arrays is not None:
        whole = len(rows) == len(examples)  # then the images need not be copied
        arrays = {k: v if whole else v[rows] for k, v in examples.arrays.items()}
        return dataclasses.replace(examples, arrays={**arrays, "label": labels})
    assert examples._positions is not None
    return dataclasses.replace(examples, _positions=examples._positions[rows], _labels=labels)


def _checked(labels: np.ndarray, index: np.ndarray, where: str, classes: int) -> np.ndarray:
    """Labels as int32; raises ValueError where one is out of range."""
    bad = np.flatnonzero((labels < UNLABELLED) | (labels >= classes))
    if len(bad):
        raise ValueError(
            f"example {index[bad[0]]} of {where} has label {labels[bad[0]]}, but there are {classes} classes: "
            f"labels are 0 to {classes - 1}, or {UNLABELLED} for unlabelled"
        )
    return labels.astype(np.int32)
