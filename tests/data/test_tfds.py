"""TFDS image classification sets, read without TensorFlow: real files, and TFDS's own mock of the well-known sets."""

import contextlib
import io
import json
import sys
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxkd import data
from jaxkd.data import _load, _tfds


@pytest.fixture(autouse=True)
def without_tensorflow():
    yield
    assert "tensorflow" not in sys.modules


def picture(i):
    """Another image each, in other sizes, with red and green saying where a pixel is."""
    height, width = 40 + i % 3 * 10, 50 + i % 2 * 30
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // (height - 1), x * 255 // (width - 1), np.full_like(x, i)], -1).astype(np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


class _Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS cannot encode images without TensorFlow, but takes those that are encoded already."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None
    SIZES: ClassVar[dict[str, int]] = {"train": 60}
    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "fox"]),
    }

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(dict(self.FEATURES)), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(size) for split, size in self.SIZES.items()}

    def _generate_examples(self, size):
        for i in range(size):
            yield i, self.example(i)

    def example(self, i):
        return {"image": png(picture(i)), "label": i % 3}


class Animals(_Builder):
    """Images that differ in size; a train split only."""


class SmallAnimals(_Builder):
    """Images of one size, with splits of its own."""

    SIZES: ClassVar[dict[str, int]] = {"train": 30, "validation": 10, "test": 20}
    FEATURES: ClassVar[dict[str, Any]] = {
        "image": tfds.features.Image(shape=(8, 6, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "fox"]),
        "id": tfds.features.Text(),
    }

    def example(self, i):
        return {"image": png(picture(i)[:8, :6]), "label": i % 3, "id": str(i)}


class Sentences(_Builder):
    """No image classification set."""

    FEATURES: ClassVar[dict[str, Any]] = {
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=2),
    }

    def example(self, i):
        return {"text": "a", "label": 0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for builder in (Animals, SmallAnimals, Sentences):
            builder(data_dir=path).download_and_prepare(file_format="array_record")
    return path


def test_a_set_of_one_size_is_in_memory(data_dir):
    for split, size in SmallAnimals.SIZES.items():
        examples = data.load("small_animals", split, data_dir=data_dir)
        assert (len(examples), examples.shape, examples.class_names) == (size, (8, 6, 3), ("cat", "dog", "fox"))
        np.testing.assert_array_equal(examples.arrays["image"], [picture(i)[:8, :6] for i in range(size)])
        np.testing.assert_array_equal(examples.labels(), np.arange(size) % 3)


def test_images_of_other_sizes_stream_resized_and_cropped(data_dir):
    examples = data.load("animals", "train", data_dir=data_dir, image_size=16)
    assert examples.arrays is None
    assert examples.shape == (16, 16, 3)
    read = examples.read(np.array([5, 0, 13]))
    np.testing.assert_array_equal(read["label"], np.array([2, 0, 1], np.int32), strict=True)
    np.testing.assert_array_equal(read["index"], np.array([5, 0, 13], np.int32), strict=True)
    for i, image in zip([5, 0, 13], read["image"], strict=True):
        height, width = picture(i).shape[:2]
        side = min(height, width)
        # Each pixel shows its place in the original: those of the centre square, evenly.
        rows = (height - side) / 2 + (np.arange(16) + 0.5) * side / 16 - 0.5
        columns = (width - side) / 2 + (np.arange(16) + 0.5) * side / 16 - 0.5
        inner = slice(1, -1)  # at the border there is nothing on one side to average with
        np.testing.assert_allclose(image[inner, :, 0], np.tile(rows[inner, None] * 255 / (height - 1), 16), atol=1.5)
        np.testing.assert_allclose(image[:, inner, 1], np.tile(columns[inner] * 255 / (width - 1), (16, 1)), atol=1.5)
        np.testing.assert_array_equal(image[..., 2], i)
    assert data.load("animals", "test", data_dir=data_dir).shape == (224, 224, 3)


def test_splits_that_are_not_there_are_carved_from_the_end_of_train(data_dir):
    seen = []
    for split, size in (("train", 48), ("validation", 6), ("test", 6)):
        examples = data.load("animals", split, data_dir=data_dir, image_size=4)
        assert len(examples) == size
        np.testing.assert_array_equal(examples.read(np.arange(size))["index"], np.arange(size))
        seen += examples.read(np.arange(size))["image"][:, 0, 0, 2].tolist()  # blue says which example it is
    assert seen == list(range(60))


def test_streaming_batches_of_a_partly_labelled_set(data_dir):
    examples = data.load("animals", "train", data_dir=data_dir, image_size=4)
    np.testing.assert_array_equal(examples.labels(), np.arange(48) % 3)
    kept = data.keep_labels(examples, 9)
    only = data.labelled(kept)
    batches = data.Batches(only, 3, seed=1)
    assert not batches.resident
    chunk = batches.chunk(2, 4)
    fetched = jax.jit(batches.fetch)(batches.source, {name: values[0] for name, values in chunk.items()})
    assert fetched["image"].shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(chunk["label"], chunk["index"] % 3)
    np.testing.assert_array_equal(chunk["image"][:, :, 0, 0, 2], chunk["index"])
    assert set(chunk["index"][1:].ravel()) == set(np.flatnonzero(kept.labels() >= 0))
    hidden = kept.read(np.arange(48))["label"]
    np.testing.assert_array_equal(hidden, kept.labels())
    with pytest.raises(ValueError, match="not in memory and cannot be resident"):
        data.Batches(examples, 3, resident=True)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"train": 100, "test": 7}, [("train", 0, 90), ("train", 90, 100), ("test", 0, 7)]),
        ({"train": 90_000, "test": 7}, [("train", 0, 85_000), ("train", 85_000, 90_000), ("test", 0, 7)]),
        ({"train": 100, "validation": 7}, [("train", 0, 90), ("train", 90, 100), ("validation", 0, 7)]),
        ({"train": 100, "validation": 6, "test": 7}, [("train", 0, 100), ("validation", 0, 6), ("test", 0, 7)]),
        ({"train": 100, "extra": 7}, [("train", 0, 80), ("train", 80, 90), ("train", 90, 100)]),
    ],
)
def test_how_splits_are_carved(sizes, expected):
    assert [_tfds.carve("toy", sizes, split) for split in _load.SPLITS] == expected


