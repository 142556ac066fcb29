"""Losses on transformers."""

import jax.numpy as jnp
from jax.nn import log_softmax

from ._line import Line


def attention_relation(query, key, teacher_query, teacher_key, relation_heads):
    def relation(a, b):
        a, b = (x.reshape(*x.shape[:2], relation_heads, -1) for x in (a, b))
        return log_softmax(jnp.einsum("bqhd,bkhd->bhqk", a, b) / a.shape[-1] ** 0.5)

    log_q, log_p = relation(query, key), relation(teacher_query, teacher_key)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1), (1, 2))


def attention_mse(student, teacher):
    student, teacher = (jnp.where(x <= -100, 0, x) for x in (student, teacher))
    return jnp.mean(jnp.square(student - teacher), (1, 2, 3))


def patient_hidden(student, teacher):
    student, teacher = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (student, teacher))
    return jnp.mean(jnp.square(student - teacher), (1, 2))


TOKENS, SCORES, STATES = (8, 128, 384), (8, 12, 128, 128), (64, 5, 768)

LINES = (
    Line(
        attention_relation,
        (TOKENS,) * 4,
        {"relation_heads": 12},
        pack=lambda query, key, *teacher: ((query, key), teacher),
    ),
    Line(attention_mse, (SCORES, SCORES)),
    Line(patient_hidden, (STATES, STATES)),
)
