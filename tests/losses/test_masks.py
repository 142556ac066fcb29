"""Masks of positions: they have an axis for each axis of the positions, and are never taken for flags of another."""

import functools

import jax
import numpy as np
import pytest

from jaxkd import losses

RNG = np.random.default_rng(0)
N = 8
"""Examples, and sizes: flags of the examples would broadcast to every other axis."""
MAPS = RNG.standard_normal((4, N, N, N, 8)).astype(np.float32)
STUDENT, TEACHER = MAPS[:2]
BOXES = np.concatenate([np.abs(MAPS[:2, ..., :2]), 4 + np.abs(MAPS[2:, ..., :2])], -1)
CELLS = RNG.random((N, N, N)) < 0.5
KEPT = np.arange(N) < 4
CHANNELS = -np.abs(RNG.standard_normal(8)).astype(np.float32)


@pytest.fixture(autouse=True)
def strictly():
    """Nothing is promoted unsaid, neither types nor ranks: a sum of flags, for one, is an integer."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


OF_POSITIONS = {
    "attention_map": lambda where: losses.attention_map(STUDENT, where=where).sum((1, 2)),
    "attention_transfer": functools.partial(losses.attention_transfer, STUDENT, TEACHER),
    "neuron_selectivity": functools.partial(losses.neuron_selectivity, STUDENT, TEACHER),
    "fsp": functools.partial(losses.fsp, *MAPS),
    "factor_transfer": functools.partial(losses.factor_transfer, STUDENT, TEACHER),
    "activation_boundary": functools.partial(losses.activation_boundary, STUDENT, TEACHER),
    "overhaul": functools.partial(losses.overhaul, STUDENT, TEACHER, CHANNELS),
    "variational_information": functools.partial(losses.variational_information, STUDENT, TEACHER, CHANNELS),
    "hierarchical_context": functools.partial(losses.hierarchical_context, STUDENT, TEACHER),
    "channel_wise": functools.partial(losses.channel_wise, STUDENT, TEACHER),
    "inter_channel_correlation": functools.partial(losses.inter_channel_correlation, STUDENT, TEACHER),
    "class_activation": functools.partial(losses.class_activation, STUDENT, TEACHER),
    "singular_value": functools.partial(losses.singular_value, list(MAPS[:2]), list(MAPS[2:])),
    "box_distillation": functools.partial(losses.box_distillation, *BOXES),
    "class_response": functools.partial(losses.class_response, STUDENT, TEACHER),
    "localization_kl": functools.partial(losses.localization_kl, *MAPS[:2].reshape(2, N, N, N, 4, 2)),
    "focal_global": functools.partial(losses.focal_global, STUDENT, TEACHER, CELLS.astype(np.float32)),
}


@pytest.mark.parametrize("name", OF_POSITIONS)
def test_flags_of_examples_are_refused_as_flags_of_positions(name):
    loss = OF_POSITIONS[name]
    with pytest.raises(ValueError, match=r"where \[8\], .*\[8,8,8\]: .*as many axes.*where\[:, None, None\]"):
        loss(where=KEPT)
    with pytest.raises(ValueError, match=r"where \[8,8\], .*as many axes"):
        loss(where=CELLS[0])
    expected = np.where(KEPT, loss(where=None), 0)
    np.testing.assert_allclose(loss(where=KEPT[:, None, None]), expected, rtol=1e-5, atol=1e-6)
    whole = np.broadcast_to(KEPT[:, None, None], CELLS.shape)
    np.testing.assert_allclose(loss(where=whole), expected, rtol=1e-5, atol=1e-6)


OF_EXAMPLES_TOO = {
    "pearson_feature": functools.partial(losses.pearson_feature, STUDENT, TEACHER),
    "fine_grained_imitation": functools.partial(losses.fine_grained_imitation, STUDENT, TEACHER, CELLS),
    "decoupled_feature": functools.partial(
        losses.decoupled_feature, STUDENT, TEACHER, CELLS, foreground_weight=3.0, background_weight=12.0
    ),
}


@pytest.mark.parametrize("name", OF_EXAMPLES_TOO)
def test_losses_of_the_batch_take_flags_of_examples(name):
    loss = OF_EXAMPLES_TOO[name]
    np.testing.assert_allclose(loss(where=KEPT), loss(where=KEPT[:, None, None]), rtol=1e-6)
    assert abs(loss(where=KEPT) - loss(where=None)) > 1e-4
    with pytest.raises(ValueError, match=r"where \[8,8\], positions \[8,8,8\]: .*as many axes"):
        loss(where=CELLS[0])


@pytest.mark.parametrize("name", ["hint", "cosine_embedding"])
def test_flags_of_tokens_are_no_flags_of_features(name):
    """Of 8 tokens of width 8, [batch, length] would be taken for flags of [length, width]."""
    loss, student, teacher = getattr(losses, name), STUDENT[0], TEACHER[0]
    with pytest.raises(ValueError, match=r"where \[8,8\], features \[8,8,8\]: .*as many axes"):
        loss(student, teacher, where=CELLS[0])
    with pytest.raises(ValueError, match=r"where \[8\], features \[8,8,8\]: .*where\[:, None, None\]"):
        loss(student, teacher, where=KEPT)
    expected = np.where(CELLS[0], loss(student, teacher), 0)
    np.testing.assert_allclose(loss(student, teacher, where=CELLS[0][..., None]), expected, rtol=1e-5, atol=1e-6)


def test_flags_of_some_features_are_shared():
    """With an axis of size 1 for each of the others."""
    labels = np.zeros(N, np.int32)
    for loss in (
        functools.partial(losses.hint, STUDENT[0, 0], TEACHER[0, 0]),
        functools.partial(losses.cosine_embedding, STUDENT[0, 0], TEACHER[0, 0]),
        functools.partial(losses.norm_and_direction, STUDENT[0, 0], TEACHER[0, 0], labels, STUDENT[0, 1]),
    ):
        whole = loss(where=np.broadcast_to(KEPT, (N, 8)))
        np.testing.assert_allclose(loss(where=KEPT[None]), whole, rtol=1e-6)
        with pytest.raises(ValueError, match=r"where \[8\], features \[8,8\]"):
            loss(where=KEPT)


def test_flags_of_sequences_and_layers():
    pairs = [(x[0], x[1]) for x in (STUDENT, TEACHER)]
    for loss, over in (
        (functools.partial(losses.attention_relation, *pairs, 2), "tokens"),
        (functools.partial(losses.patient_hidden, STUDENT[0], TEACHER[0]), "positions"),
    ):
        with pytest.raises(ValueError, match=rf"where \[8\], {over} \[8,8\]: .*where\[:, None\]"):
            loss(where=KEPT)
        np.testing.assert_allclose(loss(where=KEPT[:, None]), np.where(KEPT, loss(where=None), 0), rtol=1e-5, atol=1e-6)
