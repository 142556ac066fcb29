"""The zoo: counts of the literature, tap names, the classifier alone, BatchNorm and dropout following `train`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models, networks
from jaxkd.models import _layers


def initialized(module, shape, batch=4):
    image = jax.random.normal(jax.random.key(1), (batch, *shape))
    return jax.jit(module.init)(jax.random.key(0), image), image


@pytest.fixture(scope="module")
def resnet():
    """A resnet8 on images of the size of the digits."""
    module = models.create("resnet8", 10)
    return (module, *initialized(module, (8, 8, 1)))


@pytest.fixture(scope="module")
def infos():
    return {info.name: info for info in models.names()}


def test_parameters_are_those_of_the_literature(infos):
    """What `names` says without tracing is what there is. That of the CIFAR-100 tables is from running their code."""
    known = {"resnet20": 278_324, "resnet32x4": 7_433_860, "wrn_40_2": 2_255_156, "mobilenet_v2_half": 812_836}
    assert known.items() <= {(name, info.parameters) for name, info in infos.items()}
    for name, info in infos.items():
        if info.image_shape == (32, 32, 3):
            image = jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32)
            shapes = jax.eval_shape(models.create(name, info.classes).init, jax.random.key(0), image)["params"]
            assert info.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes)), name


def test_names_counts_parameters_by_hand(infos):
    assert infos["mlp_512_512"].parameters == (64 * 512 + 512) + (512 * 512 + 512) + (512 * 10 + 10)
    # 16 channels in three convolutions, 32 and 64 in two and a shortcut, two numbers for each of their BatchNorms.
    stages = 9 * 16 * 16 * 2 + (9 * (16 + 32) + 16) * 32 + (9 * (32 + 64) + 32) * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    assert infos["resnet8"].parameters == 9 * 3 * 16 + stages + norms + (64 + 1) * 100
    families = {"mlp", "strided_cnn", "cifar_resnet", "wide_resnet", "vgg", "cifar_bottleneck_resnet"}
    assert {info.family for info in infos.values()} >= {*families, "cifar_mobilenet", "shufflenet_v1", "shufflenet_v2"}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet21", "resnet20"),
        ("mlp8", "mlp_8"),
        ("ResNet56", "resnet56"),
        ("mlp_0", "mlp_8"),
        ("cnn_4_8_", "cnn_4_8_16"),
    ],
)
def test_unknown_name_lists_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"{name}.*nearest:.*{nearest}"):
        models.create(name, 10)


def test_bad_arguments():
    with pytest.raises(ValueError, match="classes is 0"):
        models.create("mlp_8", 0)
    with pytest.raises(ValueError, match=r"depth is 21, but must be 6n \+ 2"):
        models.CifarResNet(21)
    with pytest.raises(ValueError, match="features is empty"):
        models.StridedCNN(())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: models.WideResNet(20), r"depth is 20, but must be 6n \+ 4"),
        (lambda: models.VGG((1, 1, 1)), r"layers is \(1, 1, 1\) .* both are of five stages"),
        (lambda: models.CifarBottleneckResNet((3, 4, 0, 3)), r"blocks is \(3, 4, 0, 3\), but .* four stages"),
        (lambda: models.ShuffleNetV1((36, 72, 100)), r"widths is \(36, 72, 100\), but has to grow from 24 by .* 12"),
        (lambda: models.ShuffleNetV1(units=(1, 1)), r"units is \(1, 1\), but both are of three stages"),
        (lambda: models.ShuffleNetV2((12, 25, 48, 40)), r"widths is \(12, 25, 48, 40\) .* of even widths"),
    ],
)
def test_bad_stages(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_weights_are_drawn_as_in_the_published_code():
    draw = lambda init, *shape: np.asarray(init(jax.random.key(0), shape, jnp.float32))  # noqa: E731
    # A convolution of single channels has as many weights an output as one of a single input.
    np.testing.assert_allclose(draw(_layers.HE_FAN_OUT, 3, 3, 1, 4096).std(), np.sqrt(2 / (9 * 4096)), rtol=0.02)
    uniform = draw(_layers.TORCH_DEFAULT, 3, 3, 64, 128)
    np.testing.assert_allclose([uniform.min(), uniform.max()], np.array([-1, 1]) / np.sqrt(9 * 64), rtol=1e-3)
    params = _layers.torch_dense(25, 4000, dtype=None, param_dtype=jnp.float32).init(jax.random.key(0), jnp.ones(25))
    for x in params["params"].values():
        np.testing.assert_allclose([x.min(), x.max()], [-0.2, 0.2], rtol=1e-2)


def test_mlp_is_dense_and_relu():
    module = models.MLP((5, 3), classes=4)
    variables, image = initialized(module, (2, 3, 1))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = np.asarray(image, np.float64).reshape(4, -1)
    for name in ("hidden_0", "hidden_1"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
    expected = x @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(module.apply(variables, image), expected, atol=1e-5)
    np.testing.assert_allclose(module.apply(variables, x.astype(np.float32), method="head"), expected, atol=1e-5)
    assert module.roles == {
        "stages": ("hidden_1:in", "classifier:in"),
        "pre_relu": ("hidden_0", "hidden_1"),
        "penultimate": ("classifier:in",),
    }


def test_linear_classifier():
    module = models.MLP((), classes=4)
    variables, image = initialized(module, (2, 2, 1))
    assert set(variables["params"]) == {"classifier"}
    assert module.apply(variables, image).shape == (4, 4)


def test_dropout_follows_train():
    module = models.MLP((32,), classes=4, dropout=0.5)
    variables, image = initialized(module, (4,))
    still = module.apply(variables, image, train=False)
    one, two = (module.apply(variables, image, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert not np.allclose(one, two)
    assert not np.allclose(one, still)
    np.testing.assert_array_equal(still, models.MLP((32,), classes=4).apply(variables, image, train=True))


def test_resnet_taps(resnet):
    module, variables, image = resnet
    logits, state = module.apply(variables, image, capture_intermediates=True, mutable=["intermediates"])
    seen = state["intermediates"]
    shapes = [(4, 8, 8, 16), (4, 4, 4, 32), (4, 2, 2, 64)]
    assert module.roles["stages"] == ("stage1", "stage2", "stage3")
    for stage, shape in zip(module.roles["stages"], shapes, strict=True):
        after, before = seen[stage]["__call__"][0], seen[stage]["pre_relu"][0]
        assert after.shape == shape
        assert before.min() < 0
        np.testing.assert_array_equal(after, np.maximum(before, 0))
    assert module.roles["map_before_pool"] == ("stage3",)
    assert module.roles["pre_relu"] == tuple(f"{stage}/pre_relu" for stage in module.roles["stages"])
    assert module.roles["norms"] == tuple(f"{stage}/block1/conv2/norm" for stage in module.roles["stages"])
    # The classifier alone, on the pooled map, gives the logits.
    features = seen["stage3"]["__call__"][0].mean(axis=(1, 2))
    np.testing.assert_allclose(module.apply(variables, features, method="head"), logits, atol=1e-6)


def test_strided_cnn_has_a_map_for_each_stage_and_its_norm():
    module = models.create("cnn_4_8_16", 10)
    variables, image = initialized(module, (8, 8, 1))
    network = networks.from_linen(module)
    taps = (*(f"{role}[{i}]" for role in ("stages", "pre_relu", "norms") for i in range(3)), "penultimate")
    outputs, _ = network.apply(variables, {"image": image}, taps=taps)
    x = np.asarray(image, np.float64)
    for i, shape in enumerate([(4, 8, 8, 4), (4, 4, 4, 8), (4, 2, 2, 16)]):
        seen = [outputs.taps[f"{role}[{i}]"] for role in ("stages", "pre_relu", "norms")]
        assert {tap.shape for tap in seen} == {shape}
        np.testing.assert_array_equal(seen[0], np.maximum(seen[1], 0))
        np.testing.assert_array_equal(seen[1], seen[2])
    kernel = np.asarray(variables["params"]["stage1"]["layer"]["conv"]["kernel"], np.float64)
    corner = np.einsum("bhwc,hwcf->bf", np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, :3, :3], kernel)
    np.testing.assert_allclose(outputs.taps["norms[0]"][:, 0, 0], corner / np.sqrt(1 + 1e-5), atol=1e-5)
    np.testing.assert_allclose(outputs.taps["penultimate"], outputs.taps["stages[2]"].mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(network.head(variables, outputs.taps["penultimate"]), outputs.logits, atol=1e-6)
    # What a margin is taken from: parameters stand where the tap of their module says.
    for path, width in zip(module.roles["norms"], (4, 8, 16), strict=True):
        node = variables["params"]
        for name in path.split("/"):
            node = node[name]
        assert node["scale"].shape == (width,)


def test_resnet_block_against_plain_convolutions(resnet):
    """The strided first block of stage 2 with its projection, in inference mode, in float64 loops over positions."""
    module, variables, image = resnet
    _, state = module.apply(variables, image, capture_intermediates=True, mutable=["intermediates"])
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["stage2"]["block1"])

    def conv_norm(x, layer, strides):
        kernel, padding = layer["conv"]["kernel"], layer["conv"]["kernel"].shape[0] // 2
        padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        size = kernel.shape[0]
        out = np.stack(
            [
                np.stack(
                    [
                        np.einsum("bhwc,hwcf->bf", padded[:, i : i + size, j : j + size], kernel)
                        for j in range(0, x.shape[2], strides)
                    ],
                    axis=1,
                )
                for i in range(0, x.shape[1], strides)
            ],
            axis=1,
        )
        return out / np.sqrt(1 + 1e-5) * layer["norm"]["scale"] + layer["norm"]["bias"]  # fresh statistics: 0 and 1

    x = np.asarray(state["intermediates"]["stage1"]["__call__"][0], np.float64)
    inner = np.maximum(conv_norm(x, params["conv1"], 2), 0)
    expected = conv_norm(inner, params["conv2"], 1) + conv_norm(x, params["shortcut"], 2)
    np.testing.assert_allclose(state["intermediates"]["stage2"]["pre_relu"][0], expected, atol=1e-4)


def test_batch_norm_follows_train(resnet):
    module, variables, image = resnet
    _, updated = module.apply(variables, image, train=True, mutable=["batch_stats"])
    old, new = variables["batch_stats"]["stem"]["norm"], updated["batch_stats"]["stem"]["norm"]
    assert not np.allclose(old["mean"], new["mean"])
    _, updated = module.apply(variables, image, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_axis_name_gives_statistics_of_the_whole_batch(resnet):
    module, variables, image = resnet
    _, whole = module.apply(variables, image, train=True, mutable=["batch_stats"])
    synced = models.CifarResNet(8, axis_name="devices")

    def half(x):
        return synced.apply(variables, x, train=True, mutable=["batch_stats"])[1]

    halves = jax.vmap(half, axis_name="devices")(image.reshape(2, 2, *image.shape[1:]))
    for got, expected in zip(jax.tree.leaves(halves), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got[0], expected, atol=1e-5)
        np.testing.assert_allclose(got[1], expected, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        models.MLP((8,), dtype=jnp.bfloat16),
        models.CifarResNet(8, dtype=jnp.bfloat16),
        models.StridedCNN((4,), dtype=jnp.bfloat16),
    ],
)
def test_compute_dtype_leaves_parameters_float32(module):
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    logits, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    assert logits.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
