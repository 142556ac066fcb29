"""What is particular to the losses on transformers: masks of tokens and entries, variants, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import attention_mse, attention_relation, patient_hidden

from . import oracles

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((2, 3, 2, 5, 5)).astype(np.float32)
TOKENS = np.array([[True] * 5, [True, True, True, False, False], [False] * 5])


def test_hidden_sizes_may_differ_and_lengths_are_each_its_own():
    student, teacher = RNG.standard_normal((2, 3, 5, 4)), RNG.standard_normal((2, 3, 5, 12))
    values = attention_relation(student, teacher, 2, where=TOKENS)
    np.testing.assert_allclose(values, oracles.attention_relation(student, teacher, 2, TOKENS), rtol=1e-5, atol=1e-6)
    short = attention_relation(student[:, 1:2, :3], teacher[:, 1:2, :3], 2)
    np.testing.assert_allclose(values[1:2], short, rtol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("entries", [False, True])
def test_masked_scores_change_neither_value_nor_gradient(variant, entries):
    pairs = TOKENS[:, None, :, None] & TOKENS[:, None, None, :]
    where = pairs & np.tri(5, dtype=bool) if entries else TOKENS
    mask = np.broadcast_to(where if entries else pairs, SCORES[0].shape)
    student, teacher = (np.where(mask, x, np.nan) for x in SCORES)

    def total(student):
        values = attention_mse(student, teacher, variant=variant, where=where)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(student)
    expected = oracles.attention_mse(*SCORES, variant=variant, where=where)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    counts = mask.sum((1, 2, 3), keepdims=True)
    wanted = np.where(mask, 2 * (SCORES[0] - SCORES[1]) / np.maximum(counts, 1), 0)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-7)


def test_code_of_attention_counts_what_an_additive_mask_hides():
    padded = SCORES + np.where(TOKENS, 0, -np.inf)[:, None, None, :]
    values = attention_mse(*padded)
    assert np.isfinite(values).all()
    hidden = np.where(TOKENS[:, None, None, :], np.square(SCORES[0] - SCORES[1]), 0)
    np.testing.assert_allclose(values, hidden.mean((1, 2, 3)), rtol=1e-5)


def test_patient_hidden_is_of_cosines():
    student, teacher = RNG.standard_normal((2, 3, 5, 4)).astype(np.float32)
    cosines = (student * teacher).sum(-1) / np.linalg.norm(student, axis=-1) / np.linalg.norm(teacher, axis=-1)
    np.testing.assert_allclose(patient_hidden(student, teacher, variant="paper"), (2 - 2 * cosines).sum(1), rtol=1e-5)
    np.testing.assert_allclose(patient_hidden(student, teacher), (2 - 2 * cosines).mean(1) / 4, rtol=1e-5)


def test_errors():
    tokens = jnp.ones((2, 5, 4))
    pair = (tokens, tokens)
    for wrong, said in (((tokens,), "holds 1"), ((tokens, tokens[:, :3]), r"\[2,5,4\].*\[2,3,4\]")):
        with pytest.raises(ValueError, match=said):
            attention_relation(wrong, pair, 2)
    with pytest.raises(ValueError, match="divide"):
        attention_relation(pair, pair, 3)
    with pytest.raises(ValueError, match=r"\[2,1,4\].*one token"):
        attention_relation((tokens[:, :1],) * 2, (tokens[:, :1],) * 2, 2)
    with pytest.raises(ValueError, match=r"student states \[2,5,4\], teacher states \[2,3,4\]"):
        patient_hidden(tokens, tokens[:, :3])
    with pytest.raises(ValueError, match=r"\[2,5,4\].*\[1,5,4\]"):
        attention_relation(pair, (tokens[:1], tokens[:1]), 2)
    with pytest.raises(ValueError, match="other queries"):
        attention_mse(jnp.ones((2, 2, 5, 3)), jnp.ones((2, 2, 5, 3)), where=np.ones((2, 5), bool))
    with pytest.raises(ValueError, match="'code', 'paper'"):
        attention_mse(*SCORES, variant="mean")
    with pytest.raises(ValueError, match=r"\[3,2,5,5\].*\[2,2,5,5\]"):
        attention_mse(SCORES[0], SCORES[1, :2])
