"""Losses on correlations of features, on directions and norms."""

import jax.numpy as jnp

from ._line import Line


def cosine_embedding(student, teacher):
    norms = jnp.sqrt((jnp.sum(student**2, -1) + 1e-12) * (jnp.sum(teacher**2, -1) + 1e-12))
    return 1 - jnp.sum(student * teacher, -1) / norms


def pearson_feature(student, teacher):
    def standardized(x):
        return (x - jnp.mean(x, (0, 1, 2))) / (jnp.std(x, (0, 1, 2), ddof=1) + 1e-6)

    return jnp.mean((standardized(student) - standardized(teacher)) ** 2) / 2


def inter_channel_correlation(student, teacher):
    def correlations(x):
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        products = jnp.einsum("npi,npj->nij", x, x)
        return products / jnp.linalg.norm(products, axis=2, keepdims=True)

    return jnp.sum((correlations(student) - correlations(teacher)) ** 2, (1, 2)) / student.shape[-1]


def singular_value(student_before, student_after, teacher_before, teacher_after):
    def aligned(student, teacher):
        s, t = (jnp.linalg.svd(x.reshape(len(x), -1, x.shape[-1]), full_matrices=False)[2] for x in (student, teacher))
        candidates, vector = s[:, :4], t[:, 0] * jnp.sign(jnp.sum(t[:, 0], 1, keepdims=True))
        cosines = jnp.einsum("bmc,bc->bm", candidates, vector)
        best = jnp.argmax(jnp.abs(cosines), 1)
        rows = jnp.arange(len(best))
        return candidates[rows, best] * jnp.sign(cosines[rows, best])[:, None], vector

    def kernel(after, before):
        return jnp.exp(-((after[:, :, None] - before[:, None]) ** 2) / 8)

    pairs = zip(aligned(student_after, teacher_after), aligned(student_before, teacher_before), strict=True)
    of_student, of_teacher = (kernel(*pair) for pair in pairs)
    return jnp.sum((of_student - of_teacher) ** 2, (1, 2))


def projected_log_error(student, teacher):
    def standardized(x):
        return (x - jnp.mean(x, 0)) / jnp.sqrt(jnp.var(x, 0) + 1e-4)

    return jnp.log(jnp.sum((standardized(student) - standardized(teacher)) ** 4) + 1e-12)


def norm_and_direction(student, teacher, labels, centers):
    center = centers[labels]
    along = jnp.sum(student * center, -1) / jnp.linalg.norm(center, axis=-1)
    longest = jnp.maximum(jnp.linalg.norm(student, axis=-1), jnp.linalg.norm(teacher, axis=-1))
    return 1 - along / longest


def class_activation(student, teacher):
    s, t = (x / jnp.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (student, teacher))
    return jnp.mean((s - t) ** 2, (1, 2, 3))


def cka(student, teacher):
    s, t = (x - jnp.mean(x, 0) for x in (student, teacher))
    s, t = s @ s.T, t @ t.T
    return 1 - jnp.sum(s * t) / (jnp.linalg.norm(s) * jnp.linalg.norm(t))


MAPS = ("map", "map")
LINES = (
    Line(cosine_embedding, ("embedding", "embedding")),
    Line(pearson_feature, MAPS),
    Line(inter_channel_correlation, MAPS),
    Line(
        singular_value,
        ((32, 8, 8, 32), (32, 4, 4, 48), (32, 8, 8, 32), (32, 4, 4, 48)),
        pack=lambda *maps: (maps[:2], maps[2:]),
    ),
    Line(projected_log_error, ("embedding", "embedding")),
    Line(norm_and_direction, ((512, 128), (512, 128), "labels", (1000, 128))),
    Line(class_activation, MAPS),
    # More features than examples, as by products of examples it is cheap.
    Line(cka, ((128, 512), (128, 512))),
)
