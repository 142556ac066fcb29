"""Losses on maps, channels last."""

import jax
import jax.numpy as jnp

from ._line import Line

CHANNELS = 64


def attention_map(features):
    energy = jnp.mean(features**2, -1)
    return energy / jnp.linalg.norm(energy, axis=(1, 2), keepdims=True)


def attention_transfer(student, teacher):
    return jnp.mean((attention_map(student) - attention_map(teacher)) ** 2, (1, 2))


def neuron_selectivity(student, teacher):
    s, t = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in (student, teacher))
    s, t = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    ss, tt, st = (jnp.einsum("npi,npj->nij", x, y) ** 2 for x, y in ((s, s), (t, t), (s, t)))
    return jnp.mean(ss, (1, 2)) + jnp.mean(tt, (1, 2)) - 2 * jnp.mean(st, (1, 2))


def channel_wise(student, teacher, temperature):
    s, t = (x.reshape(x.shape[0], -1, x.shape[-1]) / temperature for x in (student, teacher))
    log_q, log_p = jax.nn.log_softmax(s, 1), jax.nn.log_softmax(t, 1)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), 1), -1)


def fsp(student_first, student_second, teacher_first, teacher_second):
    def flow(first, second):
        x, y = (z.reshape(z.shape[0], -1, z.shape[-1]) for z in (first, second))
        return jnp.einsum("npi,npj->nij", x, y) / x.shape[1]

    return jnp.mean((flow(student_first, student_second) - flow(teacher_first, teacher_second)) ** 2, (1, 2))


def factor_transfer(student, teacher):
    s, t = (x.reshape(x.shape[0], -1) for x in (student, teacher))
    s, t = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    return jnp.mean(jnp.abs(s - t), 1)


def activation_boundary(student, teacher):
    missing = jnp.where(teacher > 0, 1 - student, 1 + student)
    return jnp.sum(jax.nn.relu(missing) ** 2, (1, 2, 3))


def overhaul(student, teacher, margin):
    target = jnp.maximum(teacher, margin)
    counts = (student > target) | (target > 0)
    return jnp.sum(jnp.where(counts, (student - target) ** 2, 0), (1, 2, 3))


def batch_norm_margin(scale, bias):
    deviation = jnp.abs(scale)
    z = bias / deviation
    below = jax.scipy.stats.norm.cdf(-z)
    mean = bias - deviation * jax.scipy.stats.norm.pdf(z) / jnp.maximum(below, 0.001)
    return jnp.where(below > 0.001, mean, -3 * deviation)


def variational_information(student, teacher, raw_variance):
    variance = jax.nn.softplus(raw_variance) + 1e-5
    return jnp.mean((student - teacher) ** 2 / variance + jnp.log(variance), (1, 2, 3)) / 2


def hierarchical_context(student, teacher):
    difference = student - teacher
    total, weight = jnp.mean(difference**2, (1, 2, 3)), 1.0
    n, height, width, channels = difference.shape
    for size in (4, 2, 1):
        weight /= 2
        bins = difference.reshape(n, size, height // size, size, width // size, channels)
        total += weight * jnp.mean(jnp.mean(bins, (2, 4)) ** 2, (1, 2, 3))
    return total / 1.875


PAIR = ("map", "map")

LINES = (
    Line(attention_map, ("map",)),
    Line(attention_transfer, PAIR),
    Line(neuron_selectivity, PAIR),
    Line(channel_wise, PAIR, {"temperature": 4.0}),
    Line(fsp, PAIR + PAIR),
    Line(factor_transfer, PAIR),
    Line(activation_boundary, PAIR),
    Line(overhaul, (*PAIR, (CHANNELS,))),
    Line(batch_norm_margin, ((CHANNELS,), (CHANNELS,))),
    Line(variational_information, (*PAIR, (CHANNELS,))),
    Line(hierarchical_context, PAIR),
)
