"""Fashion-MNIST from IDX files, and files that are not what they should be."""

import gzip
import struct

import numpy as np
import pytest

from jaxkd import data
from jaxkd.data import _idx

IMAGES, LABELS = _idx._FILES["train"]


def idx(values):
    """An IDX file of bytes, written from its definition."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture(scope="module")
def original():
    rng = np.random.default_rng(0)
    made = {}
    for split, n in (("train", 5020), ("test", 30)):
        images, labels = _idx._FILES[split]
        made[images] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        made[labels] = (np.arange(n) % 10).astype(np.uint8)
    return made


@pytest.fixture
def directory(tmp_path, original):
    for name, values in original.items():
        (tmp_path / name).write_bytes(gzip.compress(idx(values), compresslevel=1))
    return tmp_path


def test_the_splits(directory, original):
    for split, part in (("train", slice(0, 20)), ("validation", slice(20, 5020))):
        examples = data.load("fashion_mnist", split, data_dir=directory)
        np.testing.assert_array_equal(examples.arrays["image"][..., 0], original[IMAGES][part])
        np.testing.assert_array_equal(examples.arrays["label"], original[LABELS][part])
    assert len(data.load("fashion_mnist", "test", data_dir=directory)) == 30
    assert examples.shape == (28, 28, 1)
    assert examples.class_names[9] == "Ankle boot"
    with pytest.raises(ValueError, match=r"image_size=32: the images of fashion_mnist are all \(28, 28, 1\)"):
        data.load("fashion_mnist", "test", data_dir=directory, image_size=32)
    assert data.prepare("fashion_mnist", data_dir=directory) == str(directory)


@pytest.mark.skipif(_idx.find(None) is None, reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_files():
    sizes = next(known.sizes for known in data.names() if known.name == "fashion_mnist")
    splits = {split: data.load("fashion_mnist", split, data_dir="/nowhere") for split in sizes}
    assert {split: len(examples) for split, examples in splits.items()} == sizes
    assert np.bincount(splits["test"].labels()).tolist() == [1000] * 10
    pixels = splits["train"].arrays["image"][:5000].astype(np.float64) / 255
    np.testing.assert_allclose(splits["train"].mean, pixels.mean(), atol=0.005)
    np.testing.assert_allclose(splits["train"].std, pixels.std(), atol=0.005)


def test_neither_files_nor_tfds(tmp_path, monkeypatch):
    monkeypatch.setattr(_idx, "_SYSTEM", ())
    with pytest.raises(FileNotFoundError, match=r"dataset-fashion-mnist.*`jaxkd prepare fashion_mnist`"):
        data.load("fashion_mnist", "train", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(bytes([0, 0, 8, 1]) + bytes(100)), "of bytes in 3 dimensions: it starts with 00000801"),
        (gzip.compress(bytes([0, 0, 13, 3]) + bytes(100)), "it starts with 00000d03"),
        (gzip.compress(bytes([0, 0, 8, 3])), "no IDX file"),
        (gzip.compress(b""), "no IDX file"),
        (gzip.compress(idx(np.zeros((3, 2, 2), np.uint8))[:-1]), r"holds 11 bytes, but its header says \[3, 2, 2\]"),
        (gzip.compress(idx(np.zeros((3, 2, 2), np.uint8)) + b"x"), r"holds 13 bytes"),
        (gzip.compress(idx(np.zeros((9, 9, 9), np.uint8)))[:-9], "no complete gzip file"),
        (b"not gzip at all", "no complete gzip file"),
        (gzip.compress(bytes(1000))[:20] + bytes(50), "no complete gzip file"),
    ],
    ids=["labels", "floats", "no sizes", "empty", "short", "long", "cut gzip", "no gzip", "corrupt gzip"],
)  # fmt: skip
def test_a_broken_file_is_named(content, message, directory):
    (directory / IMAGES).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load("fashion_mnist", "train", data_dir=directory)
    assert IMAGES in str(caught.value)


def test_images_and_labels_that_do_not_belong_together(directory, original):
    (directory / LABELS).write_bytes(gzip.compress(idx(original[LABELS][:-1])))
    with pytest.raises(ValueError, match=f"5020 images, but {LABELS} beside it 5019 labels"):
        data.load("fashion_mnist", "validation", data_dir=directory)


def test_a_label_out_of_range(directory, original):
    labels = original[LABELS].copy()
    labels[7] = 10
    (directory / LABELS).write_bytes(gzip.compress(idx(labels)))
    with pytest.raises(ValueError, match="example 7 of fashion_mnist/train has label 10, but there are 10 classes"):
        data.load("fashion_mnist", "train", data_dir=directory)
