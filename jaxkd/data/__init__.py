"""Sets of labelled images, and the order in which they are seen. Knows nothing of distillation."""

from jaxkd.data import augment
from jaxkd.data._batches import Batches, PaddedBatches, StackedBatches, padded_batches
from jaxkd.data._cached_batches import CachedBatches
from jaxkd.data._examples import Examples, from_arrays, joined, keep_labels, labelled
from jaxkd.data._feed import Feed
from jaxkd.data._load import DataSet, load, names, prepare
from jaxkd.data._pairs import PairedBatches
from jaxkd.data._teacher_cache import cache_teacher
from jaxkd.data._views import ViewBatches

__all__ = [
    "Batches",
    "CachedBatches",
    "DataSet",
    "Examples",
    "Feed",
    "PaddedBatches",
    "PairedBatches",
    "StackedBatches",
    "ViewBatches",
    "augment",
    "cache_teacher",
    "from_arrays",
    "joined",
    "keep_labels",
    "labelled",
    "load",
    "names",
    "padded_batches",
    "prepare",
]