def test_imagenet_is_tested_on_its_validation_split():
    sizes = {"train": 1_281_167, "validation": 50_000, "test": 100_000}
    carved = [_tfds.carve("imagenet2012", sizes, split) for split in _load.SPLITS]
    assert carved == [("train", 0, 1_276_167), ("train", 1_276_167, 1_281_167), ("validation", 0, 50_000)]


@pytest.fixture
def mocked(tmp_path):
    """The well-known sets, as TFDS mocks them: their own features, made-up images, split sizes of ours."""

    def mock(name, **sizes):
        builder = tfds.builder(name, data_dir=tmp_path)
        directory = tmp_path / name / str(builder.version)
        directory.mkdir(parents=True)
        splits = [{"name": split, "shardLengths": [str(size)], "numBytes": "1"} for split, size in sizes.items()]
        info = {"name": name, "version": str(builder.version), "fileFormat": "array_record", "splits": splits}
        (directory / "dataset_info.json").write_text(json.dumps(info))
        builder.info.features.save_config(directory)
        return tfds.testing.mock_data(num_examples=max(sizes.values()), data_dir=str(tmp_path))

    return mock


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_well_known_sets(name, mocked):
    known = next(known for known in data.names() if known.name == name)
    with mocked(name, train=50, test=20):
        splits = {split: data.load(name, split) for split in _load.SPLITS}
    assert {split: len(examples) for split, examples in splits.items()} == {"train": 45, "validation": 5, "test": 20}
    for examples in splits.values():
        assert (examples.classes, examples.shape) == (known.classes, known.shape)
        assert (examples.mean, examples.std) == (known.mean, known.std)
        assert examples.arrays["image"].dtype == np.uint8
    # The mock has one sequence of images for all splits.
    np.testing.assert_array_equal(splits["train"].arrays["image"][:20], splits["test"].arrays["image"])
    assert not np.array_equal(splits["validation"].arrays["image"], splits["test"].arrays["image"][:5])


def test_imagenet_streams(mocked):
    with mocked("imagenet2012", train=30, validation=20):
        examples = data.load("imagenet2012", "train")
        batch = data.Batches(examples, 4)[0]
        assert len(data.load("imagenet2012", "test")) == 20
    assert (len(examples), examples.classes, examples.arrays) == (27, 1000, None)
    assert batch["image"].shape == (4, 224, 224, 3)
    assert batch["image"].dtype == np.uint8


def test_bad_input_is_named(data_dir, tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'cifar11': did you mean .*cifar10"):
        data.load("cifar11", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'digit': did you mean digits"):
        data.prepare("digit", data_dir=tmp_path)
    with pytest.raises(ValueError, match="split 'dev' of digits: there are train, validation, test"):
        data.load("digits", "dev")
    with pytest.raises(ValueError, match="sentences is no image classification set: it has 0 image features"):
        data.load("sentences", "train", data_dir=data_dir)
    with pytest.raises(ValueError, match=r"image_size=32: the images of small_animals are all \(8, 6, 3\)"):
        data.load("small_animals", "train", data_dir=data_dir, image_size=32)
    with pytest.raises(
        FileNotFoundError, match=r"cifar10 is not prepared in .*`jaxkd prepare cifar10`.*jaxkd\[prepare\]"
    ):
        data.load("cifar10", "train", data_dir=tmp_path)


def test_preparing_an_image_set_needs_tensorflow(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
        with pytest.raises(ImportError, match=r'preparing cifar10 needs tensorflow: pip install "jaxkd\[prepare\]"'):
            data.prepare("cifar10", data_dir=tmp_path)


def test_without_tfds_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        ImportError, match=r'the data set digits needs tensorflow_datasets: pip install "jaxkd\[demo\]"'
    ):
        data.load("digits", "train", data_dir=tmp_path)
    with pytest.raises(ImportError, match=r'cifar10 needs tensorflow_datasets: pip install "jaxkd\[train\]"'):
        data.load("cifar10", "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"unknown data set 'cifar11': did you mean cifar10.*jaxkd\[train\]"):
        data.load("cifar11", "train", data_dir=tmp_path)


def test_tfrecord_files_cannot_be_read_by_position(tmp_path):
    directory = tmp_path / "mnist" / str(tfds.builder("mnist", data_dir=tmp_path).version)
    directory.mkdir(parents=True)
    splits = [{"name": "train", "shardLengths": ["10"], "numBytes": "1"}]
    info = {"name": "mnist", "version": directory.name, "fileFormat": "tfrecord", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"mnist in .* is prepared as .*tfrecord.*array_record in another data_dir"):
        data.load("mnist", "train", data_dir=tmp_path)
