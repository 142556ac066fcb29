"""In which order examples are seen: batch ``step`` is a pure function of (seed, step)."""

import functools

import numpy as np

from jaxkd.data._examples import Examples
from jaxkd.data._feed import Feed
from jaxkd.data._random import check_seed, permutation


class Order:
    """An endless sequence of epochs, each a permutation of ``range(n)`` of its own."""

    def __init__(self, n: int, seed: int):
        self._n = n
        # Of two epochs: a chunk that ends within one is followed by a chunk that starts there.
        self._epoch = functools.lru_cache(maxsize=2)(lambda epoch: permutation(n, seed, epoch=epoch))

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Elements ``begin`` to ``end`` of the sequence, int32 [end - begin]."""
        n = self._n
        epochs = range(begin // n, -(-end // n))
        return np.concatenate([self._epoch(epoch)[max(begin - epoch * n, 0) : end - epoch * n] for epoch in epochs])


class Batches(Feed):
    """The training order: an endless sequence of batches, each a pure function of (seed, step).

    Epochs are independent permutations of all examples, one after the other: where the batch size does not divide the
    set, a batch reaches over the border, and no example is left out of an epoch. A global batch is only then cut into
    the processes' slices, so the data is the same for any number of them; and there is no iterator state to save.

    Attributes:
      examples: the set.
      batch_size: of the global batch, over all processes.
      resident: whether the set sits on the device.
      seed: of the order.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        seed: int = 0,
        resident: bool | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Orders ``examples``.

        Args:
          examples: the set.
          batch_size: of the global batch, over all processes.
          seed: of the order.
          resident: whether the set sits on the device; by default where it is in memory and smaller than 1 GiB.
          process_index: which slice of each global batch this process reads.
          process_count: how many processes share each global batch.

        Raises:
          ValueError: a batch larger than the set, one that the processes cannot share evenly, or ``resident`` for a set
            that is not in memory.
        """
        super().__init__(
            examples, batch_size, resident=resident, process_index=process_index, process_count=process_count
        )
        check_seed(seed)
        if batch_size > len(examples):
            raise ValueError(
                f"batch_size {batch_size} is larger than {examples.name}/{examples.split}: it has {len(examples)} "
                "examples, ask for no more"
            )
        self.seed = seed
        self._order = Order(len(examples), seed)

    @property
    def steps_per_epoch(self) -> float:
        """``len(examples) / batch_size``, which need not be a whole number."""
        return len(self.examples) / self.batch_size

    def stack(self, n: int) -> "StackedBatches":
        """``n`` data orders side by side, of seeds ``seed``, ``seed + 1``, ...: one for each of ``n`` learners."""
        return StackedBatches(self, n)

    def _plan(self, start: int, length: int) -> dict[str, np.ndarray]:
        rows = self._order.rows(start * self.batch_size, (start + length) * self.batch_size)
        return {"index": rows.reshape(length, self.batch_size)}


class StackedBatches(Feed):
    """Several data orders side by side, made by :meth:`Batches.stack`.

    A chunk is [length, n, batch, ...], a fetched batch has leading axes [n, batch].
    """

    batch_axis = 2

    def __init__(self, first: Batches, n: int):
        """Stacks the orders of seeds ``first.seed``, ``first.seed + 1``, ... ``first.seed + n - 1``."""
        if n < 1:
            raise ValueError(f"stack({n}): at least one data order is needed")
        super().__init__(
            first.examples,
            first.batch_size,
            resident=first.resident,
            process_index=first.process_index,
            process_count=first.process_count,
        )
        self.steps_per_epoch = first.steps_per_epoch
        self._orders = [Order(len(first.examples), first.seed + i) for i in range(n)]

    def _plan(self, start: int, length: int) -> dict[str, np.ndarray]:
        begin, end = start * self.batch_size, (start + length) * self.batch_size
        rows = [order.rows(begin, end).reshape(length, self.batch_size) for order in self._orders]
        return {"index": np.stack(rows, axis=1)}


class PaddedBatches(Feed):
    """Every example once, in order; the last batch is filled up with copies of example 0.

    Batches have ``"where"``, bool [batch]: False for padding. Made by :func:`padded_batches`.
    """

    @property
    def steps(self) -> int:
        """How many batches hold all examples."""
        return -(-len(self.examples) // self.batch_size)

    def _plan(self, start: int, length: int) -> dict[str, np.ndarray]:
        rows = np.arange(start * self.batch_size, (start + length) * self.batch_size, dtype=np.int32)
        where = rows < len(self.examples)
        shape = (length, self.batch_size)
        return {"index": np.where(where, rows, 0).reshape(shape), "where": where.reshape(shape)}


def padded_batches(
    examples: Examples,
    batch_size: int,
    *,
    resident: bool | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> PaddedBatches:
    """Every example once, in order, for evaluation: ``steps`` batches, the last one padded and masked by ``"where"``.

    Args:
      examples: the set.
      batch_size: of the global batch, over all processes; may be larger than the set.
      resident: whether the set sits on the device; by default where it is in memory and smaller than 1 GiB.
      process_index: which slice of each global batch this process reads.
      process_count: how many processes share each global batch.
    """
    return PaddedBatches(
        examples, batch_size, resident=resident, process_index=process_index, process_count=process_count
    )
