"""int8: what the weights and the products become, of Linen and of NNX, and the student's row in the comparison."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxkd import cli, deployment, networks
from jaxkd.evaluation import Comparison, parameter_count

pytest.importorskip("qwix", reason="the extra quantize is not installed")
# qwix still asks Flax for classes and methods by the names they had.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.Dense(5, name="dense")(x.mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dense = nnx.Linear(6, 5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype(np.float32)


def model(library, image):
    """``(model, network, variables)``, the same weights in both libraries."""
    made, network = {
        "linen": (Linen(), networks.from_linen(Linen())),
        "nnx": (Nnx, networks.from_nnx(Nnx)),
    }[library]
    drawn = networks.from_linen(Linen()).init(jax.random.key(0), {"image": image})
    statistics = {"norm": {"mean": jnp.linspace(-0.5, 0.5, 6), "var": jnp.linspace(0.5, 2, 6)}}
    return made, network, {"params": drawn["params"], "batch_stats": statistics}


def logits(network, variables, image):
    return np.asarray(jax.jit(lambda v, x: network.apply(v, {"image": x})[0].logits)(variables, image))


def rounded(x, axes):
    """int8 and back, with one scale over ``axes``, in NumPy. The largest of ``|x|`` has to be positive.

    Negative, it lies half way between -127 and -128, and the last bit of the scale says which it is.
    """
    scale = np.abs(x).max(axes, keepdims=True) / 127.5
    return np.clip(np.round(x / scale), -128, 127) * scale


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_int8_weights_are_the_float_ones_rounded(library, image):
    _, network, variables = model(library, image)
    quantized, made = deployment.quantize_weights(network, variables)
    assert made["params"]["conv"]["kernel"].dtype == made["params"]["dense"]["kernel"].dtype == jnp.int8
    assert made["scales"]["conv"]["kernel"].shape == (1, 1, 1, 6)
    assert parameter_count(made) == parameter_count(variables), "scales are no parameters"
    by_hand = jax.tree.map(np.asarray, variables)
    for layer in ("conv", "dense"):
        kernel = np.asarray(variables["params"][layer]["kernel"])
        scale = np.asarray(made["scales"][layer]["kernel"])
        np.testing.assert_allclose(
            scale, np.abs(kernel).max(tuple(range(kernel.ndim - 1)), keepdims=True) / 127.5, 1e-6
        )
        again = np.asarray(made["params"][layer]["kernel"]) * scale
        assert (np.abs(again - kernel) <= 0.5001 * scale).all()
        by_hand["params"][layer]["kernel"] = again
    np.testing.assert_allclose(logits(quantized, made, image), logits(network, by_hand, image), atol=1e-5)
    assert np.abs(logits(quantized, made, image) - logits(network, variables, image)).max() > 1e-4, "it does round"


@pytest.mark.parametrize("library", ["linen", "nnx"])
def test_dynamic_products_are_of_integers_and_near_the_float_ones(library, image):
    made_of, network, variables = model(library, image)
    quantized, made = deployment.quantize_dynamic(made_of, variables, image)
    assert made["params"]["conv"]["kernel"].dtype == made["params"]["dense"]["kernel"].dtype == jnp.int8
    assert set(made) == {"params", "batch_stats", "scales"}
    expected = logits(network, variables, image)
    assert np.abs(logits(quantized, made, image) - expected).max() <= 0.03 * np.abs(expected).max()
    text = jax.jit(lambda v, x: quantized.apply(v, {"image": x})[0].logits).lower(made, image).as_text()
    assert "xi8>, tensor<" in text, "the convolution takes int8"


def test_both_libraries_are_quantised_alike(image):
    of = {}
    for library in ("linen", "nnx"):
        made_of, _, variables = model(library, image)
        of[library] = logits(*deployment.quantize_dynamic(made_of, variables, image), image)
    np.testing.assert_allclose(of["linen"], of["nnx"], atol=1e-5)


def test_a_dense_layer_in_int8_is_its_formula(image):
    class Alone(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="dense")(x)

    x = image[:, :, 0, 0].copy()
    x[:, 0] = 4.0
    network = networks.from_linen(Alone())
    variables = network.init(jax.random.key(0), {"image": x})
    variables["params"]["dense"]["kernel"] = variables["params"]["dense"]["kernel"].at[0].set(2.0)
    dense = jax.tree.map(np.asarray, variables["params"]["dense"])
    # What the layer takes has one scale an example.
    expected = rounded(x, -1) @ rounded(dense["kernel"], 0) + dense["bias"]
    got = logits(*deployment.quantize_dynamic(Alone(), variables, x), x)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_what_cannot_be_quantised(image, monkeypatch):
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.LayerNorm(name="norm")(x).mean((1, 2))

    network = networks.from_linen(Norm())
    variables = network.init(jax.random.key(0), {"image": image})
    for attempt in (
        lambda: deployment.quantize_weights(network, variables),
        lambda: deployment.quantize_dynamic(Norm(), variables, image),
    ):
        with pytest.raises(ValueError, match=r"its parameters are norm/bias, norm/scale|norm/scale, norm/bias"):
            attempt()
    _, network, variables = model("linen", image)
    quantized, made = deployment.quantize_weights(network, variables)
    with pytest.raises(ValueError, match="a quantised network is for inference"):
        quantized.apply(made, {"image": image}, train=True)
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(ImportError, match=r'^int8 needs qwix: pip install "jaxkd\[quantize\]"$'):
        deployment.quantize_weights(network, variables)


def test_a_run_is_compared_in_int8(tmp_path, data_dir, capsys):
    options = ("--workdir", str(tmp_path), "--data-dir", data_dir)
    small = ("--teacher", "mlp_32", "--student", "mlp_16", "--seeds", "2", "--labels", "all", "--no-alone")
    size = ("--steps", "40", "--teacher-epochs", "8", "--batch-size", "128", "--learning-rate", "1e-2")
    assert cli.main(["distill", *small, *size, *options, "--name", "small", "--quantize", "int8"]) == 0
    assert "distilled, int8" in (tmp_path / "small" / "report.html").read_text()
    text = (tmp_path / "small" / "comparison.json").read_text()
    comparison = Comparison.from_json(text)
    assert comparison.to_json() == text
    floating, weights, dynamic = comparison.students
    assert comparison.best is floating
    assert floating.likeness == {}
    for entry in (weights, dynamic):
        assert entry.accuracy.n == 2
        assert entry.likeness["distilled"].mean > 0.95
        assert abs(entry.accuracy.mean - floating.accuracy.mean) < 0.03
        assert entry.parameters == floating.parameters == 1210
        # 64 * 16 + 16 * 10 int8 weights, 26 biases and 26 scales of 4 bytes.
        assert (entry.bytes, floating.bytes) == (1184 + 4 * 52, 4 * 1210)
    capsys.readouterr()
    reused = ("--method", "simkd", "--teacher", "cnn_4_8", "--student", "cnn_4_4")
    assert cli.main(["distill", *reused, *size, *options, "--quantize", "int8"]) == 1
    assert "--quantize int8: of --method simkd not cnn_4_4 alone is deployed" in capsys.readouterr().err
