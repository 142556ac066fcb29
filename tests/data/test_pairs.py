"""Batches of pairs: of one class, each example once an epoch, pure, the same for any number of processes."""

import numpy as np
import pytest

from jaxkd import data

from .test_batches import assert_equal, toy


def halves(batch, name="index"):
    return np.split(batch[name], 2)


def test_pairs_are_of_one_class_and_first_halves_make_epochs():
    pairs = data.PairedBatches(toy(23), 8, seed=3)
    batches = [pairs[step] for step in range(2 * 23)]
    for batch in batches:
        first, second = halves(batch, "label")
        np.testing.assert_array_equal(first, second)
    seen = np.concatenate([halves(batch)[0] for batch in batches]).reshape(-1, 23)
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(23), (len(seen), 1)))
    assert pairs.steps_per_epoch == 23 / 4
    # All examples are partners too, and those of one example are not always the same.
    partners = {tuple(pair) for batch in batches for pair in zip(*halves(batch), strict=True)}
    assert {second for _, second in partners} == set(range(23))
    assert len(partners) > 2 * 23


def test_a_batch_is_a_pure_function_of_seed_and_step():
    first, again = (data.PairedBatches(toy(), 6, seed=3) for _ in range(2))
    walked = [first[step] for step in range(12)]
    for step in (11, 0, 5):
        assert_equal(again[step], walked[step])
    np.testing.assert_array_equal(again.chunk(4, 3)["index"], [batch["index"] for batch in walked[4:7]])
    other = data.PairedBatches(toy(), 6, seed=4)[0]
    assert not np.array_equal(other["index"], walked[0]["index"])
    # A resumed run must find the pairs it left, whatever has been upgraded: this list must never change.
    assert data.PairedBatches(toy(8, 2), 8, seed=3)[1]["index"].tolist() == [7, 4, 3, 0, 7, 2, 7, 0]


@pytest.mark.parametrize("resident", [True, False])
def test_processes_share_what_one_would_read(resident):
    whole = data.PairedBatches(toy(), 8, seed=2)
    parts = [data.PairedBatches(toy(), 8, seed=2, resident=resident, process_index=i, process_count=2) for i in (0, 1)]
    for step in range(7):
        index = np.concatenate([part[step]["index"] for part in parts])
        np.testing.assert_array_equal(index, whole[step]["index"])


def test_unlabelled_examples_have_unlabelled_partners():
    examples = data.keep_labels(toy(), 9, seed=0)
    for step in range(6):
        first, second = halves(data.PairedBatches(examples, 8)[step], "label")
        np.testing.assert_array_equal(first, second)


def test_errors():
    with pytest.raises(ValueError, match="batch_size 7: it has to be even, two for each pair"):
        data.PairedBatches(toy(), 7)
    with pytest.raises(ValueError, match="at most twice the 5 examples of toy/train"):
        data.PairedBatches(toy(5), 12)
