"""Focal and global distillation with its trained context blocks: values, training on devices, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxkd import losses
from jaxkd.learners import distill
from jaxkd.networks import Outputs, from_linen
from jaxkd.objectives import Signals, focal_global
from jaxkd.training import example_batch, fit, parallel

from .. import small

BATCH, HEIGHT, WIDTH = 3, 4, 6
RNG = np.random.default_rng(0)
BOXES = np.array([[[0.0, 0, 9, 9], [3, 3, 5, 5]], [[8, 2, 12, 6], [-1] * 4], [[0] * 4, [0] * 4]], np.float32)
IMAGES = np.zeros((BATCH, 8, 12, 3), np.float32)


def signals(student, teacher, **batch):
    return Signals(
        Outputs(None, {"s": student}),
        Outputs(0.0, {"t": teacher}),
        {},
        batch or {"image": IMAGES, "boxes": BOXES},
        jnp.asarray(0),
        jax.random.key(0),
    )


def maps(channels):
    return RNG.standard_normal((BATCH, HEIGHT, WIDTH, channels)).astype(np.float32)


def run(objective, given, change=lambda params: params):
    variables = change(objective.init(jax.random.key(1), given))
    terms, metrics, updated = jax.jit(objective.apply)(variables, given)
    assert (metrics, updated) == ({}, {})
    term = terms["focal_global"]
    return variables["params"], term.weight * term.sum / term.count


def test_it_starts_without_contexts():
    student, teacher = maps(4), maps(4)
    params, value = run(focal_global("s", "t"), signals(student, teacher))
    assert "align" not in params
    foreground = losses.object_scales(BOXES, (8, 12), (HEIGHT, WIDTH))
    np.testing.assert_allclose(value, jax.jit(losses.focal_global)(student, teacher, foreground).mean(), rtol=1e-6)


def context(block, x):
    """A loop over images and positions, in float64."""
    block = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), block)
    added = []
    for image in np.asarray(x, np.float64):
        positions = image.reshape(-1, image.shape[-1])
        shares = np.exp([(p @ block["attend"]["kernel"])[0] + block["attend"]["bias"][0] for p in positions])
        summed = sum(share * p for share, p in zip(shares / shares.sum(), positions, strict=True))
        reduced = summed @ block["reduce"]["kernel"] + block["reduce"]["bias"]
        normed = (reduced - reduced.mean()) / np.sqrt(reduced.var() + 1e-5)
        normed = normed * block["norm"]["scale"] + block["norm"]["bias"]
        added.append(np.maximum(normed, 0) @ block["expand"]["kernel"] + block["expand"]["bias"])
    return np.array(added, np.float32)


def test_its_blocks_are_those_of_the_paper():
    student, teacher = maps(3), maps(4)
    sizes = np.array([[8, 12], [16, 12], [8, 24]])
    given = signals(student, teacher, boxes=BOXES, image_size=sizes)
    rng = np.random.default_rng(1)
    drawn = functools.partial(jax.tree.map, lambda x: x + 0.5 * rng.standard_normal(x.shape).astype(np.float32))
    weights = {
        "foreground_weight": 0.1,
        "background_weight": lambda step: 0.2 + step,
        "attention_weight": 0.3,
        "relation_weight": 0.4,
    }
    params, value = run(focal_global("s", "t", temperature=0.8, **weights), given, drawn)
    aligned = student @ params["align"]["kernel"] + params["align"]["bias"]
    expected = losses.focal_global(
        aligned,
        teacher,
        losses.object_scales(BOXES, sizes, (HEIGHT, WIDTH)),
        context(params["student"], aligned),
        context(params["teacher"], teacher),
        temperature=0.8,
        foreground_weight=0.1,
        background_weight=0.2,
        attention_weight=0.3,
        relation_weight=0.4,
    )
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("said", "student", "teacher"),
    [
        (r'"s" is \[3,4,6,4\].*"t" is \[3,2,6,4\].*one size', maps(4), maps(4)[:, :2]),
        ("two or more", maps(4), maps(1)),
    ],
)
def test_maps_that_do_not_fit_are_told(said, student, teacher):
    with pytest.raises(ValueError, match=said):
        focal_global("s", "t").init(jax.random.key(0), signals(student, teacher))


@pytest.mark.parametrize(
    ("said", "batch"),
    [
        (r"batch\[\"boxes\"\].*\['image'\]", {"image": IMAGES}),
        (r"\[3,2\].*\[batch, boxes, 4\]", {"image": IMAGES, "boxes": BOXES[..., 0]}),
        (r"batch\[\"image_size\"\]", {"boxes": BOXES}),
    ],
)
def test_a_batch_without_objects_is_told(said, batch):
    given = signals(maps(4), maps(4), **batch)
    variables = focal_global("s", "t").init(jax.random.key(0), given)
    with pytest.raises(ValueError, match=said):
        focal_global("s", "t").apply(variables, given)


@pytest.mark.parametrize("number", [{"temperature": 0.0}, {"relation_weight": -1.0}])
def test_numbers_out_of_range_are_told(number):
    with pytest.raises(ValueError, match=next(iter(number))):
        focal_global("s", "t", **number)


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.width, (3, 3), name="conv")(x)
        return nn.Dense(small.CLASSES)(nn.relu(x).mean((1, 2)))


def with_boxes(variables, batch, keys, padding=(0.0, 0.0)):
    """Objects drawn from the keys of the examples; ``padding`` is what images and boxes of padded ones hold."""
    batch = small.noisy(variables, batch, keys)
    corners = jax.vmap(lambda key: jax.random.uniform(key, (2, 2), maxval=3))(keys)
    boxes = jnp.concatenate([corners, corners + 1], -1)
    real = batch["where"].reshape(-1, 1, 1)
    image = jnp.where(real[..., None], batch["image"], padding[0])
    return {**batch, "image": image, "boxes": jnp.where(real, boxes, padding[1])}


def train(prepare, mode="jit", mesh=None):
    weights = dict.fromkeys(("foreground_weight", "background_weight", "attention_weight", "relation_weight"), 0.1)
    objective = focal_global("conv", "conv", **weights)
    learner = distill(from_linen(Net(3)), from_linen(Net(4)), objective, optax.sgd(0.1), prepare=prepare)
    data = small.batches()
    frozen = from_linen(Net(4)).init(jax.random.key(1), example_batch(data))
    compiled = parallel.compile(learner, data, mesh=mesh, mode=mode)
    state = learner.init(jax.random.key(0), frozen, example_batch(data))
    return state, fit(learner, data, 3, state=state, frozen=frozen, compiled=compiled, chunk=3)


def test_all_of_it_trains_and_one_device_is_eight_whatever_padding_holds():
    state, one = train(with_boxes)
    before, after = state.params["objective"], one.state.params["objective"]
    assert set(before) == {"align", "student", "teacher"}
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after))
    for mode in ("jit", "shard_map", "pmap"):
        _, eight = train(functools.partial(with_boxes, padding=(100.0, np.nan)), mode, parallel.make_mesh())
        small.assert_close(eight.state, one.state)
        small.assert_close(eight.history, one.history)
