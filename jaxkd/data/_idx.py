"""Fashion-MNIST from its IDX files, as Debian's package ``dataset-fashion-mnist`` installs them."""

import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

from jaxkd.data._examples import Examples, from_arrays

_SYSTEM = tuple(pathlib.Path(share, "datasets", "fashion-mnist") for share in ("/usr/local/share", "/usr/share"))
_VALIDATION = 5000
_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)  # fmt: skip
_FILES = {  # images, labels
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def find(data_dir: str | os.PathLike[str] | None) -> pathlib.Path | None:
    """Where the four files are: ``data_dir``, ``data_dir/fashion-mnist`` or the system's share directories; or None."""
    own = () if data_dir is None else (pathlib.Path(data_dir), pathlib.Path(data_dir, "fashion-mnist"))
    files = [file for pair in _FILES.values() for file in pair]
    return next((place for place in (*own, *_SYSTEM) if all((place / file).is_file() for file in files)), None)


def fashion_mnist(
    directory: pathlib.Path, split: str, *, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Examples:
    """Reads a split: of the train file all but the last 5000 (train) or those (validation), or the test file."""
    images, labels = _FILES["test" if split == "test" else "train"]
    image, label = read_idx(directory / images, ndim=3), read_idx(directory / labels, ndim=1)
    if len(image) != len(label):
        raise ValueError(f"{directory / images} has {len(image)} images, but {labels} beside it {len(label)} labels")
    part = {"train": slice(-_VALIDATION), "validation": slice(-_VALIDATION, None), "test": slice(None)}[split]
    return from_arrays("fashion_mnist", split, image[part, ..., None], label[part], _CLASSES, mean=mean, std=std)


def read_idx(path: pathlib.Path, ndim: int) -> np.ndarray:
    """A gzipped IDX file of bytes with ``ndim`` dimensions, as uint8.

    Raises:
      ValueError: not such a file, or one that was cut short; names it.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is no complete gzip file: {error}") from error
    header = 4 + 4 * ndim
    # Two zero bytes, the type (8: unsigned byte), the number of dimensions; then their sizes, big-endian.
    if data[:4] != bytes((0, 0, 8, ndim)) or len(data) < header:
        raise ValueError(f"{path} is no IDX file of bytes in {ndim} dimensions: it starts with {data[:4].hex()}")
    shape = struct.unpack(f">{ndim}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise ValueError(f"{path} holds {len(data) - header} bytes, but its header says {list(shape)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
