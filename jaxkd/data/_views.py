"""Batches of augmented views that can be met again: what becomes of an example depends on its view, not on the step."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxkd.data._batches import Order
from jaxkd.data._examples import Examples
from jaxkd.data._feed import Feed
from jaxkd.data._random import check_seed
from jaxkd.data.augment import Augmentation


class ViewBatches(Feed):
    """The training order of :class:`Batches`, with the augmentation in :meth:`fetch`.

    Epoch e shows view e modulo ``views`` of every example. A view is drawn from ``fold_in(fold_in(key, view), index)``,
    whatever the batch, the step, the device and the process: a teacher's outputs can be written once for each
    (:func:`cache_teacher`) and met again (:class:`CachedBatches`). Learners take these batches without ``prepare``.

    A batch has, beside what :class:`Batches` gives, ``"view"``, int32 [batch].

    Attributes:
      examples: the set.
      batch_size: of the global batch, over all processes.
      augmentation: from ``jaxkd.data.augment``, or None.
      key: typed PRNG key of the views, or None.
      views: how many each example has.
      seed: of the order.
      resident: whether the set sits on the device.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        key: jax.Array | None = None,
        views: int = 1,
        seed: int = 0,
        resident: bool | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Orders ``examples``.

        Args:
          examples: the set.
          batch_size: of the global batch, over all processes.
          augmentation: ``(variables, batch, keys) -> batch``. It sees one example at a time, as a batch of one, and
            ``{}`` for variables: a view cannot depend on other examples, nor on the student.
          key: typed PRNG key that the views are drawn from; goes with ``augmentation``.
          views: how many each example has. With as many views as epochs none is seen twice.
          seed: of the order.
          resident: whether the set sits on the device; by default where it is in memory and smaller than 1 GiB.
          process_index: which slice of each global batch this process reads.
          process_count: how many processes share each global batch.

        Raises:
          ValueError: less than one view, several without an augmentation, an augmentation without a key or the other
            way round, one that mixes examples; or for what ``Batches`` raises.
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
        if views < 1:
            raise ValueError(f"views is {views}: each example has at least one")
        if (augmentation is None) != (key is None):
            missing, given = ("key", "augmentation") if key is None else ("augmentation", "key")
            raise ValueError(f"{given} is given and {missing} is not: give both, or none for the examples as they are")
        if augmentation is None and views > 1:
            raise ValueError(
                f"views is {views}, and without an augmentation they are all the same: give one, or views=1"
            )
        self.augmentation = augmentation
        self.key = key
        self.views = views
        self.seed = seed
        self._order = Order(len(examples), seed)
        try:
            jax.eval_shape(self.look, np.zeros(1, np.int32), self.examples.read(np.zeros(1, np.int64)))
        except ValueError as error:
            raise ValueError(f"an augmentation of views sees one example at a time: {error}") from error

    @property
    def steps_per_epoch(self) -> float:
        """``len(examples) / batch_size``, which need not be a whole number."""
        return len(self.examples) / self.batch_size

    def _plan(self, start: int, length: int) -> dict[str, np.ndarray]:
        begin, end = start * self.batch_size, (start + length) * self.batch_size
        view = np.arange(begin, end) // len(self.examples) % self.views
        rows = {"index": self._order.rows(begin, end), "view": view.astype(np.int32)}
        return {name: values.reshape(length, self.batch_size) for name, values in rows.items()}

    def look(self, view: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A view of examples as they are read: decoded and augmented. Pure jax.numpy.

        Args:
          view: int32 [batch].
          batch: what ``examples.read`` gives.
        """
        return self._augmented({**self.examples.decode(batch), "view": view})

    def fetch(self, source: Any, x: Mapping[str, Any]) -> dict[str, Any]:
        """The decoded and augmented batch of one step; runs inside the compiled program.

        Args:
          source: :attr:`source`, on the device.
          x: one step of :meth:`chunk`.
        """
        return self._augmented(super().fetch(source, x))

    def _augmented(self, batch: dict[str, Any]) -> dict[str, Any]:
        augmentation, key = self.augmentation, self.key
        if augmentation is None or key is None:
            return batch

        def one(example: dict[str, jax.Array]) -> dict[str, jax.Array]:
            own = jax.random.fold_in(jax.random.fold_in(key, example["view"]), example["index"])
            alone = augmentation({}, {name: values[None] for name, values in example.items()}, own[None])
            return {name: values[0] for name, values in alone.items()}

        return jax.vmap(one)(batch)
