"""Losses of detectors, channels last."""

import jax
import jax.numpy as jnp

from ._line import Line


def class_response(student, teacher):
    target = jax.nn.sigmoid(teacher)
    apart = jnp.abs(target - jax.nn.sigmoid(student))
    entropy = jnp.logaddexp(0, student) - target * student
    return jnp.mean(jnp.sum(apart * entropy, -1), (1, 2))


def localization_kl(student, teacher, temperature):
    log_q, log_p = jax.nn.log_softmax(student / temperature), jax.nn.log_softmax(teacher / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1), (1, 2))


def box_distillation(student, teacher):
    def area(box):
        return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])

    first, last = jnp.maximum(student[..., :2], teacher[..., :2]), jnp.minimum(student[..., 2:], teacher[..., 2:])
    sides = jax.nn.relu(last - first)
    shared = sides[..., 0] * sides[..., 1]
    union = area(student) + area(teacher) - shared
    first, last = jnp.minimum(student[..., :2], teacher[..., :2]), jnp.maximum(student[..., 2:], teacher[..., 2:])
    hull = area(jnp.concatenate([first, last], -1))
    return jnp.mean(2 - shared / union - union / hull, (1, 2))


def fine_grained_imitation(student, teacher, foreground):
    squares = jnp.where(foreground[..., None], (student - teacher) ** 2, 0)
    return jnp.sum(squares) / (2 * jnp.sum(foreground))


def decoupled_feature(student, teacher, foreground, foreground_weight, background_weight):
    squares = jnp.sum((student - teacher) ** 2, -1)
    a = foreground_weight / jnp.sum(foreground)
    b = background_weight / jnp.sum(~foreground)
    return jnp.sum(squares * jnp.where(foreground, a, b)) / (2 * student.shape[-1])


def focal_global(student, teacher, scales):
    def attention(x):
        h, w, c = x.shape[1:]
        spatial = h * w * jax.nn.softmax(jnp.mean(jnp.abs(x), -1) / 0.5, (1, 2))
        return spatial, c * jax.nn.softmax(jnp.mean(jnp.abs(x), (1, 2)) / 0.5, -1)

    (spatial, channel), (spatial_t, channel_t) = attention(student), attention(teacher)
    difference = (student - teacher) ** 2
    background = scales == 0
    background = background / jnp.sum(background, (1, 2), keepdims=True)
    weights = (1e-3 * scales + 5e-4 * background) * spatial_t
    focal = jnp.sum(weights[..., None] * channel_t[:, None, None] * difference, (1, 2, 3))
    apart = jnp.sum(jnp.abs(spatial - spatial_t), (1, 2)) + jnp.sum(jnp.abs(channel - channel_t), -1)
    return focal + 1e-3 * apart + 5e-6 * jnp.sum(difference, (1, 2, 3))


def object_scales(boxes, image_size, size):
    (height, width), (rows, columns) = image_size, size
    left, right = jnp.floor(boxes[..., 0] / width * columns), jnp.ceil(boxes[..., 2] / width * columns)
    top, bottom = jnp.floor(boxes[..., 1] / height * rows), jnp.ceil(boxes[..., 3] / height * rows)
    x, y = jnp.arange(columns), jnp.arange(rows)[:, None]
    left, right, top, bottom = (side[..., None, None] for side in (left, right, top, bottom))
    inside = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    return jnp.max(jnp.where(inside, 1 / ((bottom - top + 1) * (right - left + 1)), 0), 1)


PAIR = ("map", "map")

LINES = (
    Line(class_response, PAIR),
    Line(localization_kl, ((32, 64, 4, 17), (32, 64, 4, 17)), {"temperature": 10.0}),
    Line(box_distillation, ("boxes", "boxes")),
    Line(fine_grained_imitation, (*PAIR, "cells")),
    Line(decoupled_feature, (*PAIR, "cells"), {"foreground_weight": 3.0, "background_weight": 12.0}),
    Line(focal_global, (*PAIR, "scales")),
    Line(object_scales, ("objects",), {"image_size": (8, 8), "size": (50, 80)}),
)
