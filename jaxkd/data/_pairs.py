"""Batches of pairs of one class, for what compares two examples of a class."""

import numpy as np

from jaxkd.data._batches import Order
from jaxkd.data._examples import Examples
from jaxkd.data._feed import Feed
from jaxkd.data._random import PAIRS, check_seed, words


class PairedBatches(Feed):
    """An endless sequence of batches of pairs: examples i and i + batch_size / 2 of a global batch are of one class.

    The first halves are the training order of :class:`Batches` with half the batch size: each example once an epoch.
    The partner of each is drawn anew for every step, uniformly from all examples of its class, itself among them.
    Unlabelled examples (-1) have unlabelled partners. Every batch is a pure function of (seed, step), the same for any
    number of processes.

    Attributes:
      examples: the set.
      batch_size: of the global batch, over all processes: two for each pair.
      resident: whether the set sits on the device.
      seed: of the order and of the partners.
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
        """Pairs ``examples``, of which it reads all labels.

        Args:
          examples: the set.
          batch_size: of the global batch, over all processes: two for each pair.
          seed: of the order and of the partners.
          resident: whether the set sits on the device; by default where it is in memory and smaller than 1 GiB.
          process_index: which slice of each global batch this process reads.
          process_count: how many processes share each global batch.

        Raises:
          ValueError: an odd batch, one of more pairs than the set has examples, or for what ``Batches`` raises.
        """
        super().__init__(
            examples, batch_size, resident=resident, process_index=process_index, process_count=process_count
        )
        check_seed(seed)
        if batch_size % 2 or batch_size > 2 * len(examples):
            raise ValueError(
                f"batch_size {batch_size}: it has to be even, two for each pair, and at most twice the "
                f"{len(examples)} examples of {examples.name}/{examples.split}"
            )
        self.seed = seed
        self._order = Order(len(examples), seed)
        _, self._class, self._count = np.unique(examples.labels(), return_inverse=True, return_counts=True)
        # The examples class by class, and where each class starts.
        self._by_class = np.argsort(self._class, kind="stable").astype(np.int32)
        self._start = np.cumsum(self._count) - self._count

    @property
    def steps_per_epoch(self) -> float:
        """``len(examples) / (batch_size / 2)``: an epoch has each example once in a first half."""
        return len(self.examples) / (self.batch_size // 2)

    def _plan(self, start: int, length: int) -> dict[str, np.ndarray]:
        pairs = self.batch_size // 2
        first = self._order.rows(start * pairs, (start + length) * pairs).reshape(length, pairs)
        drawn = np.stack([words(pairs, self.seed, step, PAIRS) for step in range(start, start + length)])
        of_class = self._class[first]
        partner = self._by_class[self._start[of_class] + (drawn % self._count[of_class].astype(np.uint64)).astype(int)]
        return {"index": np.concatenate([first, partner], axis=1)}
