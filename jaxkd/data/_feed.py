"""How batches reach the compiled program: as rows of a set that sits on the device, or as images read ahead."""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxkd.data._examples import Examples
from jaxkd.data._extras import require

_RESIDENT_BYTES = 1 << 30


class Feed:
    """Batches by step. What differs between feeds is :meth:`_plan`: which examples a step reads.

    A *resident* set is put on the device once (:attr:`source`), and a chunk of steps is the row numbers to gather
    there. A set that *streams* has an empty source, and a chunk holds the images. Both give the same batches, bit for
    bit.

    Attributes:
      examples: the set.
      batch_size: of the global batch, over all processes.
      resident: whether the set sits on the device.
      process_index: which slice of each global batch this process reads.
      process_count: how many processes share each global batch.
      batch_axis: where the leaves of a chunk have the batch: after the steps.
    """

    batch_axis = 1

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        resident: bool | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it has to be at least 1")
        if not 0 <= process_index < process_count:
            raise ValueError(f"process_index is {process_index}: with process_count {process_count} it is below that")
        if batch_size % process_count:
            raise ValueError(f"batch_size {batch_size} does not divide among {process_count} processes")
        in_memory = examples.arrays is not None
        if resident and not in_memory:
            raise ValueError(
                f"{examples.name}/{examples.split} ({examples.nbytes / 2**30:.1f} GiB) is not in memory and cannot be "
                "resident on the device: use resident=False"
            )
        self.examples = examples
        self.batch_size = batch_size
        self.resident = in_memory and examples.nbytes < _RESIDENT_BYTES if resident is None else resident
        self.process_index = process_index
        self.process_count = process_count
        local = batch_size // process_count
        self._slice = slice(process_index * local, (process_index + 1) * local)
        self._ahead: _ReadAhead | None = None

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return sys.maxsize

    def _plan(self, start: int, length: int) -> dict[str, np.ndarray]:
        """The rows of ``length`` global batches: ``"index"`` int32 [length, ..., batch], and perhaps ``"where"``."""
        raise NotImplementedError

    def _rows(self, start: int, length: int) -> dict[str, np.ndarray]:
        """This process's part of the plan."""
        if start < 0 or length < 1:
            raise ValueError(f"start is {start} and length is {length}: steps count from 0, and a chunk has at least 1")
        if start + length > self.steps:
            raise ValueError(f"steps {start} to {start + length - 1} are asked for, and there are {self.steps}")
        return {name: rows[..., self._slice] for name, rows in self._plan(start, length).items()}

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """This process's slice of global batch ``step``, images still bytes: a pure function of ``step``."""
        rows = {name: values[0] for name, values in self._rows(step, 1).items()}
        index = rows.pop("index")
        batch = self.examples.read(index.reshape(-1))
        return {name: values.reshape(index.shape + values.shape[1:]) for name, values in batch.items()} | rows

    @property
    def source(self) -> Mapping[str, np.ndarray] | tuple[()]:
        """What to put on the device once and hand to every :meth:`fetch`; empty for a set that streams."""
        if not self.resident:
            return ()
        assert self.examples.arrays is not None
        # One row an image: 1 or 3 channels as the last dimension may be padded to the 128 lanes of a TPU.
        image = self.examples.arrays["image"]
        return {**self.examples.arrays, "image": image.reshape(len(image), -1)}

    def chunk(self, start: int, length: int) -> dict[str, np.ndarray]:
        """What steps ``start`` to ``start + length - 1`` need, stacked on a leading axis: the ``xs`` of a scan.

        A pure function of its arguments. A set that streams is read ahead of chunks in sequence.
        """
        rows = self._rows(start, length)
        if self.resident:
            return rows
        if self._ahead is None:
            self._ahead = _ReadAhead(self)
        batches = self._ahead.take(start, length)
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    def fetch(self, source: Any, x: Mapping[str, Any]) -> dict[str, Any]:
        """The decoded batch of one step: pure jax.numpy, to be called inside the compiled program.

        Args:
          source: :attr:`source`, on the device.
          x: one step of :meth:`chunk`.
        """
        batch = dict(x)
        if self.resident:
            index = batch.pop("index")
            # The row numbers are ours: no handling of out-of-bounds ones has to be paid for.
            gathered = {name: values.at[index].get(mode="promise_in_bounds") for name, values in source.items()}
            gathered["image"] = gathered["image"].reshape(index.shape + self.examples.shape)
            batch = gathered | batch
        return self.examples.decode(batch)


class _ReadAhead:
    """Reads the batches of a feed in Grain's threads, ahead of who takes them in sequence."""

    def __init__(self, feed: Feed):
        grain = require("grain", "train", "a data set that streams")
        # Batches are large: one in the making for each thread is as much as should be held.
        threads = min(16, os.cpu_count() or 1)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        self._batches: Iterator[dict[str, np.ndarray]] = iter(
            grain.MapDataset.source(_Steps(feed)).to_iter_dataset(options)
        )
        self._next: int | None = 0

    def take(self, start: int, length: int) -> list[dict[str, np.ndarray]]:
        if start != self._next:
            self._batches.set_state({"next_index": start})  # type: ignore[attr-defined]
        self._next = None  # as long as reading may fail half-way
        batches = [next(self._batches) for _ in range(length)]
        self._next = start + length
        return batches


class _Steps:
    """A feed as a Grain source whose record ``step`` is a whole batch."""

    def __init__(self, feed: Feed):
        self._feed = feed

    def __len__(self) -> int:
        return self._feed.steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._feed[step]
