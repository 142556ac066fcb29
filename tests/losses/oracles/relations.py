"""Losses that relate the examples of a batch, one pair or triplet at a time."""

import math

import numpy as np

from ._common import examples, softmax


def _rows(where, *arrays):
    """The examples that count, flattened, as lists of floats."""
    return [x.reshape(len(x), -1).tolist() if len(x) else [] for x in examples(where, *arrays)]


def _dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _unit(a, eps=1e-12):
    length = max(math.sqrt(_dot(a, a)), eps)
    return [x / length for x in a]


def _huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def relational_distance(student, teacher, *, variant="positive_pairs", where=None):
    normalised = []
    for rows in _rows(where, student, teacher):
        distances = [[math.dist(a, b) for b in rows] for a in rows]
        counted = [d for row in distances for d in row if d > 0 or variant == "all_pairs"]
        mean = sum(counted) / len(counted) if counted else 0.0
        normalised.append([d / mean if mean > 0 else 0.0 for row in distances for d in row])
    losses = [_huber(s - t) for s, t in zip(*normalised, strict=True)]
    return sum(losses) / len(losses) if losses else 0.0


def relational_angle(student, teacher, *, where=None):
    student, teacher = _rows(where, student, teacher)
    total = 0.0
    for i in range(len(student)):
        of_student, of_teacher = (
            [_unit([a - b for a, b in zip(row, rows[i], strict=True)]) for row in rows] for rows in (student, teacher)
        )
        for j in range(len(student)):
            for k in range(len(student)):
                total += _huber(_dot(of_student[j], of_student[k]) - _dot(of_teacher[j], of_teacher[k]))
    return total / max(len(student), 1) ** 3


def similarity_preserving(student, teacher, *, variant="l2_rows", where=None):
    matrices = []
    for rows in _rows(where, student, teacher):
        matrix = []
        for a in rows:
            row = [_dot(a, b) for b in rows]
            if variant == "l2_rows":
                matrix += _unit(row)
            else:
                length = max(sum(abs(x) for x in row), 1e-12)
                matrix += [x / length for x in row]
        matrices.append(matrix)
    return sum((t - s) ** 2 for s, t in zip(*matrices, strict=True)) / max(len(matrices[0]), 1)


def correlation_congruence(student, teacher, *, variant="adjacent", gamma=0.4, order=2, where=None):
    student, teacher = _rows(where, student, teacher)
    count = len(student)
    if variant == "adjacent":
        deltas = [[abs(a - b) for a, b in zip(s, t, strict=True)] for s, t in zip(student, teacher, strict=True)]
        return sum(_dot(deltas[n], deltas[n + 1]) for n in range(count - 1)) / max(count - 1, 1)

    def kernel(a, b):
        product = _dot(a, b)
        return sum(math.exp(-2 * gamma) * (2 * gamma * product) ** p / math.factorial(p) for p in range(order + 1))

    total = 0.0
    for i in range(count):
        for j in range(count):
            total += (kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2
    return (total if variant == "kernel" else math.sqrt(total)) / max(count, 1) ** 2


def probabilistic_transfer(student, teacher, *, where=None):
    eps = 1e-7
    tables = []
    for rows in _rows(where, student, teacher):
        divided = [[x / (math.sqrt(_dot(row, row)) + eps) for x in row] for row in rows]
        table = []
        for a in divided:
            similar = [(_dot(a, b) + 1) / 2 for b in divided]
            table += [x / sum(similar) for x in similar]
        tables.append(table)
    student, teacher = tables
    total = sum(p * math.log((p + eps) / (q + eps)) for q, p in zip(student, teacher, strict=True))
    return total / max(len(student), 1)


def contrastive_representation(
    student,
    teacher,
    student_negatives,
    teacher_negatives,
    *,
    student_normalizer,
    teacher_normalizer,
    population,
    temperature=0.07,
    student_positive=None,
    teacher_positive=None,
    where=None,
):
    student, teacher, student_negatives, teacher_negatives = (
        np.asarray(x, np.float64) for x in (student, teacher, student_negatives, teacher_negatives)
    )
    student_positive = student if student_positive is None else np.asarray(student_positive, np.float64)
    teacher_positive = teacher if teacher_positive is None else np.asarray(teacher_positive, np.float64)
    losses = np.zeros(student.shape[:-1])
    for n in np.ndindex(losses.shape):
        for anchors, positives, negatives, normalizer in (
            (student, teacher_positive, teacher_negatives, student_normalizer),
            (teacher, student_positive, student_negatives, teacher_normalizer),
        ):
            keys = (negatives if negatives.ndim == 2 else negatives[n]).tolist()
            keys = [key for k, key in enumerate(keys) if where is None or where[n][k]]
            if not keys:
                continue
            noise = len(keys) / population
            anchor = anchors[n].tolist()
            p = math.exp(_dot(anchor, positives[n].tolist()) / temperature) / normalizer
            losses[n] -= math.log(p / (p + noise + 1e-7))
            for key in keys:
                p = math.exp(_dot(anchor, key) / temperature) / normalizer
                losses[n] -= math.log(noise / (p + noise + 1e-7))
    return losses


def info_nce(student, teacher, temperature=0.07, *, where=None):
    student, teacher = _rows(where, student, teacher)
    keys = [_unit(row) for row in teacher]
    total = 0.0
    for i, row in enumerate(student):
        total -= math.log(softmax([_dot(_unit(row), key) for key in keys], temperature)[i])
    return total / max(len(student), 1)


def clip_affinity(
    student_image,
    student_text,
    teacher_image,
    teacher_text,
    *,
    student_scale,
    teacher_scale,
    variant="kl",
    where=None,
):
    images = _rows(where, student_image, teacher_image)
    texts = _rows(where, student_text, teacher_text)
    count = len(images[0])
    total = 0.0
    for queries, keys in ((images, texts), (texts, images)):
        for i in range(count):
            q, p = (
                softmax([scale * _dot(_unit(one[i]), _unit(key)) for key in other])
                for one, other, scale in zip(queries, keys, (student_scale, teacher_scale), strict=True)
            )
            for j in range(count):
                total -= p[j] * math.log(q[j])
                if variant == "kl":
                    total += p[j] * math.log(p[j])
    return total / 2 / max(count, 1)
