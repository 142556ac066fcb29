"""T5 of both versions gives what Hugging Face's gives on the same weights (``make_text_golden.py``); counts; masks."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models, networks
from jaxkd.models import T5, pretrained
from jaxkd.models._t5_layers import distance_buckets
from jaxkd.models.pretrained._names import classes

from . import text_cases as cases

GOLDEN = Path(__file__).parent / "golden"
FORMS = ("t5", "t5_v1_1")
SIZES = [info for info in models.names() if info.family == "t5"]


def given(form):
    golden = np.load(GOLDEN / f"{form}.npz")
    return golden, cases.tensors(form, json.loads(str(golden["shapes"])))


@functools.cache
def computed(form):
    golden, tensors = given(form)
    network = networks.from_linen(cases.MODULES[form])
    variables = pretrained.convert(cases.MODULES[form], tensors)
    taps = [f"{role}[{i}]" for role, paths in network.roles.items() for i in range(len(paths)) if len(paths) > 1]
    taps += ["penultimate", "encoder_norm"]
    outputs, _ = jax.jit(lambda v, b: network.apply(v, b, taps=taps))(variables, cases.pairs_of_texts())
    return golden, network, variables, outputs


@pytest.mark.parametrize("form", FORMS)
def test_outputs_and_hidden_states_are_the_originals(form):
    golden, _, _, outputs = computed(form)
    batch = cases.pairs_of_texts()
    close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=0)
    for side, last in (("", "encoder_norm"), ("decoder_", "penultimate")):
        present = batch[f"{side}attention_mask"].astype(bool)
        # The original's last state is normalised.
        states = [outputs.taps[f"{side}hidden_states[{i}]"] for i in range(2)] + [outputs.taps[last]]
        for ours, theirs in zip(states, golden[f"{side or 'encoder_'}hidden_states"], strict=True):
            close(ours[present], theirs[present])
    close(outputs.logits[present], golden["output"][present])


@pytest.mark.parametrize("form", FORMS)
def test_head_gives_the_logits_of_penultimate(form):
    _, network, variables, outputs = computed(form)
    np.testing.assert_allclose(network.head(variables, outputs.taps["penultimate"]), outputs.logits, atol=1e-5)


def test_fused_attention_masks_alike_and_nothing_is_dropped_without_training():
    _, _, variables, outputs = computed("t5")
    network = networks.from_linen(cases.MODULES["t5"].clone(dropout=0.5))
    logits = jax.jit(lambda v, b: network.apply(v, b)[0].logits)(variables, cases.pairs_of_texts())
    np.testing.assert_allclose(logits, outputs.logits, atol=1e-5)


@pytest.mark.parametrize(
    ("taps", "fused"),
    [
        (("hidden_states[1]", "cross_key[0]"), 6),
        (("cross_attention_probs[0]",), 5),
        (("attention_scores[1]", "decoder_attention_probs[0]"), 4),
    ],
)
def test_attention_is_fused_except_where_its_maps_are_tapped(taps, fused, monkeypatch):
    _, network, variables, _ = computed("t5")
    scales, plain = [], jax.nn.dot_product_attention
    fake = lambda *args, scale: scales.append(scale) or plain(*args, scale=scale)  # noqa: E731
    monkeypatch.setattr(jax.nn, "dot_product_attention", fake)
    jax.eval_shape(functools.partial(network.apply, taps=taps), variables, cases.pairs_of_texts())
    assert scales == [1.0] * fused


def test_who_sees_whom():
    taps = computed("t5")[3].taps
    assert taps["attention_probs[0]"].shape == (2, 3, 40, 40)
    assert (taps["attention_probs[1]"][1, ..., 30:] == 0).all()
    # A word of the decoder sees itself, those before it, and all words of the encoder that are no padding.
    probs = np.asarray(taps["decoder_attention_probs[1]"])
    np.testing.assert_array_equal(probs[0] > 0, np.broadcast_to(np.tri(7, dtype=bool), (3, 7, 7)))
    cross = np.asarray(taps["cross_attention_probs[1]"])
    assert cross.shape == (2, 3, 7, 40)
    assert (cross[0] > 0).all()
    assert (cross[1, ..., 30:] == 0).all()
    assert (taps["cross_attention_scores[0]"][1, ..., 30:] < -1e30).all()
    assert taps["cross_key[0]"].shape == (2, 40, 18)
    # Scores are the plain products: nothing is divided.
    query, key = (np.asarray(taps[f"cross_{role}[0]"]).reshape(2, -1, 3, 6) for role in ("query", "key"))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key)
    np.testing.assert_allclose(taps["cross_attention_scores[0]"][0], scores[0], atol=1e-4)


def test_distances_have_the_originals_buckets():
    golden = np.load(GOLDEN / "t5_buckets.npz")
    np.testing.assert_array_equal(distance_buckets(301, 32, 128), golden["before"])
    both = distance_buckets(301, 16, 128)
    np.testing.assert_array_equal(both, golden["both_before"])
    np.testing.assert_array_equal(np.where(np.arange(301), both + 16, 0), golden["both_after"])


@pytest.mark.parametrize("info", SIZES, ids=[info.name for info in SIZES])
def test_parameters_are_the_published_ones(info):
    words = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(models.create(info.name, info.classes).init, jax.random.key(0), words, words)["params"]
    assert info.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_size_is_there():
    # In millions, as Hugging Face counts them.
    assert {info.name: round(info.parameters / 1e6, 1) for info in SIZES} == {
        "t5_small": 60.5,
        "t5_base": 222.9,
        "t5_large": 737.7,
        "t5_v1_1_small": 77.0,
        "t5_v1_1_base": 247.6,
        "t5_v1_1_large": 783.2,
    }


def test_copies_of_the_words_vectors_are_left_out_and_others_refused():
    _, tensors = given("t5")
    variables = computed("t5")[2]
    first = tensors | {
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.zeros((32, 3), np.float32)
    }
    once = {name: array for name, array in tensors.items() if "embed_tokens" not in name and name != "lm_head.weight"}
    for names in (first, once):
        loaded = pretrained.convert(cases.MODULES["t5"], names)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    with pytest.raises(ValueError, match=r"do not fit T5; surplus: lm_head.weight$"):
        pretrained.convert(cases.MODULES["t5"], tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    # Of version 1.1 the head is the model's own.
    with pytest.raises(ValueError, match=r"missing: decoder.block.0.layer.2.DenseReluDense.wi_0.weight, .* lm_head"):
        pretrained.convert(cases.MODULES["t5_v1_1"], once)
    assert classes(T5(vocabulary=1), once) == cases.VOCABULARY


def test_training_drops():
    variables = computed("t5")[2]
    network = networks.from_linen(cases.MODULES["t5"].clone(dropout=0.5))
    batch = cases.pairs_of_texts()
    apply = jax.jit(lambda key: network.apply(variables, batch, train=True, rng=key)[0].logits)
    assert not np.allclose(apply(jax.random.key(1)), apply(jax.random.key(2)))


@pytest.mark.parametrize("form", FORMS)
def test_compute_dtype_leaves_parameters_float32(form):
    words = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    module = cases.MODULES[form].clone(dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), words, words)
    assert logits.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_a_smaller_t5_starts_from_its_teachers_layers():
    """Encoder's and decoder's blocks are two stacks."""
    words = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = [jax.eval_shape(T5(12, n, 2, 8, 4, vocabulary=8).init, jax.random.key(0), words, words) for n in (2, 6)]
    student, teacher = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    for i in range(6):
        for side in ("encoder", "decoder"):
            teacher["params"][f"{side}_block{i + 1}"]["attention_norm"]["scale"][:] = i
    start = pretrained.init_from_teacher(student, teacher)["params"]
    for side in ("encoder", "decoder"):
        assert [start[f"{side}_block{i}"]["attention_norm"]["scale"][0] for i in (1, 2)] == [0, 5]


def test_bad_arguments():
    with pytest.raises(ValueError, match="form is 'mt5', but there are"):
        T5(form="mt5")
    words, image = jax.ShapeDtypeStruct((1, 4), jnp.int32), jax.ShapeDtypeStruct((2, 8), jnp.float32)
    with pytest.raises(ValueError, match=r"decoder_input_ids \[2,8\] are float32: a model of text takes integers"):
        jax.eval_shape(cases.MODULES["t5"].init, jax.random.key(0), words, image)
