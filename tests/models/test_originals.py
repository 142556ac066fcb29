"""Every family against the original, run here, on weights that no golden file has: ``pytest -m originals -n 0``.

Needs the extra ``originals``, and for the CIFAR families ``REPDISTILLER``, the folder ``models`` of a checkout of
https://github.com/HobbitLong/RepDistiller; without them it is skipped. ``ORIGINALS_SEED`` draws other weights.
"""

import functools
import importlib.util
import json
import os

import flax
import jax
import numpy as np
import pytest

from jaxkd import networks
from jaxkd.models import pretrained
from jaxkd.models.pretrained._names import source

from . import (
    bert_cases,
    golden,
    imagenet_cases,
    make_bert_golden,
    make_golden,
    make_imagenet_golden,
    make_text_golden,
    text_cases,
)

NEEDED = ("torch", "torchvision", "timm", "transformers")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
SEED = int(os.environ.get("ORIGINALS_SEED", "1"))

pytestmark = [
    pytest.mark.originals,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (the extra originals)"),
    pytest.mark.filterwarnings("default"),  # of the originals
]


def close(found, expected, record):
    """To 1e-4 of the largest number, at least 1; records what it is. ``found`` has all that ``expected`` has."""
    errors = {}
    for name, theirs in expected.items():
        difference = np.asarray(found[name]) - theirs
        errors[name] = float(np.abs(difference).max() / max(1, np.abs(theirs).max()))
        record(name, errors[name])
    print(", ".join(f"{name} {error:.0e}" for name, error in errors.items()))
    assert all(error < 1e-4 for error in errors.values()), errors  # not of the largest: no NaN is larger


@functools.cache
def small_networks_of_cifar():
    return make_golden.sources(os.environ["REPDISTILLER"])[0]


@pytest.mark.skipif("REPDISTILLER" not in os.environ, reason="REPDISTILLER is not set: the folder of the original code")
@pytest.mark.parametrize("family", golden.MODELS)
def test_cifar(family, record_property):
    expected = make_golden.run(family, small_networks_of_cifar()[family], SEED)
    network, variables = networks.from_linen(golden.MODELS[family]), golden.variables(family, SEED)
    taps = [name for name in expected if name not in ("logits", "train_logits", "batch_stats")]
    batch = {"image": golden.image(family)}
    outputs, (trained, updated) = jax.jit(
        lambda variables: (network.apply(variables, batch, taps=taps)[0], network.apply(variables, batch, train=True))
    )(variables)
    found = {
        "logits": outputs.logits,
        "train_logits": trained.logits,
        "batch_stats": golden.digest_of_statistics(updated["batch_stats"]),
        **{name: golden.digest(outputs.taps[name]) for name in taps},
    }
    close(found, expected, record_property)


@pytest.mark.parametrize("case", imagenet_cases.MODULES)
def test_imagenet(case, record_property):
    expected = make_imagenet_golden.run(make_imagenet_golden.originals()[case], SEED)
    shapes = json.loads(str(expected.pop("shapes")))
    tensors = {name: imagenet_cases.tensor(name, shape, SEED) for name, shape in shapes.items()}
    module = imagenet_cases.MODULES[case]
    variables = pretrained.convert(module, tensors, imagenet_cases.IMAGE_SHAPE)
    network, batch = networks.from_linen(module), {"image": imagenet_cases.images()}
    outputs, (trained, updated) = jax.jit(
        lambda variables: (network.apply(variables, batch)[0], network.apply(variables, batch, train=True))
    )(variables)
    found = {"logits": outputs.logits, "train_logits": trained.logits}
    if "statistics" in expected:
        theirs = json.loads(str(expected["statistics"]))
        leaves = {source(module, p).name: x for p, x in flax.traverse_util.flatten_dict(updated["batch_stats"]).items()}
        assert leaves.keys() == theirs.keys()
        found["statistics"] = np.array([imagenet_cases.projection(name, leaves[name]) for name in theirs])
        expected["statistics"] = np.array(list(theirs.values()))
    close(found, expected, record_property)


def text(module, variables, batch, present, taps):
    """Logits and taps; of words, those that are no padding."""
    network = networks.from_linen(module)
    wanted = [name for names in taps.values() for name in names]
    outputs, _ = jax.jit(lambda variables: network.apply(variables, batch, taps=wanted))(variables)
    states = {side: np.stack([outputs.taps[name] for name in names])[:, present[side]] for side, names in taps.items()}
    return {"output": outputs.logits, **states}


@pytest.mark.parametrize("case", bert_cases.MODULES)
def test_bert(case, record_property):
    expected = make_bert_golden.run(case, make_bert_golden.originals()[case], SEED)
    shapes = json.loads(str(expected.pop("shapes")))
    tensors = {name: imagenet_cases.tensor(name, shape, SEED) for name, shape in shapes.items()}
    batch = dict(zip(("input_ids", "attention_mask", "token_type_ids"), bert_cases.words(), strict=True))
    present = batch["attention_mask"].astype(bool)
    module = bert_cases.MODULES[case]
    taps = {"hidden_states": [f"hidden_states[{i}]" for i in range(3)]}
    found = text(module, pretrained.convert(module, tensors), batch, {"hidden_states": present}, taps)
    expected["hidden_states"] = expected["hidden_states"][:, present]
    if case == "bert_encoder":
        found, expected = ({**x, "output": x["output"][present]} for x in (found, expected))
    close(found, expected, record_property)


@pytest.mark.parametrize("case", text_cases.MODULES)
def test_gpt2_and_t5(case, record_property):
    expected = make_text_golden.run(case, make_text_golden.originals()[case], SEED)
    tensors = text_cases.tensors(case, json.loads(str(expected.pop("shapes"))), SEED)
    batch = text_cases.words() if case == "gpt2" else text_cases.pairs_of_texts()
    # The originals' last states are normalised.
    if case == "gpt2":
        taps = {"hidden_states": ["hidden_states[0]", "hidden_states[1]", "penultimate"]}
        masks = {"hidden_states": "attention_mask"}
    else:
        taps = {
            "encoder_hidden_states": ["hidden_states[0]", "hidden_states[1]", "encoder_norm"],
            "decoder_hidden_states": ["decoder_hidden_states[0]", "decoder_hidden_states[1]", "penultimate"],
        }
        masks = {"encoder_hidden_states": "attention_mask", "decoder_hidden_states": "decoder_attention_mask"}
    present = {side: batch[mask].astype(bool) for side, mask in masks.items()}
    module = text_cases.MODULES[case]
    found = text(module, pretrained.convert(module, tensors), batch, present, taps)
    for side, mask in present.items():
        expected[side] = expected[side][:, mask]
    # Of the side that the logits are of, the last.
    found, expected = ({**x, "output": x["output"][mask]} for x in (found, expected))
    close(found, expected, record_property)
