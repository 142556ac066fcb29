"""GPT-2 gives what Hugging Face's gives on the same weights (``make_text_golden.py``); counts; masks; starts."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from jaxkd import learners, losses, models, networks, objectives
from jaxkd.models import GPT2, pretrained
from jaxkd.models.pretrained._names import classes

from . import text_cases as cases

GOLDEN = Path(__file__).parent / "golden"
SIZES = [info for info in models.names() if info.family == "gpt2"]


@functools.cache
def computed():
    golden = np.load(GOLDEN / "gpt2.npz")
    tensors = cases.tensors("gpt2", json.loads(str(golden["shapes"])))
    module = cases.MODULES["gpt2"]
    network = networks.from_linen(module)
    variables = pretrained.convert(module, tensors)
    taps = [f"{role}[{i}]" for role, paths in network.roles.items() for i in range(len(paths)) if len(paths) > 1]
    outputs, _ = jax.jit(lambda v, b: network.apply(v, b, taps=[*taps, "penultimate"]))(variables, cases.words())
    return golden, tensors, network, variables, outputs


@functools.cache
def plain():
    """``(variables, batch) -> logits``, nothing tapped, of a model that drops in training."""
    network = networks.from_linen(cases.MODULES["gpt2"].clone(dropout=0.5))
    return jax.jit(lambda variables, batch: network.apply(variables, batch)[0].logits)


def test_outputs_and_hidden_states_are_the_originals():
    golden, _, _, _, outputs = computed()
    present = cases.words()["attention_mask"].astype(bool)
    close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=0)
    close(outputs.logits[present], golden["output"][present])
    # The original's last state is normalised.
    states = [outputs.taps["hidden_states[0]"], outputs.taps["hidden_states[1]"], outputs.taps["penultimate"]]
    for ours, theirs in zip(states, golden["hidden_states"], strict=True):
        close(ours[present], theirs[present])


def test_head_gives_the_logits_of_penultimate():
    _, _, network, variables, outputs = computed()
    np.testing.assert_allclose(network.head(variables, outputs.taps["penultimate"]), outputs.logits, atol=1e-5)


def test_fused_attention_masks_alike_and_nothing_is_dropped_without_training():
    _, _, _, variables, outputs = computed()
    np.testing.assert_allclose(plain()(variables, cases.words()), outputs.logits, atol=1e-5)


def test_a_word_sees_itself_and_those_before_it_that_are_no_padding():
    probs = computed()[4].taps["attention_probs[1]"]
    assert probs.shape == (2, 3, 9, 9)
    np.testing.assert_array_equal(np.asarray(probs[0]) > 0, np.broadcast_to(np.tri(9, dtype=bool), (3, 9, 9)))
    assert (probs[1, :, :, 6:] == 0).all()
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-6)


def test_padding_at_either_end_changes_nothing():
    variables = computed()[3]
    ids = cases.words()["input_ids"][:1, :5]
    alone = plain()(variables, {"input_ids": ids})
    for before, after in ((0, 4), (4, 0), (2, 2)):
        padding = ((0, 0), (before, after))
        batch = {
            "input_ids": np.pad(ids, padding, constant_values=7),
            "attention_mask": np.pad(np.ones_like(ids), padding),
        }
        padded = plain()(variables, batch)
        np.testing.assert_allclose(padded[:, before : before + 5], alone, atol=1e-5)
        assert np.isfinite(padded).all()


@pytest.mark.parametrize("info", SIZES, ids=[info.name for info in SIZES])
def test_parameters_are_the_published_ones(info):
    words = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(models.create(info.name, info.classes).init, jax.random.key(0), words)["params"]
    assert info.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_size_is_there():
    # In millions, as Hugging Face counts them, tied weights once.
    assert {info.name: round(info.parameters / 1e6, 1) for info in SIZES} == {
        "distilgpt2": 81.9,
        "gpt2": 124.4,
        "gpt2_medium": 354.8,
        "gpt2_large": 774.0,
    }


def test_weights_load_by_either_set_of_names(tmp_path):
    """Those of the model alone, as they are published, and those with the head, with masks that older files have."""
    _, tensors, _, variables, _ = computed()
    alone = {name.removeprefix("transformer."): array for name, array in tensors.items() if name != "lm_head.weight"}
    old = tensors | {
        "transformer.h.0.attn.bias": np.ones((1, 1, 16, 16), np.uint8),
        "transformer.h.1.attn.masked_bias": np.full((), -1e4, np.float32),
    }
    for given in (alone, old):
        path = tmp_path / f"{len(given)}.safetensors"
        safetensors.numpy.save_file(given, path)
        loaded = pretrained.load(cases.MODULES["gpt2"], path)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)


def test_what_does_not_fit_is_refused():
    tensors = dict(computed()[1])
    with pytest.raises(ValueError, match=r"do not fit GPT2; surplus: lm_head.weight$"):
        pretrained.convert(cases.MODULES["gpt2"], tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    del tensors["transformer.h.1.attn.c_attn.weight"]
    tensors["transformer.h.0.attn.c_attn.bias"] = np.zeros(73, np.float32)
    wrong = r"missing: h.1.attn.c_attn.weight; mis-shaped: h.0.attn.c_attn.bias makes \[73\], .*/bias is \[24\]"
    with pytest.raises(ValueError, match=wrong):
        pretrained.convert(cases.MODULES["gpt2"], tensors)


def test_a_name_gets_as_many_words_as_the_weights():
    assert classes(GPT2(vocabulary=1), {"wte.weight": np.zeros((40, 24), np.float32)}) == 40


def test_training_drops():
    variables = computed()[3]
    network = networks.from_linen(cases.MODULES["gpt2"].clone(dropout=0.5))
    apply = jax.jit(lambda key: network.apply(variables, cases.words(), train=True, rng=key)[0].logits)
    assert not np.allclose(apply(jax.random.key(1)), apply(jax.random.key(2)))


def test_compute_dtype_leaves_parameters_float32():
    words = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    module = cases.MODULES["gpt2"].clone(dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), words)
    assert logits.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_a_distilled_gpt2_starts_from_its_teachers_layers():
    """Of 12 layers to 6: as DistilBERT's, and layers of one's own choice."""
    teacher, student = GPT2(12, 12, 3, 8, 4), GPT2(12, 6, 3, 8, 4)
    key, rng = jax.random.key(0), np.random.default_rng(0)
    words = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(lambda words: (teacher.init(key, words), student.init(key, words)), words)
    of_teacher, of_student = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes)
    for i in range(12):
        of_teacher["params"][f"block{i + 1}"]["attention_norm"]["bias"][:] = i
    for layers, expected in ((None, [0, 2, 4, 7, 9, 11]), ([0, 1, 2, 9, 10, 11], [0, 1, 2, 9, 10, 11])):
        start = pretrained.init_from_teacher(of_student, of_teacher, layers)
        assert [int(start["params"][f"block{i + 1}"]["attention_norm"]["bias"][0]) for i in range(6)] == expected
        for ours, theirs in zip((1, 6), (expected[0] + 1, expected[-1] + 1), strict=True):
            of_block, of_its = start["params"][f"block{ours}"], of_teacher["params"][f"block{theirs}"]
            jax.tree.map(np.testing.assert_array_equal, of_block, of_its)
        jax.tree.map(np.testing.assert_array_equal, start["params"]["embedding"], of_teacher["params"]["embedding"])
    # The distilled model starts with all of its variables.
    assert jax.tree.structure(start) == jax.tree.structure(of_student)


def test_a_distilled_gpt2_learns_and_padding_has_no_say():
    """Soft labels, the next words and the last states; ``where`` has a flag for each word."""
    teacher, student = (networks.from_linen(GPT2(24, n, 3, cases.VOCABULARY, 16, dropout=0.0)) for n in (2, 1))
    ids, mask = cases.words().values()
    following = np.where(np.roll(mask, -1, axis=1), np.roll(ids, -1, axis=1), -1)
    following[:, -1] = -1
    batch = {"input_ids": ids, "attention_mask": mask, "where": mask.astype(bool), "label": following}
    batch["index"] = np.arange(2)
    cosine = objectives.on_features(losses.cosine_embedding, ("hidden_states[1]",), ("hidden_states[2]",))
    objective = objectives.weighted_sum(
        soft=(5.0, objectives.soft_label(temperature=2.0)), hard=(2.0, objectives.hard_label()), cosine=(1.0, cosine)
    )
    learner = learners.distill(student, teacher, objective, optax.adam(1e-2))

    @jax.jit
    def train(key, frozen, batch):
        state = learner.init(key, frozen, batch)
        return jax.lax.scan(lambda state, _: learner.step(state, frozen, batch), state, length=10)[1]["loss"]

    history = train(jax.random.key(0), computed()[3], batch)
    assert history[-1] < 0.8 * history[0]
    other = train(jax.random.key(0), computed()[3], batch | {"input_ids": np.where(mask, ids, 17)})
    np.testing.assert_array_equal(history, other)


def test_bad_arguments():
    with pytest.raises(ValueError, match="GPT2: heads are 5, but have to divide the width, 768"):
        GPT2(heads=5)
    long = jax.ShapeDtypeStruct((2, 17), jnp.int32)
    with pytest.raises(ValueError, match=r"input_ids \[2,17\]: there are positions for 16 tokens only"):
        jax.eval_shape(cases.MODULES["gpt2"].init, jax.random.key(0), long)
