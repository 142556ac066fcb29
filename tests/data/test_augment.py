"""Augmentation: against NumPy, and independent of how the batch is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxkd.data import augment

BATCH, HEIGHT, WIDTH, CLASSES = 8, 6, 5, 3


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        # Every pixel of the batch is another number: where one comes from can be told.
        "image": jnp.asarray(rng.permutation(BATCH * HEIGHT * WIDTH * 2) + 1.0, jnp.float32).reshape(
            BATCH, HEIGHT, WIDTH, 2
        ),
        "label": jnp.asarray([0, 1, 2, 2, -1, 1, 0, 0]),
        "index": jnp.arange(BATCH),
        "where": jnp.ones(BATCH, bool),
    }


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(1), BATCH)


# Compiled once for all tests: the time here is the compiler's.
ALL = {
    "crop": augment.random_crop(2),
    "reflected crop": augment.random_crop(2, mode="reflect"),
    "resized crop": augment.random_resized_crop(),
    "flip": augment.random_flip(),
    "mixup": augment.mixup(1.0, classes=CLASSES),
    "cutmix": augment.cutmix(1.0, classes=CLASSES),
    "composed": augment.compose(augment.random_crop(1), augment.random_flip(), augment.mixup(0.3, classes=CLASSES)),
}


COMPILED = {name: jax.jit(function) for name, function in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_an_example_depends_on_its_key_and_partner_only(name, batch, keys):
    function = COMPILED[name]
    whole = function({}, batch, keys)
    order = np.array([6, 7, 2, 3, 0, 1, 4, 5])  # pairs in another order, as on other devices
    moved = function({}, {k: v[order] for k, v in batch.items()}, keys[order])
    others = function({}, {**batch, "image": batch["image"].at[4:].set(0)}, keys.at[4:].set(jax.random.key(7)))
    assert whole.keys() == batch.keys()
    for key in whole:
        np.testing.assert_array_equal(moved[key], whole[key][order])
    np.testing.assert_array_equal(others["image"][:4], whole["image"][:4])
    assert not np.array_equal(whole["image"], batch["image"])
    other = function({}, batch, jax.random.split(jax.random.key(2), BATCH))
    assert not np.array_equal(whole["image"], other["image"])


@pytest.mark.parametrize("name", ["crop", "mixup", "cutmix"])
def test_a_half_batch_is_half_of_the_batch(name, batch, keys):
    whole = COMPILED[name]({}, batch, keys)
    half = COMPILED[name]({}, {k: v[4:] for k, v in batch.items()}, keys[4:])
    for key in whole:
        np.testing.assert_array_equal(half[key], whole[key][4:])


def test_one_device_is_eight(batch, keys):
    """With one example a device, the hard case: each pair is on two."""
    whole = COMPILED["composed"]({}, batch, keys)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put((batch, keys), jax.NamedSharding(mesh, jax.P("data")))
    result = COMPILED["composed"]({}, *spread)
    for name in whole:
        np.testing.assert_allclose(result[name], whole[name], rtol=1e-6)


@pytest.mark.parametrize(("name", "mode"), [("crop", "constant"), ("reflected crop", "reflect")])
def test_a_crop_is_a_window_of_the_padded_image(name, mode, batch):
    function = COMPILED[name]
    places = set()
    for seed in range(20):
        cropped = function({}, batch, jax.random.split(jax.random.key(seed), BATCH))["image"]
        padded = np.pad(batch["image"], ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
        for i in range(BATCH):
            found = [
                (top, left)
                for top in range(5)
                for left in range(5)
                if np.array_equal(padded[i, top : top + HEIGHT, left : left + WIDTH], cropped[i])
            ]
            assert found
            places.add(found[0])
    assert len(places) == 25  # all of them occur


def test_a_resized_crop_is_a_box_of_the_image():
    """Of an image whose pixels say where they are, the result says which box it is."""
    size, n = 32, 400
    row, column = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    image = jnp.broadcast_to(jnp.asarray(np.stack([row, column], -1), jnp.float32), (n, size, size, 2))
    crop = jax.jit(augment.random_resized_crop(0.25))
    cropped = np.asarray(crop({}, {"image": image}, jax.random.split(jax.random.key(0), n))["image"])
    inner = slice(6, size - 6)  # away from the edges, where the filter reaches beyond the image
    places = np.stack([cropped[:, inner, 0, 0], cropped[:, 0, inner, 1]], -1)  # [n, pixel, axis]
    slope = np.diff(places, axis=1)
    np.testing.assert_allclose(slope, np.broadcast_to(slope[:, :1], slope.shape), atol=1e-4)
    box = size * slope[:, 0]  # [n, height and width]
    corner = places[:, 0] + 0.5 - (6 + 0.5) * slope[:, 0]
    for values in (box, corner):
        np.testing.assert_allclose(values, np.round(values), atol=1e-2)
    assert (corner > -0.01).all()
    assert (corner + box < size + 0.01).all()
    area, ratio = box.prod(1) / size**2, box[:, 1] / box[:, 0]
    assert 0.24 < area.min() < 0.3
    assert area.max() > 0.9
    assert 0.7 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.4
    assert abs(np.log(ratio).mean()) < 0.03
    assert len(np.unique(corner.round(), axis=0)) > 100


def test_where_no_box_fits_the_whole_image_is_taken(batch, keys):
    whole = augment.random_resized_crop(1.0)({}, {**batch, "image": batch["image"][:, :2]}, keys)
    np.testing.assert_allclose(whole["image"], batch["image"][:, :2], rtol=1e-5)


def test_a_flip_is_an_involution_and_fair(batch, keys):
    function = COMPILED["flip"]
    once = function({}, batch, keys)
    np.testing.assert_array_equal(function({}, once, keys)["image"], batch["image"])
    flips = []
    for seed in range(50):
        image = function({}, batch, jax.random.split(jax.random.key(seed), BATCH))["image"]
        for i in range(BATCH):
            flipped = np.array_equal(image[i], batch["image"][i, :, ::-1])
            assert flipped or np.array_equal(image[i], batch["image"][i])
            flips.append(flipped)
    assert abs(np.mean(flips) - 0.5) < 0.1  # 400 throws: 4 standard deviations


def test_the_share_is_beta_distributed():
    keys = jax.random.split(jax.random.key(3), 20_000)
    draw = jax.jit(jax.vmap(augment._symmetric_beta, in_axes=(0, None)))
    for alpha in (0.3, 1.0, 4.0):
        share = np.asarray(draw(keys, alpha), np.float64)
        assert stats.kstest(share, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def own_share(mixed, batch):
    """The lambda of each example, from its image: mixed = lambda own + (1 - lambda) partner."""
    own = np.asarray(batch["image"], np.float64)
    partner = own[np.arange(BATCH) ^ 1]
    span, share = own - partner, np.asarray(mixed["image"], np.float64) - partner
    return (share * span).sum((1, 2, 3)) / (span**2).sum((1, 2, 3))


def test_mixup_is_convex_and_labels_go_with_images(batch, keys):
    mixed = COMPILED["mixup"]({}, batch, keys)
    lam = own_share(mixed, batch)
    assert ((lam > 0) & (lam < 1)).all()
    np.testing.assert_allclose(lam[::2], lam[1::2], rtol=1e-4)  # one a pair
    assert len(set(lam[::2].round(5))) == BATCH // 2
    own = np.asarray(batch["image"], np.float64)
    weight = lam[:, None, None, None]
    np.testing.assert_allclose(mixed["image"], weight * own + (1 - weight) * own[np.arange(BATCH) ^ 1], rtol=1e-4)
    assert_labels(mixed, batch, lam, rtol=1e-4)


def assert_labels(mixed, batch, lam, **tolerance):
    label = np.asarray(batch["label"])
    one_hot = np.eye(CLASSES)[label]
    expected = lam[:, None] * one_hot + (1 - lam[:, None]) * one_hot[np.arange(BATCH) ^ 1]
    expected[[4, 5]] = -1  # 4 is unlabelled, 5 is its partner
    assert mixed["label"].dtype == jnp.float32
    np.testing.assert_allclose(mixed["label"], expected, **tolerance)


def test_cutmix_pastes_a_box_and_labels_go_by_area(batch):
    function = COMPILED["cutmix"]
    areas = []
    for seed in range(10):
        mixed = function({}, batch, jax.random.split(jax.random.key(seed), BATCH))
        own = np.asarray(batch["image"])
        from_partner = (mixed["image"] == own[np.arange(BATCH) ^ 1]).all(-1)
        from_own = (mixed["image"] == own).all(-1)
        assert (from_partner ^ from_own).all()  # each pixel is one or the other, unmixed
        for box in np.asarray(from_partner):
            rows, columns = box.any(1), box.any(0)
            np.testing.assert_array_equal(box, rows[:, None] & columns)
            for line in (rows, columns):  # without a gap
                inside = np.flatnonzero(line)
                assert not len(inside) or inside[-1] - inside[0] + 1 == len(inside)
        np.testing.assert_array_equal(from_partner[::2], from_partner[1::2])
        area = np.asarray(from_partner).mean((1, 2))
        areas += area.tolist()
        if area[4]:  # else nothing unlabelled was mixed into example 5
            assert_labels(mixed, batch, 1 - area, rtol=1e-6, atol=1e-6)
    assert min(areas) < 0.2
    assert max(areas) > 0.6


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_pair_with_padding_is_left_alone(name, batch, keys):
    where = jnp.asarray([True] * 6 + [True, False])
    function = COMPILED[name]
    mixed, without = function({}, {**batch, "where": where}, keys), function({}, batch, keys)
    np.testing.assert_array_equal(mixed["image"][6:], batch["image"][6:])
    np.testing.assert_array_equal(mixed["label"][6:], np.eye(CLASSES)[[0, 0]])
    np.testing.assert_array_equal(mixed["image"][:6], without["image"][:6])
    np.testing.assert_array_equal(mixed["where"], where)


def test_mixing_what_is_mixed(batch, keys):
    """Soft labels are mixed again; unlabelled ones stay so."""
    twice = augment.compose(augment.mixup(1.0, classes=CLASSES), augment.cutmix(1.0, classes=CLASSES))
    label = np.asarray(jax.jit(twice)({}, batch, keys)["label"])
    np.testing.assert_array_equal(label[[4, 5]], -1)
    np.testing.assert_allclose(label[[0, 1, 2, 3, 6, 7]].sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(label[[6, 7]], np.eye(CLASSES)[[0, 0]], rtol=1e-6)  # both of class 0


def test_images_without_labels_are_mixed_too(batch, keys):
    mixed = jax.eval_shape(ALL["mixup"], {}, {"image": batch["image"]}, keys)
    assert mixed.keys() == {"image"}


def test_composed_augmentations_have_keys_of_their_own(batch, keys):
    flip = augment.random_flip()
    twice = jax.jit(augment.compose(flip, flip))({}, batch, keys)
    assert not np.array_equal(twice["image"], batch["image"])  # the same key would flip back


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda batch, keys: augment.random_crop(0), r"padding=0"),
        (lambda batch, keys: augment.random_crop(2, mode="wrap"), "'constant' or 'reflect'"),
        (lambda batch, keys: augment.random_resized_crop(0.0), r"least=0.0"),
        (lambda batch, keys: augment.mixup(0.0, classes=3), r"mixup\(alpha=0.0\)"),
        (lambda batch, keys: augment.cutmix(-1.0, classes=3), r"cutmix\(alpha=-1.0\)"),
        (lambda batch, keys: augment.random_flip()({}, batch, keys[:4]), r"keys are \[4\], image is \[8, 6, 5, 2\]"),
        (
            lambda batch, keys: augment.random_flip()({}, {"image": batch["image"].astype(jnp.uint8)}, keys),
            "image is uint8",
        ),
        (
            lambda batch, keys: augment.mixup(1.0, classes=3)({}, {k: v[:3] for k, v in batch.items()}, keys[:3]),
            "a batch of 3 cannot be mixed in pairs",
        ),
    ],
)
def test_bad_input_is_named(make, message, batch, keys):
    with pytest.raises(ValueError, match=message):
        make(batch, keys)
