"""Data sets by name."""

import difflib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxkd.data import _idx, _tfds
from jaxkd.data._examples import Examples
from jaxkd.data._extras import require

SPLITS = ("train", "validation", "test")


class DataSet(NamedTuple):
    """What is known of a data set before it is loaded.

    Attributes:
      name: for :func:`load`.
      classes: how many.
      shape: of one image, (H, W, C).
      sizes: examples by split, as :func:`load` cuts it.
      source: where it comes from.
      licence: of the data.
      mean: of pixel values in [0, 1], per channel, as the field publishes it.
      std: their standard deviation.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    sizes: Mapping[str, int]
    source: str
    licence: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _sizes(train: int, validation: int, test: int) -> Mapping[str, int]:
    return dict(zip(SPLITS, (train, validation, test), strict=True))


_KNOWN = {
    known.name: known
    for known in (
        DataSet("digits", 10, (8, 8, 1), _sizes(1297, 150, 350), "scikit-learn", "CC BY 4.0", (0.3060,), (0.3764,)),
        DataSet(
            "fashion_mnist",
            10,
            (28, 28, 1),
            _sizes(55000, 5000, 10000),
            "Debian package dataset-fashion-mnist, or TFDS",
            "MIT",
            (0.2860,),
            (0.3530,),
        ),
        DataSet("mnist", 10, (28, 28, 1), _sizes(55000, 5000, 10000), "TFDS", "CC BY-SA 3.0", (0.1307,), (0.3081,)),
        DataSet(
            "cifar10",
            10,
            (32, 32, 3),
            _sizes(45000, 5000, 10000),
            "TFDS",
            "none stated",
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
        ),
        DataSet(
            "cifar100",
            100,
            (32, 32, 3),
            _sizes(45000, 5000, 10000),
            "TFDS",
            "none stated",
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
        ),
        DataSet(
            "svhn_cropped",
            10,
            (32, 32, 3),
            _sizes(68257, 5000, 26032),
            "TFDS",
            "non-commercial use",
            (0.4377, 0.4438, 0.4728),
            (0.1980, 0.2010, 0.1970),
        ),
        DataSet(
            "imagenet2012",
            1000,
            (224, 224, 3),
            _sizes(1276167, 5000, 50000),
            "TFDS, from files that need registration at image-net.org",
            "non-commercial research",
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
        ),
    )
}


def names() -> tuple[DataSet, ...]:
    """The data sets whose facts are known here. :func:`load` takes any image classification set of TFDS besides."""
    return tuple(_KNOWN.values())


def load(
    name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None, image_size: int | None = None
) -> Examples:
    """Loads a split of a data set.

    Sets of at most 1 GiB of equally sized images are loaded into memory, others are read as they are needed. Nothing is
    downloaded; only ``digits`` is prepared by its first use. TFDS sets are read without TensorFlow.

    Which examples are which split:

    * ``digits``: 35 images of every digit are the test split, 15 the validation split, 1297 the train split.
    * ``fashion_mnist``: the first 55000 of the train file, its last 5000, the test file. (In the order of the IDX files
      or, where it is prepared, of TFDS: not the same.)
    * others: their own splits; with one of ``validation`` and ``test`` only, that is the test split (as it is of
      ``imagenet2012``, whose test split has no labels). What is missing is carved from the end of the TFDS train split:
      10 %, at most 5000 examples, for each.

    Pixels are normalised by the field's published constants for the sets of :func:`names` (for ``digits``: of its train
    split), else to [-1, 1].

    Args:
      name: of the data set: one of :func:`names`, or any image classification set of TFDS.
      split: ``"train"``, ``"validation"`` or ``"test"``.
      data_dir: the TFDS directory; by default the environment variable ``TFDS_DATA_DIR``, else
        ``~/tensorflow_datasets``. IDX files are looked for there too.
      image_size: for a set whose images differ in size: the shorter side is resized to it, and the centre square is cut
        out; by default 224.

    Raises:
      ValueError: an unknown name (with the nearest ones), no image classification set, or a label out of range.
      FileNotFoundError: the set is not prepared.
      ImportError: a package is missing; says which extra brings it.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} of {name}: there are {', '.join(SPLITS)}")
    known = _KNOWN.get(name)
    mean, std = (known.mean, known.std) if known else (None, None)
    builder = _prepared_builder(name, data_dir)
    if builder is not None:
        return _tfds.read_split(builder, split, mean=mean, std=std, image_size=image_size)
    if name == "fashion_mnist" and (directory := _idx.find(data_dir)):
        if image_size is not None:
            raise ValueError(_tfds.FIXED_SIZE.format(image_size=image_size, name=name, shape=_KNOWN[name].shape))
        return _idx.fashion_mnist(directory, split, mean=mean, std=std)
    raise FileNotFoundError(_unprepared(name, data_dir))


def prepare(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> str:
    """Downloads and prepares a data set through TFDS, as array_record files; does nothing where that is done.

    Writing image sets needs TensorFlow, reading them does not.

    Args:
      name: as for :func:`load`.
      data_dir: as for :func:`load`.

    Returns:
      The directory the data set is in.

    Raises:
      ValueError: an unknown name (with the nearest ones).
      ImportError: a package is missing; says which extra brings it.
    """
    builder = _prepared_builder(name, data_dir)
    if builder is None and name == "fashion_mnist" and (directory := _idx.find(data_dir)):
        return str(directory)
    if builder is None:
        require("tensorflow", "prepare", f"preparing {name}")
        builder = _tfds.open_builder(name, data_dir)
        builder.download_and_prepare(file_format="array_record")
    return str(builder.data_dir)


def _prepared_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The TFDS builder of ``name`` where its files are there, else None."""
    if name == "digits":
        require("tensorflow_datasets", "demo", "the data set digits")
        from jaxkd.data import _digits  # needs tensorflow-datasets to be imported

        return _digits.prepared(data_dir)
    try:
        builder = _tfds.open_builder(name, data_dir)
    except LookupError as error:
        raise ValueError(_unknown(name)) from error
    except ImportError as error:
        if name == "fashion_mnist":  # can do without
            return None
        if name not in _KNOWN:
            raise ValueError(f"{_unknown(name)} ({error})") from error
        raise
    return builder if _tfds.is_prepared(builder) else None


def _unknown(name: str) -> str:
    everything = list(dict.fromkeys([*_KNOWN, *_tfds.all_names()]))
    nearest = difflib.get_close_matches(name, everything, n=3)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"there are {', '.join(_KNOWN)}, and those of TFDS"
    return f"unknown data set {name!r}: {hint}"


def _unprepared(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    where = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    debian = "install Debian's dataset-fashion-mnist, or " if name == "fashion_mnist" else ""
    return (
        f"{name} is not prepared in {where}: {debian}run `jaxkd prepare {name}` once, which needs TensorFlow "
        '(pip install "jaxkd[prepare]")'
    )
