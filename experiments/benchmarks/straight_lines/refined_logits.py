"""Losses on logits that refine the distillation loss."""

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, log_softmax, logsumexp, sigmoid, softmax

from ._line import Line

NOTHING = -1e9


def own_of(x, labels):
    return jnp.take_along_axis(x, labels[..., None], -1)[..., 0]


def without_own(x, labels):
    return jnp.where(labels[..., None] == jnp.arange(x.shape[-1]), NOTHING, x)


def decoupled_kd(student, teacher, labels, temperature, alpha, beta):
    student, teacher = student / temperature, teacher / temperature
    others_of_student, others_of_teacher = without_own(student, labels), without_own(teacher, labels)
    log_q, log_p = log_softmax(others_of_student), log_softmax(others_of_teacher)
    s = own_of(student, labels) - logsumexp(others_of_student, -1)
    t = own_of(teacher, labels) - logsumexp(others_of_teacher, -1)
    of_target = sigmoid(t) * (log_sigmoid(t) - log_sigmoid(s)) + sigmoid(-t) * (log_sigmoid(-t) - log_sigmoid(-s))
    of_others = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    return temperature**2 * (alpha * of_target + beta * of_others)


def normalized_kd(student, teacher, labels, temperature, gamma):
    of_target = own_of(softmax(teacher), labels) * own_of(log_softmax(student), labels)
    p = softmax(without_own(teacher, labels) / temperature)
    log_q = log_softmax(without_own(student, labels) / temperature)
    return -of_target - gamma * temperature**2 * jnp.sum(p * log_q, -1)


def scale_decoupled_kd(student, teacher, labels, temperature, alpha, beta):
    labels = jnp.broadcast_to(labels[:, None], student.shape[:-1])
    values = decoupled_kd(student, teacher, labels, temperature, alpha, beta)
    right = jnp.argmax(teacher, -1) == labels
    return jnp.mean(jnp.where(right == right[:, :1], 1, 2) * values, -1)


def region_means(features, grids):
    batch, height, width, channels = features.shape
    cells = jnp.mean(features.reshape(batch, 4, height // 4, 4, width // 4, channels), (2, 4))
    grouped = [cells.reshape(batch, n, 4 // n, n, 4 // n, channels) for n in grids]
    return jnp.concatenate([jnp.mean(x, (2, 4)).reshape(batch, -1, channels) for x in grouped], 1)


def dist(student, teacher, temperature, beta, gamma):
    def distance(x, y):
        x, y = x - jnp.mean(x, -1, keepdims=True), y - jnp.mean(y, -1, keepdims=True)
        norms = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
        return 1 - jnp.mean(jnp.sum(x * y, -1) / (norms + 1e-8))

    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * (beta * distance(p, q) + gamma * distance(p.T, q.T))


def multi_level_kd(student, teacher, temperatures):
    total = 0
    for temperature in temperatures:
        log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
        p, q = jnp.exp(log_p), jnp.exp(log_q)
        total += temperature**2 * jnp.mean(jnp.sum(p * (log_p - log_q), -1))
        total += jnp.sum((p @ p.T - q @ q.T) ** 2) / p.shape[0]
        total += jnp.sum((p.T @ p - q.T @ q) ** 2) / p.shape[1]
    return total


def weighted_soft_label(student, teacher, labels, temperature):
    of_student, of_teacher = (-own_of(log_softmax(jax.lax.stop_gradient(x)), labels) for x in (student, teacher))
    weight = 1 - jnp.exp(-of_student / (of_teacher + 1e-7))
    p, log_q = softmax(teacher / temperature), log_softmax(student / temperature)
    return -(temperature**2) * weight * jnp.sum(p * log_q, -1)


def one_for_all(student, teacher, labels, exponent, temperature):
    own = labels[:, None] == jnp.arange(student.shape[-1])
    enhanced = (softmax(teacher / temperature) + own) ** exponent - own
    return -jnp.sum(enhanced * log_softmax(student / temperature), -1)


def teacher_free(student, labels, temperature):
    classes = student.shape[-1]
    virtual = jnp.where(labels[:, None] == jnp.arange(classes), 0.99, 0.01 / (classes - 1))
    log_p, log_q = log_softmax(jnp.log(virtual) / temperature), log_softmax(student / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def standardize_logits(logits):
    centred = logits - jnp.mean(logits, -1, keepdims=True)
    variance = jnp.sum(jnp.square(centred), -1, keepdims=True) / (logits.shape[-1] - 1)
    return centred / (1e-7 + jnp.sqrt(variance))


def transformed_teacher_matching(student, teacher, exponent):
    log_p, log_q = log_softmax(exponent * teacher), log_softmax(student)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


PAIR, LABELLED = ("logits", "logits"), ("logits", "logits", "labels")
REGIONS, SMALL = (512, 5, 1000), (256, 100)
DECOUPLED = {"temperature": 4.0, "alpha": 1.0, "beta": 8.0}

LINES = (
    Line(decoupled_kd, LABELLED, DECOUPLED),
    Line(normalized_kd, LABELLED, {"temperature": 1.0, "gamma": 1.5}),
    Line(normalized_kd, LABELLED, {"temperature": 3.0, "gamma": 3.5}),
    Line(scale_decoupled_kd, (REGIONS, REGIONS, "labels"), DECOUPLED),
    Line(region_means, ("map",), {"grids": (1, 2, 4)}),
    Line(dist, PAIR, {"temperature": 4.0, "beta": 1.0, "gamma": 1.0}),
    Line(multi_level_kd, (SMALL, SMALL), {"temperatures": (2.0, 3.0, 4.0, 5.0, 6.0)}),
    Line(weighted_soft_label, LABELLED, {"temperature": 2.0}),
    Line(one_for_all, LABELLED, {"exponent": 1.0, "temperature": 1.0}),
    Line(one_for_all, LABELLED, {"exponent": 1.5, "temperature": 1.0}),
    Line(teacher_free, ("logits", "labels"), {"temperature": 20.0}),
    Line(standardize_logits, ("logits",)),
    Line(transformed_teacher_matching, PAIR, {"exponent": 0.1}),
)
