"""Sets of examples: reading, keeping labels, errors."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxkd import data

COUNTS = (40, 25, 3, 32)


def toy():
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS))
    image = np.arange(100 * 4, dtype=np.uint32).astype(np.uint8).reshape(100, 2, 2, 1)
    return data.from_arrays("toy", "train", image, label, ("a", "b", "c", "d"))


def test_reading_by_index():
    examples = toy()
    read = examples.read(np.array([7, 3, 7]))
    np.testing.assert_array_equal(read["image"], examples.arrays["image"][[7, 3, 7]], strict=True)
    np.testing.assert_array_equal(read["index"], np.array([7, 3, 7], np.int32), strict=True)
    assert read["label"].dtype == np.int32
    assert (len(examples), examples.classes, examples.shape) == (100, 4, (2, 2, 1))


def test_decode_normalises_images_and_leaves_the_rest():
    examples = toy()
    raw = examples.read(np.arange(10))
    decoded = jax.jit(examples.decode)(raw)
    np.testing.assert_allclose(decoded["image"], raw["image"] / 127.5 - 1, rtol=1e-6, atol=1e-6)
    assert decoded["image"].dtype == np.float32
    np.testing.assert_array_equal(decoded["label"], raw["label"])
    np.testing.assert_array_equal(decoded["index"], raw["index"])


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (4, (1, 1, 1, 1)),
        (12, (3, 3, 3, 3)),
        (15, (4, 4, 3, 4)),  # one class is used up
        (100, COUNTS),
    ],
)
def test_labels_are_kept_in_balance(n, expected):
    examples = toy()
    kept = data.keep_labels(examples, n, seed=1)
    labels = kept.labels()
    assert tuple(np.bincount(labels[labels >= 0], minlength=4)) == expected
    assert (labels[labels < 0] == -1).all()
    np.testing.assert_array_equal(labels[labels >= 0], examples.labels()[labels >= 0])
    np.testing.assert_array_equal(kept.arrays["index"], np.arange(100))
    assert kept.arrays["image"] is examples.arrays["image"]  # not copied


def test_two_splits_as_one():
    examples = toy()
    rows = {"train": slice(60), "validation": slice(60, None)}
    parts = [
        data.from_arrays("toy", split, examples.arrays["image"][part], examples.labels()[part], examples.class_names)
        for split, part in rows.items()
    ]
    whole = data.joined(*parts)
    assert (whole.name, whole.split, whole.mean) == ("toy", "train+validation", examples.mean)
    for name, x in examples.arrays.items():
        np.testing.assert_array_equal(whole.arrays[name], x, strict=True)
    other = data.from_arrays("other", "train", examples.arrays["image"], examples.labels(), examples.class_names)
    with pytest.raises(ValueError, match=r"toy \(2, 2, 1\) of 4 classes and other .* are two data sets"):
        data.joined(examples, other)
    with pytest.raises(ValueError, match="toy/train is not in memory"):
        data.joined(dataclasses.replace(examples, arrays=None), examples)


def test_the_remainder_is_spread_over_classes_by_seed():
    counts = set()
    for seed in range(20):
        labels = data.keep_labels(toy(), 5, seed=seed).labels()
        counts.add(tuple(np.bincount(labels[labels >= 0], minlength=4)))
    assert all(sorted(count) == [1, 1, 1, 2] for count in counts)
    assert len(counts) > 1


def test_which_labels_are_kept_is_deterministic_and_grows():
    few, again, more, other = (
        data.keep_labels(toy(), n, seed=seed).labels() >= 0 for n, seed in ((8, 0), (8, 0), (20, 0), (8, 1))
    )
    np.testing.assert_array_equal(few, again)
    assert (few <= more).all()
    assert (few != other).any()


def test_labelled_examples_keep_their_position():
    examples = toy()
    kept = data.keep_labels(examples, 12)
    only = data.labelled(kept)
    assert len(only) == 12
    everything = only.read(np.arange(12))
    np.testing.assert_array_equal(everything["index"], np.flatnonzero(kept.labels() >= 0))
    np.testing.assert_array_equal(everything["label"], examples.labels()[everything["index"]])
    np.testing.assert_array_equal(everything["image"], examples.arrays["image"][everything["index"]])


def image(n=3, dtype=np.uint8):
    return np.zeros((n, 2, 2, 1), dtype)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.from_arrays("toy", "train", image(), np.array([0, 1, 2]), ("a", "b")),
         r"example 2 of toy/train has label 2, but there are 2 classes"),
        (lambda: data.from_arrays("toy", "train", image(), np.array([0, -2, 1]), ("a", "b")),
         r"example 1 of toy/train has label -2"),
        (lambda: data.from_arrays("toy", "train", image(0), np.zeros(0, int), ("a", "b")), "toy/train has no examples"),
        (lambda: data.from_arrays("toy", "train", image(dtype=np.float32), np.zeros(3, int), ("a",)),
         "image is float32"),
        (lambda: data.from_arrays("toy", "train", image(), np.zeros(2, int), ("a",)), r"label is int64 \[2\]"),
        (lambda: data.from_arrays("toy", "train", image(), np.zeros(3, int), ("a",), mean=(0.1, 0.2)),
         "one value for each of the 1 channels"),
        (lambda: data.keep_labels(toy(), 101), "ask for a number from 4 to 100"),
        (lambda: data.keep_labels(toy(), 3), "ask for a number from 4 to 100"),
        (lambda: data.keep_labels(data.keep_labels(toy(), 8), 9), "8 labelled examples"),
        (lambda: data.keep_labels(toy(), 8, seed=-1), "seed is -1"),
        (lambda: data.labelled(data.from_arrays("toy", "train", image(), np.full(3, -1), ("a",))),
         "no labelled examples"),
    ],
)  # fmt: skip
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
