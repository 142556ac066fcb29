"""The order of batches: pure, complete, the same for any number of processes, resident or streaming."""

import jax
import numpy as np
import pytest

from jaxkd import data


def toy(n=23, classes=5, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return data.from_arrays(
        "toy",
        "train",
        rng.integers(0, 256, (n, 4, 3, channels), dtype=np.uint8),
        np.arange(n) % classes,
        tuple("abcdefghij"[:classes]),
        mean=(0.3,) * channels,
        std=(0.2,) * channels,
    )


def steps(feed, start, length):
    """What a compiled program makes of a chunk."""
    fetch = jax.jit(feed.fetch)
    chunk = feed.chunk(start, length)
    return [fetch(feed.source, {name: values[i] for name, values in chunk.items()}) for i in range(length)]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    first, again = data.Batches(toy(), 4, seed=3), data.Batches(toy(), 4, seed=3)
    walked = [first[step] for step in range(15)]
    for step in (14, 0, 7):  # in another order, from another object
        assert_equal(again[step], walked[step])
    assert not np.array_equal(data.Batches(toy(), 4, seed=4)[0]["index"], walked[0]["index"])


def test_the_order_is_pinned():
    # A resumed run must find the order it left, whatever has been upgraded: this list must never change.
    epochs = [data.Batches(toy(8), 8, seed=3)[step]["index"].tolist() for step in range(2)]
    assert epochs == [[6, 1, 5, 2, 7, 4, 3, 0], [7, 3, 5, 6, 4, 0, 2, 1]]


@pytest.mark.parametrize(("n", "batch"), [(23, 4), (23, 23), (8, 4), (7, 3)])
def test_every_epoch_is_complete_and_in_an_order_of_its_own(n, batch):
    batches = data.Batches(toy(n), batch, seed=1)
    seen = np.concatenate([batches[step]["index"] for step in range(5 * n)])[: 5 * n].reshape(5, n)
    np.testing.assert_array_equal(np.sort(seen, axis=1), np.tile(np.arange(n), (5, 1)))
    assert len({tuple(epoch) for epoch in seen}) == 5
    assert batches.steps_per_epoch == n / batch


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("resident", [True, False])
def test_the_data_is_the_same_for_any_number_of_processes(processes, resident):
    parts = [
        data.Batches(toy(), 4, seed=2, resident=resident, process_index=i, process_count=processes)
        for i in range(processes)
    ]
    whole = data.Batches(toy(), 4, seed=2)
    for step in (0, 5, 11):  # 5 reaches over the end of an epoch
        pieces = [part[step] for part in parts]
        assert_equal({name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}, whole[step])
    chunks = [part.chunk(4, 3)["index"] for part in parts]
    assert chunks[0].shape == (3, 4 // processes)
    np.testing.assert_array_equal(
        np.concatenate([whole.examples.arrays["index"][chunk] for chunk in chunks], axis=1),
        np.stack([whole[step]["index"] for step in (4, 5, 6)]),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_resident_and_streaming_batches_are_the_same_bits(channels):
    examples = toy(channels=channels)
    resident, streaming = (data.Batches(examples, 4, seed=2, resident=flag) for flag in (True, False))
    assert resident.source
    assert streaming.source == ()
    for a, b in zip(steps(resident, 3, 4), steps(streaming, 3, 4), strict=True):
        assert_equal(a, b)


def test_fetch_decodes_the_rows_of_the_plan():
    examples = toy(channels=3)
    batches = data.Batches(examples, 4, seed=2)
    for step, batch in enumerate(steps(batches, 0, 6)):
        raw = batches[step]
        expected = (raw["image"].astype(np.float64) / 255 - 0.3) / 0.2
        np.testing.assert_allclose(batch["image"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(batch["label"], raw["label"], strict=True)
        np.testing.assert_array_equal(raw["image"], examples.arrays["image"][raw["index"]])


def test_streaming_chunks_are_pure_whatever_was_read_before():
    batches = data.Batches(toy(), 4, seed=2, resident=False)
    for start, length in ((0, 2), (2, 3), (9, 1), (3, 2), (5, 1), (0, 2)):  # in sequence, ahead, back
        chunk = batches.chunk(start, length)
        expected = [batches[step] for step in range(start, start + length)]
        assert_equal(chunk, {name: np.stack([batch[name] for batch in expected]) for name in chunk})


def test_a_read_that_fails_leaves_the_order_intact(monkeypatch):
    batches = data.Batches(toy(), 4, seed=2, resident=False)
    batches.chunk(0, 1)
    with monkeypatch.context() as patch:

        def broken(self, indices):
            raise OSError("disk error")

        patch.setattr(data.Examples, "read", broken)
        with pytest.raises(OSError, match="disk error"):
            batches.chunk(20, 3)
    for start in (23, 20):  # what would have come next; the same once more
        np.testing.assert_array_equal(batches.chunk(start, 1)["index"][0], batches[start]["index"])


@pytest.mark.parametrize("resident", [True, False])
def test_stacked_orders_are_those_of_their_seeds(resident):
    batches = data.Batches(toy(), 4, seed=5, resident=resident)
    stacked = batches.stack(3)
    fetched = steps(stacked, 4, 2)
    assert fetched[0]["image"].shape == (3, 4, 4, 3, 1)
    for i in range(3):
        own = data.Batches(toy(), 4, seed=5 + i, resident=resident)
        for step in range(2):
            assert_equal({name: v[i] for name, v in fetched[step].items()}, steps(own, 4, 2)[step])


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("n", "batch"), [(23, 10), (20, 10), (3, 10)])
def test_padded_batches_hold_every_example_once_and_mask_the_rest(n, batch, resident):
    examples = toy(n)
    feed = data.padded_batches(examples, batch, resident=resident)
    assert feed.steps == -(-n // batch)
    batches = steps(feed, 0, feed.steps)
    assert all(each["where"].shape == (batch,) and each["where"].dtype == bool for each in batches)
    where = np.concatenate([each["where"] for each in batches])
    index = np.concatenate([each["index"] for each in batches])
    np.testing.assert_array_equal(index[where], np.arange(n))
    np.testing.assert_array_equal(index[~where], 0)
    assert_equal(feed[feed.steps - 1], {**feed[feed.steps - 1], "where": np.asarray(batches[-1]["where"])})


def test_padded_batches_can_be_shared_by_processes():
    parts = [data.padded_batches(toy(), 10, process_index=i, process_count=2) for i in range(2)]
    whole = data.padded_batches(toy(), 10)
    for name in ("index", "where"):
        both = np.concatenate([part.chunk(0, 3)[name] for part in parts], axis=1)
        np.testing.assert_array_equal(both, whole.chunk(0, 3)[name])


def test_a_set_that_has_lost_rows_keeps_its_index():
    examples = data.labelled(data.keep_labels(toy(), 5))
    batches = data.Batches(examples, 5, seed=1)
    for batch in (batches[0], steps(batches, 0, 1)[0]):
        assert set(np.asarray(batch["index"]).tolist()) == set(examples.arrays["index"].tolist())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.Batches(toy(), 24), "batch_size 24 is larger than toy/train: it has 23 examples"),
        (lambda: data.Batches(toy(), 0), "batch_size is 0"),
        (lambda: data.Batches(toy(), 9, process_count=2), "batch_size 9 does not divide among 2 processes"),
        (lambda: data.Batches(toy(), 4, process_index=2, process_count=2), "process_index is 2"),
        (lambda: data.Batches(toy(), 4, seed=-1), "seed is -1"),
        (lambda: data.Batches(toy(), 4)[-1], "start is -1"),
        (lambda: data.Batches(toy(), 4).chunk(0, 0), "length is 0"),
        (lambda: data.Batches(toy(), 4).stack(0), "at least one data order"),
        (lambda: data.padded_batches(toy(), 10).chunk(2, 2), "steps 2 to 3 are asked for, and there are 3"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
