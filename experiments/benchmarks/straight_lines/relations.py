"""Losses that relate the examples of a batch."""

import jax
import jax.numpy as jnp
import optax

from ._line import Line


def relational_distance(student, teacher):
    def relative(x):
        squares = jnp.sum(x**2, 1)
        squared = squares[:, None] + squares - 2 * x @ x.T
        # No square root of the diagonal, whose derivative there is none.
        distances = jnp.sqrt(jnp.maximum(squared, 1e-12)) * (1 - jnp.eye(len(x)))
        return distances * len(x) * (len(x) - 1) / jnp.sum(distances)

    return jnp.mean(optax.losses.huber_loss(relative(student), relative(teacher)))


def relational_angle(student, teacher):
    def cosines(x):
        differences = x - x[:, None]
        units = differences / jnp.sqrt(jnp.sum(differences**2, -1, keepdims=True) + 1e-12)
        return units @ units.swapaxes(1, 2)

    return jnp.mean(optax.losses.huber_loss(cosines(student), cosines(teacher)))


def similarity_preserving(student, teacher):
    s, t = (x @ x.T for x in (student, teacher))
    s, t = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (s, t))
    return jnp.mean((s - t) ** 2)


def correlation_congruence(student, teacher):
    delta = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(delta[:-1] * delta[1:], 1))


def probabilistic_transfer(student, teacher):
    def probabilities(x):
        x = x / (jnp.linalg.norm(x, axis=1, keepdims=True) + 1e-7)
        similarities = (x @ x.T + 1) / 2
        return similarities / jnp.sum(similarities, 1, keepdims=True)

    q, p = probabilities(student), probabilities(teacher)
    return jnp.mean(p * jnp.log((p + 1e-7) / (q + 1e-7)))


def contrastive_representation(
    student, teacher, student_keys, teacher_keys, student_normalizer, teacher_normalizer, population, temperature
):
    noise = student_keys.shape[1] / population

    def one_way(anchor, positive, keys, normalizer):
        own = jnp.exp(jnp.sum(anchor * positive, -1) / temperature) / normalizer
        others = jnp.exp(jnp.einsum("nd,nkd->nk", anchor, keys) / temperature) / normalizer
        of_negatives = jnp.sum(jnp.log(noise / (others + noise + 1e-7)), 1)
        return -jnp.log(own / (own + noise + 1e-7)) - of_negatives

    of_student = one_way(student, teacher, teacher_keys, student_normalizer)
    return of_student + one_way(teacher, student, student_keys, teacher_normalizer)


def info_nce(student, teacher, temperature):
    s, t = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher))
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(s @ t.T / temperature)))


def clip_affinity(student_image, student_text, teacher_image, teacher_text, student_scale, teacher_scale):
    arrays = student_image, student_text, teacher_image, teacher_text
    s_image, s_text, t_image, t_text = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in arrays)
    student, teacher = student_scale * s_image @ s_text.T, teacher_scale * t_image @ t_text.T

    def one_way(axis):
        log_q, log_p = jax.nn.log_softmax(student, axis), jax.nn.log_softmax(teacher, axis)
        return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis))

    return (one_way(0) + one_way(1)) / 2


PAIR = ("embedding", "embedding")
LINES = (
    Line(relational_distance, PAIR),
    # All triplets at once: of a batch for which there is memory.
    Line(relational_angle, ((64, 128), (64, 128))),
    Line(similarity_preserving, PAIR),
    Line(correlation_congruence, PAIR),
    Line(probabilistic_transfer, PAIR),
    Line(
        contrastive_representation,
        ((64, 128), (64, 128), (64, 512, 128), (64, 512, 128)),
        {"student_normalizer": 5e4, "teacher_normalizer": 5e4, "population": 50_000, "temperature": 10.0},
    ),
    Line(info_nce, PAIR, {"temperature": 0.07}),
    Line(clip_affinity, PAIR + PAIR, {"student_scale": 20.0, "teacher_scale": 50.0}),
)
