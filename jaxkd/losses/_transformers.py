"""Distillation of transformers: relations between tokens, attention scores, states of several layers."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import (
    ArrayLike,
    Where,
    at_least_float32,
    check_directions,
    check_floating,
    check_same_shape,
    check_variant,
    check_where,
)
from jaxkd.losses._kl import kl_of_logits
from jaxkd.losses._maps import check_map, check_mask, check_positions_mask, mask_of, selected, spatial_axes
from jaxkd.losses._numerics import l2_normalize, masked_mean


def attention_relation(
    student_pair: Sequence[ArrayLike], teacher_pair: Sequence[ArrayLike], relation_heads: int, *, where: Where = None
) -> jax.Array:
    """Relations between the tokens of a sequence: MiniLM's attention and values, MiniLMv2's QQ, KK and VV.

    Of a pair (A, B), each split into heads of width d: R = softmax(A B^T / sqrt(d)) over the keys, for every head and
    query. L = mean over heads and queries of KL(R_teacher || R_student), at temperature 1. d is the width of each
    model's own heads, hidden / ``relation_heads``: hidden sizes may differ, the number of relation heads may not.

      * MiniLM: the last layers' (query, key) with ``relation_heads`` the attention heads, which student and teacher
        have as many of, and (value, value): the sum of both with weight 1, and no other term.
      * MiniLMv2: (query, query), (key, key) and (value, value), all heads concatenated and split anew into 48 relation
        heads (a base teacher) or 64 (a large one): the sum of the three with weight 1 each, and no other term. A large
        teacher is read above its middle: layer 21 of BERT, 19 of RoBERTa, of 24. (A port of others weighs them 1/3.)

    Projections are taken with their bias, before rotary embeddings, softmax and dropout. Zero, with gradient zero, at
    equal relations. The mean over the batch is the published loss: a sequence counts as one, however long it is.

    Args:
      student_pair: two arrays [batch, length, hidden], the queries' side first.
      teacher_pair: two arrays [batch, length, hidden of the teacher].
      relation_heads: how many heads to split the hidden axes into, a divisor of both.
      where: bool, of as many axes as [batch, length] and broadcastable to it: the tokens that take part, as queries and
        as keys.

    Returns:
      The loss of each sequence, [batch], at least float32, in [0, inf). 0 for a sequence of one valid token, or none.

    Raises:
      ValueError: if a pair is not two floating-point arrays of one shape [batch, length, hidden], batches or lengths
        differ, there is one token, ``relation_heads`` does not divide a hidden axis, or ``where`` does not fit.

    References:
      Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
      Transformers", 2020, https://arxiv.org/abs/2002.10957
      Wang et al., "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
      2020, https://arxiv.org/abs/2012.15828
    """
    _check_pair("student", student_pair, relation_heads)
    _check_pair("teacher", teacher_pair, relation_heads)
    shape = jnp.shape(student_pair[0])[:2]
    if jnp.shape(teacher_pair[0])[:2] != shape:
        raise ValueError(
            f"student tokens {shape_of(student_pair[0])}, teacher tokens {shape_of(teacher_pair[0])}: batch and length "
            "have to be the same; give both models the same tokens"
        )
    if shape[1] < 2:
        raise ValueError(f"tokens {shape_of(student_pair[0])}: one token has no relation to another, give two or more")
    check_mask(where, shape, "tokens")
    if where is not None:
        where = jnp.broadcast_to(where, shape)
    student, teacher = (_scores(at_least_float32(*x), relation_heads, where) for x in (student_pair, teacher_pair))
    if where is None:
        return jnp.mean(kl_of_logits(teacher, student, -1, None), (1, 2))
    divergences = kl_of_logits(teacher, student, -1, where[:, None, None])
    return masked_mean(divergences, where[:, None], (1, 2))


def attention_mse(student: ArrayLike, teacher: ArrayLike, *, variant: str = "code", where: Where = None) -> jax.Array:
    """TinyBERT's attention loss: the mean squared difference of attention scores, before their softmax.

    L = mean over heads, queries and keys of (S_student - S_teacher)^2, S = Q K^T / sqrt(d). Student and teacher have as
    many heads. Published: the sum over the student's layers, layer i (from 0) with the teacher's i k + k - 1, k layers
    of the teacher for one of the student's; weight 1 beside the hidden states' ``hint`` with weight 1, in a phase of
    its own, before the one on predictions.

    Variants:
      * "code" (default): scores up to -100, which additive masks make, are set to 0 in both. Published weights were
        found with it, without ``where``: those zeros, and the queries that are padding, count in the mean. With
        ``where`` the mean is over what takes part, and padding changes nothing.
      * "paper": all scores as they are. An additive mask is no score: say what is padding by ``where``; scores of -inf
        that it does not cover give NaN. The two agree where ``where`` covers the padding.

    The mean over the batch is the published loss of a layer.

    Args:
      student: scores [batch, heads, queries, keys].
      teacher: scores of the same shape.
      variant: "code" or "paper".
      where: bool, either [batch, length], the tokens that take part, as queries and as keys (of self-attention); or
        of four axes, broadcastable to the scores, the entries that take part (cross-attention, causal masks).

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf). 0 where nothing takes part.

    Raises:
      ValueError: if the shapes differ or are not of four axes, ``where`` or ``variant`` does not fit, or scores are no
        floats.

    References:
      Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", 2019,
      https://arxiv.org/abs/1909.10351
    """
    check_variant(variant, ("code", "paper"))
    check_floating("student scores", student)
    check_floating("teacher scores", teacher)
    check_same_shape("scores", student, teacher, "give both models the same tokens; heads have to be as many")
    if jnp.ndim(student) != 4:
        raise ValueError(f"scores {shape_of(student)}: they have to be [batch, heads, queries, keys]")
    mask = _entries(where, jnp.shape(student))
    student, teacher = at_least_float32(student, teacher)
    if variant == "code":
        student, teacher = (jnp.where(x <= -1e2, 0, x) for x in (student, teacher))
    difference = student - teacher
    if mask is not None:
        # Selected before squaring: what is masked may be anything, and must not reach the gradient.
        difference = jnp.where(mask, difference, 0)
    return masked_mean(jnp.square(difference), mask, (1, 2, 3))


def patient_hidden(
    student: ArrayLike, teacher: ArrayLike, *, variant: str = "code", axis: int = -1, where: Where = None
) -> jax.Array:
    """Patient distillation: differences of normalised [CLS] states of several layers.

    L = mean over layers and dimensions of (h_student / ||h_student|| - h_teacher / ||h_teacher||)^2, norms over the
    dimensions of a layer (at least 1e-12). The last layer is left out; of a teacher of 12 layers and a student of 6
    the published pairs of the layers 1 to 5 are 2, 4, 6, 8, 10 ("skip") and 7 to 11 ("last").

    Variants:
      * "code" (default): that mean. Published weights, one of 10, 100, 500, 1000, go with it, beside
        (1 - a) cross-entropy + a T^2 / C KL over C classes, T one of 5, 10, 20 and a of 0.2, 0.5, 0.7.
      * "paper": the sum over layers and dimensions: their number times as much.

    The mean over the batch is the published loss, in both.

    Args:
      student: states of the [CLS] token, [batch, layers, hidden].
      teacher: states of the same shape.
      variant: "code" or "paper".
      axis: the axis of the hidden states.
      where: bool, of as many axes as [batch, layers] and broadcastable to it: the states that take part.

    Returns:
      The loss of each example, [batch], at least float32, in [0, 4 / hidden] or, in "paper", [0, 4 layers]. 0 where
      nothing takes part.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``where`` or ``variant`` does not fit, states are no floats or of
        width 1.

    References:
      Sun et al., "Patient Knowledge Distillation for BERT Model Compression", 2019, https://arxiv.org/abs/1908.09355
    """
    check_variant(variant, ("code", "paper"))
    check_map("student states", student, axis)
    check_map("teacher states", teacher, axis)
    check_same_shape("states", student, teacher, "pick as many layers of both; a connector brings them to one width")
    check_directions("states", student, axis)
    check_positions_mask(student, axis, where)
    student, teacher = at_least_float32(student, teacher)
    mask = mask_of(where, student, axis)
    student, teacher = (l2_normalize(x, axis) for x in selected(mask, student, teacher))
    squares = jnp.square(student - teacher)
    axes = (*spatial_axes(squares, axis), axis % squares.ndim)
    # Masked states are equal, both 0.
    return jnp.sum(squares, axes) if variant == "paper" else masked_mean(squares, mask, axes)


def _check_pair(whose: str, pair: Sequence[ArrayLike], relation_heads: int) -> None:
    """Raises ValueError unless it is two arrays [batch, length, hidden] that split into so many heads."""
    if len(pair) != 2:
        raise ValueError(f"{whose}_pair holds {len(pair)}: it has to be two arrays, such as (query, key)")
    check_floating(f"{whose} tokens", *pair)
    first, second = pair
    if jnp.shape(first) != jnp.shape(second) or jnp.ndim(first) != 3:
        raise ValueError(
            f"{whose}_pair is {shape_of(first)} and {shape_of(second)}: both have to be [batch, length, hidden] "
            "of one shape; join the heads into one axis"
        )
    if relation_heads < 1 or jnp.shape(first)[2] % relation_heads:
        raise ValueError(
            f"relation_heads is {relation_heads}, {whose} tokens {shape_of(first)}: it has to divide the hidden axis"
        )


def _scores(pair: Sequence[jax.Array], heads: int, where: jax.Array | None) -> jax.Array:
    """Scaled products [batch, heads, queries, keys], of zeros where a token does not take part."""
    first, second = pair
    if where is not None:
        first, second = (jnp.where(where[..., None], x, 0) for x in (first, second))
    width = first.shape[-1] // heads
    first, second = (x.reshape(*x.shape[:2], heads, width) for x in (first, second))
    return jnp.einsum("bqhd,bkhd->bhqk", first * (1 / math.sqrt(width)), second, precision="highest")


def _entries(where: Where, shape: Sequence[int]) -> Where:
    """A mask of tokens, or of entries, as one that broadcasts to the scores."""
    if where is None:
        return None
    if jnp.ndim(where) not in (2, 4):
        raise ValueError(
            f"where {shape_of(where)}, scores [{','.join(map(str, shape))}]: it has to be [batch, length], of tokens, "
            "or [batch, heads, queries, keys], of entries (1 for what is shared)"
        )
    if jnp.ndim(where) == 4:
        check_where(where, shape, "scores")
        return where
    if shape[2] != shape[3]:
        raise ValueError(
            f"where {shape_of(where)} is of tokens, but scores [{','.join(map(str, shape))}] have other queries than "
            "keys: give one of entries, [batch, 1, queries, keys]"
        )
    check_where(where, (shape[0], shape[2]), "tokens")
    tokens = jnp.asarray(where)
    return tokens[:, None, :, None] & tokens[:, None, None, :]
