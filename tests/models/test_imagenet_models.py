"""What the ImageNet models promise beside their numbers: fused attention, dropout, dtypes, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models, networks
from jaxkd.models import BiT, EfficientNet, ImageNetResNet, MobileNetV1, MobileNetV2, ViT
from jaxkd.models._bit import StandardizedConv
from jaxkd.models._inverted_residual import InvertedResidual, divisible_by_8

from . import imagenet_cases as cases

IMAGENET = [info for info in models.names() if info.image_shape == (224, 224, 3)]


@pytest.mark.parametrize("info", IMAGENET, ids=[info.name for info in IMAGENET])
def test_parameters_are_the_published_ones(info):
    image = jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32)
    shapes = jax.eval_shape(models.create(info.name, 1000).init, jax.random.key(0), image)["params"]
    assert info.classes == 1000
    assert info.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_variant_is_there():
    # As torchvision and timm count them, to a thousand.
    millions = {"resnet50": 25.557, "resnet152": 60.193, "mobilenet_v2": 3.505, "efficientnet_b7": 66.348}
    millions |= {"vit_base": 86.568, "deit_small": 22.436, "bit_50x1": 25.549, "mobilenet_v1": 4.232}
    known = {info.name: round(info.parameters / 1e6, 3) for info in IMAGENET}
    assert millions.items() <= known.items()
    assert len(known) == 5 + 2 + 1 + 1 + 8 + 4 + 3


@pytest.fixture(scope="module")
def vit():
    """A network, its variables, drawn eagerly of shapes, and a batch of one image."""
    module = ViT(24, 2, 3, 4)
    batch = {"image": cases.images()[:1, :32, :32]}
    return networks.from_linen(module), cases.drawn(module, batch["image"].shape[1:]), batch


@pytest.mark.parametrize(
    ("taps", "fused"),
    [
        ((), 2),
        (("hidden_states[1]", "query[0]", "value[1]"), 2),
        (("attention_scores[0]",), 1),
        (("attention_probs[1]",), 1),
        (("attention_scores[0]", "attention_probs[0]", "attention_probs[1]"), 0),
    ],
)
def test_attention_is_fused_except_where_its_maps_are_tapped(vit, taps, fused, monkeypatch):
    calls = []
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda *args, **scale: calls.append(1) or plain(*args, **scale)
    )
    network, variables, batch = vit
    for train in (False, True):
        calls.clear()
        run = jax.jit(lambda v, b, train=train: network.apply(v, b, train=train, rng=jax.random.key(0), taps=taps)[0])
        lowered = run.lower(variables, batch)
        assert len(calls) == fused
    program = lowered.compile()
    # Maps that nobody taps are dead code.
    assert ("/scores/" in program.as_text()) == (fused < 2)
    expected = jax.jit(network.apply)(variables, batch)[0].logits
    np.testing.assert_allclose(program(variables, batch).logits, expected, atol=1e-5)


def test_flax_captures_attention_maps_too(vit):
    module, variables, batch = ViT(24, 2, 3, 4), *vit[1:]

    @jax.jit
    def captured(variables, image):
        return module.apply(variables, image, capture_intermediates=True, mutable=["intermediates"])[1]

    attention = captured(variables, batch["image"])["intermediates"]["block1"]["attention"]
    np.testing.assert_allclose(attention["probs"]["__call__"][0].sum(-1), 1, atol=1e-5)


def test_dropout_follows_train(vit):
    _, variables, batch = vit

    @jax.jit
    def both(variables, image, key):
        of_dropout = ViT(24, 2, 3, 4, dropout=0.5).apply(variables, image, train=True, rngs={"dropout": key})
        of_depth = ViT(24, 2, 3, 4, stochastic_depth=0.9).apply(variables, image, train=True, rngs={"dropout": key})
        still = ViT(24, 2, 3, 4, dropout=0.5, stochastic_depth=0.9).apply(variables, image)
        return of_dropout, of_depth, still

    images = jnp.repeat(batch["image"], 8, axis=0)
    of_dropout, of_depth, still = both(variables, images, jax.random.key(1))
    # Drawn for each example anew.
    assert len(np.unique(np.asarray(of_dropout)[:, 0])) == 8
    assert len(np.unique(np.asarray(of_depth)[:, 0])) > 1
    np.testing.assert_allclose(still, jnp.broadcast_to(still[:1], still.shape), atol=1e-5)


def test_stochastic_depth_skips_whole_examples():
    block = InvertedResidual(4, 2, 3, 1, jnp.abs, drop_path=0.5)
    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 4))

    @jax.jit
    def both(x):
        variables = block.init(jax.random.key(1), x, False)
        options = {"rngs": {"dropout": jax.random.key(2)}, "mutable": ["batch_stats"]}
        return [block.clone(drop_path=rate).apply(variables, x, True, **options)[0] for rate in (0.5, 0.0)]

    y, whole = both(x)
    skipped = np.asarray((y == x).all((1, 2, 3)))
    assert 16 < skipped.sum() < 48
    # What is kept is twice as much: the mean over draws is the block's.
    np.testing.assert_allclose((y - x)[~skipped], 2 * (whole - x)[~skipped], atol=1e-4)


def test_stochastic_depth_grows_evenly():
    module = EfficientNet(4, 0.25, 1.0, stochastic_depth=0.8, groups=cases.SMALL_EFFICIENTNET).bind({})
    rates = [rate for group in module.rows for rate in group.drop_paths]
    np.testing.assert_allclose(rates, 0.8 * np.arange(9) / 9)


def test_dropout_before_the_classifiers_of_mobile_networks():
    for module in (MobileNetV1(4, dropout=1.0), MobileNetV2(4, dropout=1.0), EfficientNet(4, dropout=1.0)):
        module = module.bind({})
        assert module.drop.rate == 1.0
        np.testing.assert_array_equal(module.drop(jnp.ones((1, 2)), deterministic=False), 0)


def test_kernels_of_bit_are_standardized():
    conv = StandardizedConv(5, 3)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    variables = conv.init(jax.random.key(1), x)
    moved = jax.tree.map(lambda kernel: 7 * kernel + 3, variables)
    np.testing.assert_allclose(conv.apply(moved, x), conv.apply(variables, x), atol=1e-4)


def test_batch_norm_of_the_largest_efficientnets():
    """From B5 on PyTorch's momentum is 0.01 and the epsilon 1e-3."""
    for i in range(8):
        module = models.create(f"efficientnet_b{i}", 4)
        assert (module.momentum, module.epsilon) == ((0.99, 1e-3) if i >= 5 else (0.9, 1e-5))


