"""Views that can be met again, caches of a teacher's outputs, and distillation from them against the teacher itself."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import data, learners, losses, networks, objectives
from jaxkd.data import augment
from jaxkd.models import MLP
from jaxkd.training import example_batch, fit, parallel
from jaxkd.training.checkpoints import tree_hash

CLASSES, N, VIEWS = 6, 50, 3
TEACHER = networks.from_linen(MLP((32,), CLASSES))
STUDENT = networks.from_linen(MLP((8,), CLASSES))
CROP = augment.random_crop(1)
KEY = jax.random.key(5)
STEPS = VIEWS * N // 16


def examples(seed=0, classes=CLASSES, n=N):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8)
    return data.from_arrays("noise", "train", image, rng.integers(0, classes, n), tuple("abcdefgh")[:classes])


class Streamed:
    """The same examples, as from a set that is read as it is needed."""

    def __init__(self, of):
        self._of = of

    def __len__(self):
        return len(self._of)

    def read(self, positions):
        read = self._of.read(positions)
        return read["image"], read["label"].astype(np.int64)

    def labels(self):
        return self._of.labels()


def streaming():
    of = examples()
    return dataclasses.replace(of, arrays=None, _reader=Streamed(of), _positions=np.arange(N, dtype=np.int32))


def views(of=None, batch_size=16, *, augmentation=CROP, key=KEY, count=VIEWS, **options):
    of = examples() if of is None else of
    return data.ViewBatches(of, batch_size, augmentation=augmentation, key=key, views=count, **options)


@pytest.fixture(scope="module")
def variables():
    drawn = TEACHER.init(jax.random.key(1), example_batch(views()))
    return jax.tree.map(lambda x: 3 * x, drawn)  # surer of itself than one that has just been drawn


@pytest.fixture(scope="module")
def digest(variables):
    return tree_hash(variables)


@pytest.fixture(scope="module")
def cache(variables, digest, tmp_path_factory):
    directory = tmp_path_factory.mktemp("caches") / "full"
    data.cache_teacher(directory, TEACHER.apply, variables, views(), digest=digest)
    return directory


def reader(batches):
    """Step -> batch."""
    fetch, source = jax.jit(batches.fetch), batches.source
    return lambda step: fetch(source, jax.tree.map(lambda values: values[0], batches.chunk(step, 1)))


def taught(variables, batch):
    return TEACHER.apply(variables, batch)[0].logits


def trained(batches, variables=None, steps=STEPS, **options):
    """A student of the teacher with these variables, or of what is in the batches."""
    teacher = networks.cached() if variables is None else TEACHER
    learner = learners.distill(STUDENT, teacher, objectives.distillation(4.0, 0.9), optax.adam(1e-2))
    if "compiled" in options:
        options["compiled"] = parallel.compile(learner, batches, **options["compiled"])
    return fit(learner, batches, steps, key=jax.random.key(2), frozen=variables, **options)


def assert_same_bits(a, b):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), jax.tree_util.keystr(path), strict=True)


# Views.


def test_a_view_is_a_pure_function_of_key_view_and_example():
    of, seen = examples(), {}
    for seed, batch_size in ((0, 16), (3, 7)):
        read = reader(views(of, batch_size, seed=seed))
        for step in range(2 * VIEWS * N // batch_size):  # all views twice
            batch = jax.device_get(read(step))
            positions = step * batch_size + np.arange(batch_size)
            np.testing.assert_array_equal(batch["view"], positions // N % VIEWS)
            for i in range(batch_size):
                name = int(batch["view"][i]), int(batch["index"][i])
                image = seen.setdefault(name, batch["image"][i])
                np.testing.assert_array_equal(batch["image"][i], image)
    assert len(seen) == VIEWS * N
    for (view, row), image in list(seen.items())[::37]:
        key = jax.random.fold_in(jax.random.fold_in(KEY, view), row)
        alone = of.decode(of.read(np.array([row])))
        np.testing.assert_allclose(image, CROP({}, alone, key[None])["image"][0], atol=1e-6)


def test_views_on_devices_and_processes_and_of_a_set_that_streams():
    whole, streamed = reader(views()), views(streaming())
    assert not streamed.resident
    streamed, halves = reader(streamed), [reader(views(process_index=i, process_count=2)) for i in range(2)]
    for step in range(4):
        parts = [half(step) for half in halves]
        assert_same_bits(jax.tree.map(lambda *x: jnp.concatenate(x), *parts), whole(step))
        assert_same_bits(streamed(step), whole(step))


def test_views_that_cannot_be():
    with pytest.raises(ValueError, match="views is 0: each example has at least one"):
        views(count=0)
    with pytest.raises(ValueError, match="augmentation is given and key is not"):
        views(key=None)
    with pytest.raises(ValueError, match="views is 3, and without an augmentation they are all the same"):
        views(augmentation=None, key=None)
    with pytest.raises(ValueError, match="sees one example at a time: a batch of 1 cannot be mixed in pairs"):
        views(augmentation=augment.mixup(0.2, classes=CLASSES))
    with pytest.raises(ValueError, match="batch_size 51 is larger than noise/train"):
        views(batch_size=51)


# What a cache gives back.


@pytest.mark.parametrize("resident_outputs", [True, False])
def test_a_full_cache_gives_the_teachers_logits(cache, variables, digest, resident_outputs):
    for options in ({}, {"seed": 3, "batch_size": 7}):  # in the order it was written in, and in another one
        batches = data.CachedBatches(views(**options), cache, digest=digest, resident_outputs=resident_outputs)
        read = reader(batches)
        for step in (0, 9, 3, 40):
            batch = read(step)
            assert set(batch) == {"image", "label", "index", "view", "teacher_logits"}
            np.testing.assert_allclose(batch["teacher_logits"], taught(variables, batch), rtol=1e-5, atol=1e-5)


def test_a_cache_of_a_set_that_streams_is_read_ahead(variables, digest, tmp_path):
    data.cache_teacher(tmp_path / "c", TEACHER.apply, variables, views(streaming()), digest=digest)
    whole = data.CachedBatches(views(streaming()), tmp_path / "c", digest=digest)
    assert whole.source == ()
    whole, halves = reader(whole), []
    for i in range(2):
        half = views(streaming(), process_index=i, process_count=2)
        halves.append(reader(data.CachedBatches(half, tmp_path / "c", digest=digest)))
    for step in (0, 1, 7):
        batch = whole(step)
        np.testing.assert_allclose(batch["teacher_logits"], taught(variables, batch), rtol=1e-5, atol=1e-5)
        parts = [half(step) for half in halves]
        assert_same_bits(jax.tree.map(lambda *x: jnp.concatenate(x), *parts), batch)


def test_half_precision_rounds_to_it(cache, variables, digest, tmp_path):
    data.cache_teacher(tmp_path / "c", TEACHER.apply, variables, views(), digest=digest, dtype="bfloat16")
    half, full = (reader(data.CachedBatches(views(), path, digest=digest)) for path in (tmp_path / "c", cache))
    for step in range(5):
        logits = half(step)["teacher_logits"]
        assert logits.dtype == jnp.float32
        np.testing.assert_array_equal(logits, full(step)["teacher_logits"].astype("bfloat16").astype("float32"))


def test_top_k_keeps_the_largest_and_what_the_others_add_up_to(cache, variables, digest, tmp_path):
    full = reader(data.CachedBatches(views(), cache, digest=digest))
    student = np.random.default_rng(1).standard_normal((16, CLASSES))
    errors = []
    for k in (2, CLASSES - 1):
        data.cache_teacher(tmp_path / f"{k}", TEACHER.apply, variables, views(), digest=digest, top_k=k)
        batches = data.CachedBatches(views(), tmp_path / f"{k}", digest=digest)
        exact, kept = (np.asarray(x(4)["teacher_logits"], np.float64) for x in (full, reader(batches)))
        order = np.argsort(-exact, axis=1)
        largest, others = order[:, :k], order[:, k:]
        np.testing.assert_array_equal(np.take_along_axis(kept, largest, 1), np.take_along_axis(exact, largest, 1))
        mass = np.exp(np.take_along_axis(exact, others, 1)).sum(1)
        expected = np.broadcast_to(np.log(mass / (CLASSES - k))[:, None], others.shape)
        np.testing.assert_allclose(np.take_along_axis(kept, others, 1), expected, rtol=1e-5, atol=1e-5)
        loss, of_kept = (losses.soft_label_kl(student, x, 1.0).mean() for x in (exact, kept))
        errors.append(abs(float(loss - of_kept)))
        # k logits, their classes as two bytes each, and the log-sum-exp of the others.
        assert batches.bytes_per_example == k * (4 + 2) + 4
    assert errors[-1] < 1e-5  # one class is left out, and its probability is known
    assert errors[0] > 1e-2


def test_a_certain_teacher_has_a_finite_rest(tmp_path):
    def apply(variables, batch, train):
        return networks.Outputs(variables * jax.nn.one_hot(batch["label"], CLASSES)), {}

    of_certain = views(augmentation=None, key=None, count=1)
    data.cache_teacher(tmp_path / "c", apply, jnp.float32(1e4), of_certain, digest="0" * 64, top_k=2)
    batch = reader(data.CachedBatches(of_certain, tmp_path / "c", digest="0" * 64))(0)
    np.testing.assert_allclose(batch["teacher_logits"], 1e4 * np.eye(CLASSES)[batch["label"]], atol=1e-6)


# Distillation.


@pytest.fixture(scope="module")
def online(variables):
    return trained(views(), variables, chunk=3)


@pytest.mark.parametrize("kind", ["resident", "outputs read", "streaming"])
def test_offline_is_online_bit_for_bit(cache, online, digest, kind):
    of = views(streaming() if kind == "streaming" else None)
    outputs = None if kind == "resident" else False
    offline = trained(data.CachedBatches(of, cache, digest=digest, resident_outputs=outputs), chunk=3)
    assert online.history["soft"].min() > 0
    assert_same_bits(offline.history, online.history)
    assert_same_bits(offline.state.params, online.state.params)


def test_resume_is_exact(cache, digest, online):
    batches = [data.CachedBatches(views(), cache, digest=digest, resident_outputs=False) for _ in range(2)]
    half = trained(batches[0], steps=6, chunk=3)
    rest = trained(batches[1], chunk=3, state=half.state, start=6)
    assert_same_bits(rest.state.params, online.state.params)
    assert_same_bits(rest.history, jax.tree.map(lambda x: x[6:], online.history))


def test_devices_are_one_and_bit_for_bit_where_as_many_have_written(cache, variables, digest, online, tmp_path):
    options = {"chunk": 3, "steps": 6, "compiled": {"mesh": parallel.make_mesh(devices=jax.devices()[:4])}}
    data.cache_teacher(
        tmp_path / "c", TEACHER.apply, variables, views(), digest=digest, mesh=options["compiled"]["mesh"]
    )
    on_four = trained(views(), variables, **options)
    offline = trained(data.CachedBatches(views(), tmp_path / "c", digest=digest), **options)
    assert_same_bits(offline.history, on_four.history)
    assert_same_bits(offline.state.params, on_four.state.params)
    np.testing.assert_allclose(offline.history["loss"], online.history["loss"][:6], rtol=1e-5, atol=1e-5)


# What is refused.


def test_what_is_there_is_not_overwritten_and_what_fails_leaves_nothing(cache, variables, digest, tmp_path):
    with pytest.raises(FileExistsError, match="is there already, and is not overwritten"):
        data.cache_teacher(cache, TEACHER.apply, variables, views(), digest=digest)

    large = jax.tree.map(lambda x: 1e4 * x, variables)
    with pytest.raises(ValueError, match=r"logits of example \d+, view 0, are not finite in float16"):
        data.cache_teacher(tmp_path / "c", TEACHER.apply, large, views(), digest=digest, dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_cached(variables, digest, tmp_path):
    def write(apply=TEACHER.apply, of=None, digest=digest, **options):
        data.cache_teacher(tmp_path / "c", apply, variables, views() if of is None else of, digest=digest, **options)

    with pytest.raises(ValueError, match="digest is 'resnet34': it has to be 64 hexadecimal digits"):
        write(digest="resnet34")
    with pytest.raises(ValueError, match="dtype='int8': there are float32, float16, bfloat16"):
        write(dtype="int8")
    for k in (0, CLASSES):
        with pytest.raises(ValueError, match=f"top_k is {k}, of 6 classes: give a number from 1 to 5"):
            write(top_k=k)
    with pytest.raises(ValueError, match="the teacher has 6 classes, and noise/train has 4"):
        write(of=views(examples(classes=4)))
    with pytest.raises(ValueError, match="process_count is 2: a cache is written by one process"):
        write(of=views(process_count=2))
    with pytest.raises(ValueError, match="a batch of 15 does not divide over 8 devices"):
        write(of=views(batch_size=15), mesh=parallel.make_mesh())
    with pytest.raises(ValueError, match=r"the teacher's logits are \(16, 1, 6\): a cache holds \[batch, classes\]"):
        write(lambda v, b, train: (networks.Outputs(taught(v, b)[:, None]), {}))


def relabelled(of, **changes):
    return dataclasses.replace(of, **changes)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: views(relabelled(examples(), name="digits")), r"another data set \(name\): noise in .*, digits here"),
        (lambda: views(examples(1)), "another content of the data set"),
        (lambda: views(examples(n=49)), "another number of examples: 50 in the cache, 49 here"),
        (lambda: views(relabelled(examples(), class_names=tuple("abcdefg"))), "class count: 6 in the cache, 7 here"),
        (lambda: views(relabelled(examples(), mean=(0.4,))), r"data set \(mean\): \[0.5\] in the cache, \[0.4\] here"),
        (lambda: views(count=4), "another number of views: 3 in the cache, 4 here"),
        (lambda: views(key=jax.random.key(6)), "another augmentation key"),
        (
            lambda: views(augmentation=augment.random_crop(2)),
            r"another augmentation: a pixel of example \d is .* in the cache, .* here",
        ),
        (
            lambda: views(augmentation=augment.random_flip()),
            r"another augmentation: a pixel of example \d is .* in the cache, .* here",
        ),
    ],
)
def test_a_cache_of_something_else_is_refused(cache, digest, other, named):
    with pytest.raises(ValueError, match=named) as error:
        data.CachedBatches(other(), cache, digest=digest)
    assert "\n" not in str(error.value)


def test_a_cache_of_another_teacher_is_refused(cache, variables):
    other = tree_hash(jax.tree.map(lambda x: x + 1e-6, variables))
    with pytest.raises(ValueError, match=f"is of another teacher: digest .* in the cache, {other[:12]} here"):
        data.CachedBatches(views(), cache, digest=other)


def damaged(cache, tmp_path, name, change):
    copy = tmp_path / "copy"
    shutil.copytree(cache, copy)
    content = bytearray((copy / name).read_bytes())
    (copy / name).write_bytes(change(content))
    return copy


def test_damage_is_named(cache, digest, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no teacher cache, as it has no manifest.json"):
        data.CachedBatches(views(), tmp_path, digest=digest)
    name = "view_00001.array_record"
    cut = damaged(cache, tmp_path / "cut", name, lambda content: content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"view_00001.array_record has \d+ bytes of \d+: remove the cache"):
        data.CachedBatches(views(), cut, digest=digest)
    chunk = data.CachedBatches(views(), cache, digest=digest, resident_outputs=False).chunk(4, 1)
    of_view = chunk["teacher_logits"][chunk["view"] == 1][0].tobytes()
    changed = damaged(cache, tmp_path / "changed", name, lambda content: content.replace(of_view, of_view[::-1]))
    with pytest.raises(ValueError, match=r"view_00001.array_record is damaged, as its digest differs"):
        data.CachedBatches(views(), changed, digest=digest)
    batches = data.CachedBatches(views(), changed, digest=digest, resident_outputs=False)
    with pytest.raises(ValueError, match=r"view_00001.array_record is damaged \(.*hash mismatch"):
        batches.chunk(4, 4)
    (cut / name).unlink()
    with pytest.raises(ValueError, match=r"view_00001.array_record has 0 bytes"):
        data.CachedBatches(views(), cut, digest=digest)
    manifest = damaged(
        cache, tmp_path / "manifest", "manifest.json", lambda content: content.replace(b"noise", b"moise")
    )
    with pytest.raises(ValueError, match=r"manifest.json is damaged: its digest differs"):
        data.CachedBatches(views(), manifest, digest=digest)


def test_a_later_format_is_refused(cache, digest, tmp_path, monkeypatch):
    from jaxkd.data import _cache_manifest

    monkeypatch.setattr(_cache_manifest, "_FORMAT", 2)
    with pytest.raises(ValueError, match="has format 1, and this version reads 2"):
        data.CachedBatches(views(), cache, digest=digest)
    assert json.loads((cache / "manifest.json").read_text())["body"]["teacher"] == digest
