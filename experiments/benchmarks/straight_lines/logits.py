"""Losses on logits."""

import jax
import jax.numpy as jnp

from ._line import Line


def softmax_with_temperature(logits, temperature):
    return jax.nn.softmax(logits / temperature)


def soft_label_kl(student, teacher, temperature):
    log_q = jax.nn.log_softmax(student / temperature)
    log_p = jax.nn.log_softmax(teacher / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def cross_entropy(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def distillation_loss(student, teacher, labels, temperature, alpha):
    soft = soft_label_kl(student, teacher, temperature)
    return alpha * soft + (1 - alpha) * cross_entropy(student, labels)


LINES = (
    Line(softmax_with_temperature, ("logits",), {"temperature": 4.0}),
    Line(soft_label_kl, ("logits", "logits"), {"temperature": 4.0}),
    Line(cross_entropy, ("logits", "labels")),
    Line(distillation_loss, ("logits", "logits", "labels"), {"temperature": 4.0, "alpha": 0.5}),
)
