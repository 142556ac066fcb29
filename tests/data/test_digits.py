"""The digits set: a real TFDS data set on disk, read back without TensorFlow and without scikit-learn."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxkd import data
from jaxkd.data import _digits

SIZES = {"train": 1297, "validation": 150, "test": 350}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    assert pathlib.Path(data.prepare("digits", data_dir=path)) == path / "digits" / "1.0.0"
    return path


@pytest.fixture(scope="module")
def splits(data_dir):
    return {split: data.load("digits", split, data_dir=data_dir) for split in SIZES}


def test_the_splits_are_the_whole_set_and_balanced(splits):
    known = load_digits()
    original = {(row.tobytes(), label) for row, label in zip(known.images.astype(np.uint8), known.target, strict=True)}
    read = []
    for split, size in SIZES.items():
        arrays = splits[split].arrays
        assert arrays["image"].shape == (size, 8, 8, 1)
        assert arrays["image"].dtype == np.uint8
        values = np.rint(arrays["image"][..., 0] * (16 / 255)).astype(np.uint8)
        read += [(row.tobytes(), label) for row, label in zip(values, arrays["label"], strict=True)]
    assert len(read) == len(known.target)
    assert set(read) == original
    assert np.bincount(splits["test"].labels()).tolist() == [35] * 10
    assert np.bincount(splits["validation"].labels()).tolist() == [15] * 10
    assert splits["train"].arrays["image"].max() == 255


def test_the_splits_are_pinned(splits):
    # Published numbers are of these splits.
    assert {split: examples.labels()[:8].tolist() for split, examples in splits.items()} == {
        "train": [0, 0, 0, 5, 0, 5, 0, 0],
        "validation": [5, 7, 7, 5, 3, 9, 0, 9],
        "test": [9, 2, 5, 6, 7, 8, 9, 7],
    }


def test_the_constants_are_those_of_the_train_split(splits):
    pixels = splits["train"].arrays["image"] / 255
    np.testing.assert_allclose(splits["train"].mean, pixels.mean(), atol=5e-5)
    np.testing.assert_allclose(splits["train"].std, pixels.std(), atol=5e-5)
    assert splits["test"].mean == splits["train"].mean


def test_it_is_on_disk_as_array_record_and_not_written_again(data_dir, splits):
    def files():
        return sorted((file.name, file.stat().st_mtime_ns) for file in (data_dir / "digits" / "1.0.0").iterdir())

    before = files()
    assert sum(".array_record-" in name for name, _ in before) == 3
    again = data.load("digits", "train", data_dir=data_dir)
    np.testing.assert_array_equal(again.arrays["image"], splits["train"].arrays["image"])
    assert files() == before


def test_reading_needs_neither_tensorflow_nor_scikit_learn(data_dir):
    program = f"""if True:
        import sys
        from jaxkd import data
        assert not {{"tensorflow_datasets", "grain"}} & set(sys.modules)
        examples = data.load("digits", "test", data_dir={str(data_dir)!r})
        assert len(examples) == 350
        assert not {{"tensorflow", "sklearn"}} & set(sys.modules), sorted(sys.modules)
    """
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_two_processes_that_prepare_at_once(tmp_path, monkeypatch):
    """The one that comes second finds the directory taken when it renames its own, and uses what is there."""
    generate, calls = _digits.Digits._split_generators, []

    def overtaken(self, dl_manager):
        calls.append(self)
        if len(calls) == 1:
            _digits.prepared(tmp_path)
        return generate(self, dl_manager)

    monkeypatch.setattr(_digits.Digits, "_split_generators", overtaken)
    builder = _digits.prepared(tmp_path)
    assert len(calls) == 2
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]  # no half-written one is left
    assert len(builder.as_data_source(split="test")) == 350


def test_a_failed_preparation_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, image, label):
        raise OSError("No space left on device")

    monkeypatch.setattr(_digits.Digits, "_generate_examples", full)
    with pytest.raises(OSError, match="No space left"):
        data.load("digits", "train", data_dir=tmp_path)
    assert list((tmp_path / "digits").iterdir()) == []
