"""Divergences of two softmaxes, targets made of the teacher's logits, losses of rankers."""

import jax
import jax.numpy as jnp

from ._line import Line
from .logits import soft_label_kl


def soft_cross_entropy(student, teacher, temperature):
    log_q = jax.nn.log_softmax(student / temperature)
    return -(temperature**2) * jnp.sum(jax.nn.softmax(teacher / temperature) * log_q, -1)


def reverse_kl(student, teacher, temperature):
    return soft_label_kl(teacher, student, temperature)


def generalized_jsd(student, teacher, beta):
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    log_m = jnp.log(beta * p + (1 - beta) * q)
    return jnp.sum(beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m), -1)


def skew_kl(student, teacher, alpha):
    log_p = jax.nn.log_softmax(teacher)
    p, q = jnp.exp(log_p), jax.nn.softmax(student)
    return jnp.sum(p * (log_p - jnp.log(alpha * p + (1 - alpha) * q)), -1)


def skew_reverse_kl(student, teacher, alpha):
    return skew_kl(teacher, student, alpha)


def total_variation(student, teacher):
    return 0.5 * jnp.sum(jnp.abs(jax.nn.softmax(student) - jax.nn.softmax(teacher)), -1)


def alpha_beta_divergence(student, teacher, alpha, beta):
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    both, total = jnp.exp(alpha * log_p + beta * log_q), alpha + beta
    own = (alpha * jnp.exp(total * log_p) + beta * jnp.exp(total * log_q)) / total
    return jnp.sum(own - both, -1) / (alpha * beta)


def adaptive_kl(student, teacher):
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    order = jnp.argsort(-jax.lax.stop_gradient(p))
    ordered_p, ordered_q = (jnp.take_along_axis(jax.lax.stop_gradient(x), order, -1) for x in (p, q))
    gaps, head = jnp.abs(ordered_p - ordered_q), (jnp.cumsum(ordered_p, -1) <= 0.5).at[:, 0].set(True)
    weight = jnp.sum(gaps * head, -1) / jnp.sum(gaps, -1)
    forward, reverse = jnp.sum(p * (log_p - log_q), -1), jnp.sum(q * (log_q - log_p), -1)
    return weight * forward + (1 - weight) * reverse


def interpolated_teacher(student, teacher, u):
    target = jax.nn.softmax((1 - u) * jax.lax.stop_gradient(student) + u * teacher)
    return -jnp.sum(target * jax.nn.log_softmax(student), -1)


def binary_soft_label(student, teacher):
    positive = jax.nn.softplus(-student) - jax.nn.softplus(-teacher)
    negative = jax.nn.softplus(student) - jax.nn.softplus(teacher)
    p = jax.nn.sigmoid(teacher)
    return jnp.sum(p * positive + (1 - p) * negative, -1)


def logit_mse(student, teacher):
    return jnp.mean(jnp.square(student - teacher), -1)


def margin_mse(student, teacher):
    gap = student - teacher
    return jnp.mean(jnp.square(gap[:, :1] - gap[:, 1:]), -1)


def listwise_kl(student, teacher):
    return soft_label_kl(student, teacher, 1.0)


def hard_teacher_label(student, teacher):
    labels = jnp.argmax(teacher, -1, keepdims=True)
    return -jnp.take_along_axis(jax.nn.log_softmax(student), labels, 1)[:, 0]


def universal_logit(student, teacher):
    q, p = (-jnp.sort(-jax.nn.softmax(x)) for x in (student, teacher))
    return jnp.sum(jnp.abs(jnp.pad(q, ((0, 0), (0, p.shape[-1] - q.shape[-1]))) - p), -1)


def centered_self_distillation(student, teacher, center, student_temperature, teacher_temperature):
    target = jax.nn.softmax((teacher - center) / teacher_temperature)
    return -jnp.sum(target * jax.nn.log_softmax(student / student_temperature), -1)


PAIR = ("logits", "logits")

LINES = (
    Line(soft_cross_entropy, PAIR, {"temperature": 4.0}),
    Line(reverse_kl, PAIR, {"temperature": 4.0}),
    Line(generalized_jsd, PAIR, {"beta": 0.5}),
    Line(skew_kl, PAIR, {"alpha": 0.1}),
    Line(skew_reverse_kl, PAIR, {"alpha": 0.1}),
    Line(total_variation, PAIR),
    Line(alpha_beta_divergence, PAIR, {"alpha": 0.5, "beta": 0.5}),
    Line(adaptive_kl, PAIR),
    Line(interpolated_teacher, PAIR, {"u": 0.4}),
    Line(binary_soft_label, PAIR),
    Line(logit_mse, PAIR),
    Line(margin_mse, PAIR),
    Line(listwise_kl, PAIR),
    Line(hard_teacher_label, PAIR),
    Line(universal_logit, ((512, 1000), (512, 1200))),
    Line(
        centered_self_distillation,
        ("logits", "logits", (1000,)),
        {"student_temperature": 0.1, "teacher_temperature": 0.04},
    ),
)
