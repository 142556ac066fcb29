"""The records of a teacher cache: one for each example and view, in one ArrayRecord file a view.

The records of a view are in the order in which they were made, that of an epoch of the seed in the manifest: nothing
has to be sorted while writing, and what is played back with the same seed is read from front to back.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.data._extras import require
from jaxkd.data._random import permutation

DType = Literal["float32", "float16", "bfloat16"]

# A group is read as a whole. Of 16 small records little is read in vain, and each costs a few bytes more than it holds;
# alone it would cost a hundred.
_WRITER_OPTIONS = "group_size:16,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_AGAIN = "remove the cache and write it again (cache_teacher)"


class Form(NamedTuple):
    """What is kept of an example's logits: all of them, or the ``top_k`` largest with what the others add up to."""

    classes: int
    dtype: DType
    top_k: int | None

    @property
    def record(self) -> np.dtype:
        """A record, as NumPy's structured type: little-endian and without gaps."""
        logits = ("logits", jnp.dtype(self.dtype).newbyteorder("<"), (self.top_k or self.classes,))
        if self.top_k is None:
            return np.dtype([logits])
        ids = "<u2" if self.classes <= 2**16 else "<u4"
        return np.dtype([logits, ("classes", ids, (self.top_k,)), ("rest", "<f4")])

    def compress(self, logits: jax.Array) -> dict[str, jax.Array]:
        """Logits [batch, classes] as the fields of records."""
        logits = logits.astype(jnp.float32)
        if self.top_k is None:
            return {"logits": logits.astype(self.dtype)}
        largest, classes = jax.lax.top_k(logits, self.top_k)
        others = logits.at[jnp.arange(len(logits))[:, None], classes].set(-jnp.inf)
        rest = jax.nn.logsumexp(others, axis=-1)
        return {"logits": largest.astype(self.dtype), "classes": classes, "rest": rest}

    def expand(self, fields: Mapping[str, jax.Array]) -> jax.Array:
        """Logits [batch, classes] in float32. Classes that were left out share what they add up to evenly.

        So the log-sum-exp of the logits is that of the teacher, and so are the probabilities of the kept classes (at a
        temperature of 1).
        """
        logits = fields["logits"].astype(jnp.float32)
        if self.top_k is None:
            return logits
        even = fields["rest"] - np.log(self.classes - self.top_k).astype(np.float32)
        full = jnp.broadcast_to(even[:, None], (len(logits), self.classes))
        return full.at[jnp.arange(len(logits))[:, None], fields["classes"].astype(jnp.int32)].set(logits)


def write_records(directory: Path, views: int, examples: int, chunks: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    """Writes one file a view, and gives their names, sizes and digests.

    Args:
      directory: for the files.
      views: how many.
      examples: how many records each file gets.
      chunks: records [m], view after view; what is left of the last chunk is not written.
    """
    module = require("array_record.python.array_record_module", "train", "a teacher cache")
    paths = [directory / f"view_{view:05d}.array_record" for view in range(views)]
    records = (record.tobytes() for chunk in chunks for record in chunk)
    for path in paths:
        writer = module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
        try:
            for record in itertools.islice(records, examples):
                writer.write(record)
        finally:
            writer.close()
    return [{"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths]


class Records:
    """Random access to the records of a cache."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]):
        """Opens the files; raises ValueError where one is missing or of another size."""
        self.form = Form(**manifest["form"])
        self._n, self._seed = manifest["data"]["examples"], manifest["seed"]
        self._paths = [directory / file["name"] for file in manifest["files"]]
        self._digests = [file["sha256"] for file in manifest["files"]]
        for path, file in zip(self._paths, manifest["files"], strict=True):
            size = path.stat().st_size if path.exists() else 0
            if size != file["bytes"]:
                raise ValueError(f"{path} has {size} bytes of {file['bytes']}: {_AGAIN}")
        self.nbytes = sum(file["bytes"] for file in manifest["files"])
        module = require("array_record.python.array_record_module", "train", "a teacher cache")
        self._readers = [module.ArrayRecordReader(str(path), _READER_OPTIONS) for path in self._paths]
        self._places: dict[int, np.ndarray] = {}

    def read(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """The records of the examples at ``rows`` under ``views``, both int [...]: ``form.record`` [...]."""
        found = np.empty(rows.shape, self.form.record)
        for view in np.unique(views):
            chosen = views == view
            found[chosen] = self._parsed(view, lambda reader, at: reader.read(at), self._place(view)[rows[chosen]])
        return found

    def read_all(self) -> np.ndarray:
        """All of them, ``form.record`` [views, examples], after their files were held against their digests."""
        for path, digest in zip(self._paths, self._digests, strict=True):
            if _sha256(path) != digest:
                raise ValueError(f"{path} is damaged, as its digest differs: {_AGAIN}")
        every = (self._parsed(v, lambda reader, at: reader.read_all(), self._place(v)) for v in range(len(self._paths)))
        return np.stack([records[self._place(v)] for v, records in enumerate(every)])

    def _place(self, view: int) -> np.ndarray:
        """Where the record of each example is in the file of a view: int [examples]."""
        if view not in self._places:
            self._places[view] = np.argsort(permutation(self._n, self._seed, epoch=view))
        return self._places[view]

    def _parsed(self, view: int, read: Callable[[Any, list[int]], list[bytes]], places: np.ndarray) -> np.ndarray:
        try:
            records = read(self._readers[view], places.tolist())
        except RuntimeError as error:  # as which array_record reports damage
            raise ValueError(f"{self._paths[view]} is damaged ({error}): {_AGAIN}") from error
        return np.frombuffer(b"".join(records), self.form.record)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