def test_divisible_by_8():
    # 8 at least, the nearest multiple of 8, but not below nine tenths of what was asked for.
    assert [divisible_by_8(c) for c in (1, 8, 11, 12, 19.2, 44.8, 1792)] == [8, 8, 16, 16, 24, 48, 1792]


@pytest.mark.parametrize(
    "module",
    [
        ImageNetResNet((1, 1, 1, 1), dtype=jnp.bfloat16),
        MobileNetV1(dtype=jnp.bfloat16),
        MobileNetV2(groups=cases.SMALL_V2, dtype=jnp.bfloat16),
        EfficientNet(groups=cases.SMALL_EFFICIENTNET, dtype=jnp.bfloat16),
        BiT((1, 1, 1, 1), dtype=jnp.bfloat16),
        ViT(24, 1, 3, distilled=True, dtype=jnp.bfloat16),
    ],
)
def test_compute_dtype_leaves_parameters_float32(module):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    logits, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    assert logits.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_bad_arguments(vit):
    with pytest.raises(ValueError, match=r"blocks are \(1, 2\), but four stages"):
        ImageNetResNet((1, 2))
    with pytest.raises(ValueError, match=r"blocks are \(1, 2, 0, 1\), but four stages"):
        BiT((1, 2, 0, 1))
    with pytest.raises(ValueError, match="heads are 5, but have to divide the width, 192"):
        ViT(heads=5)
    image = jax.ShapeDtypeStruct((1, 30, 32, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"image \[1,30,32,3\]: patches are 16x16"):
        jax.eval_shape(ViT(24, 1).init, jax.random.key(0), image)
    with pytest.raises(ValueError, match=r"image \[1,48,32,3\] makes 7 tokens, the positions are for 5"):
        ViT(24, 2, 3, 4).apply(vit[1], jnp.zeros((1, 48, 32, 3)))
