"""The ImageNet models give what torchvision's and timm's give on the same weights (``make_imagenet_golden.py``)."""

import functools
import json
from pathlib import Path

import flax
import jax
import numpy as np
import pytest

from jaxkd import networks
from jaxkd.models import pretrained
from jaxkd.models.pretrained._names import source

from . import imagenet_cases as cases

GOLDEN = Path(__file__).parent / "golden"
BATCH_NORM = [name for name in cases.MODULES if name not in ("bit", "vit", "deit")]
# By a tap, its shape for one image of 64x64.
SHAPES = {
    "resnet_basic": {"stages[0]": (16, 16, 64), "stages[3]": (2, 2, 512), "penultimate": (512,)},
    "resnet_bottleneck": {"stages[0]": (16, 16, 256), "stages[3]": (2, 2, 2048), "penultimate": (2048,)},
    "mobilenet_v1": {"stages[0]": (16, 16, 32), "stages[3]": (2, 2, 256), "penultimate": (256,)},
    "mobilenet_v2": {"stages[0]": (16, 16, 16), "stages[3]": (2, 2, 160), "penultimate": (1280,)},
    "efficientnet": {"stages[0]": (16, 16, 16), "stages[3]": (2, 2, 160), "penultimate": (640,)},
    "bit": {
        "stages[0]": (16, 16, 256),
        "stages[3]": (2, 2, 2048),
        "pre_relu[0]": (16, 16, 256),
        "penultimate": (2048,),
    },
    "vit": {"hidden_states[0]": (17, 24), "hidden_states[2]": (17, 24), "query[1]": (17, 24), "penultimate": (24,)},
    "deit": {"hidden_states[0]": (18, 24), "attention_scores[1]": (3, 18, 18), "penultimate": (24,)},
}


@functools.cache
def computed(case):
    """Inference with every role tapped, and a forward pass in training mode: one program."""
    golden = np.load(GOLDEN / f"imagenet_{case}.npz")
    tensors = {name: cases.tensor(name, shape) for name, shape in json.loads(str(golden["shapes"])).items()}
    variables = pretrained.convert(cases.MODULES[case], tensors, cases.IMAGE_SHAPE)
    network = networks.from_linen(cases.MODULES[case])
    taps = [
        role if len(paths) == 1 else f"{role}[{i}]" for role, paths in network.roles.items() for i in range(len(paths))
    ]

    @jax.jit
    def both(variables, batch):
        return network.apply(variables, batch, taps=taps)[0], network.apply(variables, batch, train=True)

    return golden, network, variables, both(variables, {"image": cases.images()})


@pytest.mark.parametrize("case", cases.MODULES)
def test_logits_are_the_originals(case):
    golden, _, _, (outputs, _) = computed(case)
    assert np.ptp(golden["logits"]) > 0.3
    np.testing.assert_allclose(outputs.logits, golden["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", BATCH_NORM)
def test_training_mode_and_its_statistics_are_the_originals(case):
    golden, _, _, (_, (outputs, updated)) = computed(case)
    # Relative to their size: statistics of 16 numbers a channel pass on what rounding there is.
    scale = max(1, np.abs(golden["train_logits"]).max())
    np.testing.assert_allclose(outputs.logits, golden["train_logits"], atol=1e-4 * scale, rtol=0)
    statistics = {}
    for path, leaf in flax.traverse_util.flatten_dict(updated["batch_stats"]).items():
        name = source(cases.MODULES[case], path).name
        statistics[name] = cases.projection(name, leaf)
    expected = json.loads(str(golden["statistics"]))
    assert statistics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(statistics[name], value, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("case", SHAPES)
def test_roles_are_taps_of_these_shapes(case):
    _, network, variables, (outputs, (_, updated)) = computed(case)
    assert set(updated) == ({"batch_stats"} if case in BATCH_NORM else set())
    for name, shape in SHAPES[case].items():
        assert outputs.taps[name].shape == (cases.BATCH, *shape)
    # Where a norm stands, its scale has the channels of what it gives.
    for i, path in enumerate(network.roles.get("norms", ())):
        scale = functools.reduce(lambda node, name: node[name], path.split("/"), variables["params"])["scale"]
        assert scale.shape == outputs.taps[f"norms[{i}]"].shape[-1:] == outputs.taps[f"stages[{i}]"].shape[-1:]


@pytest.mark.parametrize("case", [case for case in cases.MODULES if case != "deit"])
def test_penultimate_and_head_give_the_logits(case):
    _, network, variables, (outputs, _) = computed(case)
    np.testing.assert_allclose(network.head(variables, outputs.taps["penultimate"]), outputs.logits, atol=1e-5)
    if case != "vit":
        pooled = outputs.taps["map_before_pool"].mean((1, 2))
        np.testing.assert_allclose(outputs.taps["penultimate"], pooled, atol=1e-5)


@pytest.mark.parametrize("case", ["resnet_basic", "mobilenet_v1"])
def test_a_stage_is_its_pre_activation_after_the_relu(case):
    taps = computed(case)[3][0].taps
    top = 6 if case == "mobilenet_v1" else np.inf
    for i in range(4):
        assert taps[f"pre_relu[{i}]"].min() < 0
        np.testing.assert_array_equal(taps[f"stages[{i}]"], np.clip(taps[f"pre_relu[{i}]"], 0, top))


def test_pre_relu_of_bit_is_what_the_next_relu_sees():
    taps = computed("bit")[3][0].taps
    assert taps["pre_relu[3]"].min() < 0
    np.testing.assert_array_equal(np.maximum(taps["pre_relu[3]"], 0), taps["map_before_pool"])


def test_attention_maps_are_of_the_tapped_queries_and_keys():
    taps = computed("vit")[3][0].taps
    query, key = (np.asarray(taps[name], np.float64).reshape(4, 17, 3, 8) for name in ("query[1]", "key[1]"))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(8)
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(taps["attention_scores[1]"], scores, atol=1e-5)
    np.testing.assert_allclose(taps["attention_probs[1]"], probs, atol=1e-5)


def test_deit_averages_its_two_classifiers():
    _, network, variables, (outputs, _) = computed("deit")
    params = {name: variables["params"][name] for name in ("classifier", "distillation_classifier")}
    assert not np.allclose(params["classifier"]["kernel"], params["distillation_classifier"]["kernel"])
    one = network.head(variables, outputs.taps["penultimate"])
    states = outputs.taps["hidden_states[2]"][:, 1]
    normalized = (states - states.mean(-1, keepdims=True)) / np.sqrt(states.var(-1, keepdims=True) + 1e-6)
    normalized = normalized * variables["params"]["norm"]["scale"] + variables["params"]["norm"]["bias"]
    two = normalized @ params["distillation_classifier"]["kernel"] + params["distillation_classifier"]["bias"]
    np.testing.assert_allclose((one + two) / 2, outputs.logits, atol=1e-5)
