"""Batches with a teacher's outputs in them: what ``networks.cached`` reads."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.data._cache_manifest import check_digest, check_identity, read_manifest
from jaxkd.data._cache_records import Records
from jaxkd.data._views import ViewBatches

_RESIDENT_BYTES = 1 << 30
_PREFIX = "teacher_"


class CachedBatches(ViewBatches):
    """The batches of a :class:`ViewBatches`, with ``"teacher_logits"`` float32 [batch, classes] from a cache.

    Every batch is a pure function of the step, as it was. Where a cache has kept ``top_k`` logits, the other classes
    have an even share of the probability that is known to be left.

    Attributes:
      bytes_per_example: of a record, of which each example has one a view.
      bytes_on_disk: of all records; a file is at least two blocks of 64 KiB.
      resident_outputs: whether the teacher's outputs sit on the device, beside the examples.
    """

    def __init__(
        self,
        views: ViewBatches,
        directory: str | os.PathLike[str],
        *,
        digest: str,
        resident_outputs: bool | None = None,
    ):
        """Opens a cache for batches of the views it was written for; their order and size are free.

        Args:
          views: the batches.
          directory: what :func:`cache_teacher` has written.
          digest: of the teacher's content, as it was given there.
          resident_outputs: whether the teacher's outputs sit on the device; by default where the examples do and the
            outputs are smaller than 1 GiB. Others are read as they are needed.

        Raises:
          FileNotFoundError: there is no cache.
          ValueError: it is of another teacher, data set, class count, number of views, key or augmentation; it is
            damaged or truncated (of outputs that do not sit on the device, some damage is found when it is read); or
            ``resident_outputs`` for a set that streams.
          ImportError: array_record is missing; says which extra brings it.
        """
        super().__init__(
            views.examples,
            views.batch_size,
            augmentation=views.augmentation,
            key=views.key,
            views=views.views,
            seed=views.seed,
            resident=views.resident,
            process_index=views.process_index,
            process_count=views.process_count,
        )
        check_digest(digest)
        directory = Path(directory)
        manifest = read_manifest(directory)
        check_identity(directory, manifest, digest, views)
        self._records = Records(directory, manifest)
        self._form = self._records.form
        self.bytes_per_example = self._form.record.itemsize
        self.bytes_on_disk = self._records.nbytes
        small = views.views * len(views.examples) * self.bytes_per_example < _RESIDENT_BYTES
        if resident_outputs and not self.resident:
            raise ValueError("resident_outputs is True, and the examples stream: their outputs are read with them")
        self.resident_outputs = self.resident and small if resident_outputs is None else resident_outputs
        self._outputs: dict[str, np.ndarray] = {}
        if self.resident_outputs:
            self._outputs = _fields(self._records.read_all().reshape(-1))

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """This process's slice of global batch ``step``, with the fields of the teacher's records."""
        rows = {name: values[0] for name, values in self._rows(step, 1).items()}
        return super().__getitem__(step) | _fields(self._records.read(rows["index"], rows["view"]))

    @property
    def source(self) -> Mapping[str, np.ndarray] | tuple[()]:
        """What to put on the device once: the examples, and the teacher's outputs if they sit there."""
        examples = super().source
        return {**examples, **self._outputs} if isinstance(examples, Mapping) else examples

    def chunk(self, start: int, length: int) -> dict[str, np.ndarray]:
        """What steps ``start`` to ``start + length - 1`` need, stacked on a leading axis."""
        xs = super().chunk(start, length)
        if self.resident and not self.resident_outputs:
            xs |= _fields(self._records.read(xs["index"], xs["view"]))
        return xs

    def fetch(self, source: Any, x: Mapping[str, Any]) -> dict[str, Any]:
        """The decoded and augmented batch of one step with the teacher's logits; runs inside the compiled program."""
        names = [_PREFIX + name for name in self._form.record.fields or ()]
        if self.resident_outputs:
            at = x["view"] * len(self.examples) + x["index"]
            fields = {name: source[name].at[at].get(mode="promise_in_bounds") for name in names}
            source = {name: values for name, values in source.items() if name not in names}
        else:
            fields = {name: x[name] for name in names}
            x = {name: values for name, values in x.items() if name not in names}
        logits = self._form.expand({name.removeprefix(_PREFIX): values for name, values in fields.items()})
        return {**super().fetch(source, x), "teacher_logits": logits}


def _fields(records: np.ndarray) -> dict[str, np.ndarray]:
    """Records [...] as arrays by name, as a batch has them."""
    return {_PREFIX + name: np.ascontiguousarray(records[name]) for name in records.dtype.names or ()}
