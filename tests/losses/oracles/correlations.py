"""Correlations of features: over a batch, over channels, over layers. Channels are the last axis."""

import itertools
import math

import numpy as np

from ._common import each, examples, positions


def _dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def _unit(x, eps=1e-12):
    norm = max(math.sqrt(_dot(x, x)), eps)
    return [a / norm for a in x]


def cosine_embedding(student, teacher, *, where=None):
    def of_row(student, teacher, valid):
        s, t = [student[i] for i in valid], [teacher[i] for i in valid]
        return 1 - _dot(s, t) / math.sqrt((_dot(s, s) + 1e-12) * (_dot(t, t) + 1e-12)) if valid else 0.0

    return each(of_row, where, student, teacher)


def norm_and_direction(student, teacher, labels, centers, *, where=None):
    centers = np.asarray(centers, np.float64).tolist()

    def of_row(student, teacher, label, valid):
        if label < 0 or not valid:
            return 0.0
        s, t, center = ([x[i] for i in valid] for x in (student, teacher, centers[label]))
        return 1 - _dot(s, _unit(center)) / max(math.sqrt(_dot(s, s)), math.sqrt(_dot(t, t)))

    return each(of_row, where, student, teacher, labels)


def pearson_feature(student, teacher, *, where=None):
    """``where`` of positions, or of examples."""
    if where is not None and np.ndim(where) == 1:
        where = np.broadcast_to(np.reshape(where, (-1,) + (1,) * (np.ndim(student) - 2)), np.shape(student)[:-1])
    rows = [[row for of_example in positions(x, where) for row in of_example] for x in (student, teacher)]
    count, channels = len(rows[0]), np.shape(student)[-1]
    total = 0.0
    for c in range(channels):
        standardized = []
        for x in rows:
            column = [row[c] for row in x]
            mean = sum(column) / max(count, 1)
            std = math.sqrt(sum((a - mean) ** 2 for a in column) / max(count - 1, 1))
            standardized.append([(a - mean) / (std + 1e-6) for a in column])
        for a, b in zip(*standardized, strict=True):
            total += (a - b) ** 2 / 2
    return total / max(count, 1) / channels


def projected_log_error(student, teacher, *, variant="difference", where=None):
    student, teacher = examples(where, student, teacher)
    count, dim = student.shape
    if count == 0:
        return 0.0
    total = 0.0
    for d in range(dim):
        standardized = []
        for x in (student, teacher):
            column = x[:, d].tolist()
            mean = sum(column) / count
            variance = sum((a - mean) ** 2 for a in column) / count
            scale = math.sqrt(variance + (1e-4 if variant == "difference" else 0))
            standardized.append([(a - mean) / scale if scale else 0.0 for a in column])
        if variant == "difference":
            total += sum((a - b) ** 4 for a, b in zip(*standardized, strict=True))
        else:
            total += (1 - _dot(*standardized) / count) ** 4
    return math.log(total + (1e-12 if variant == "difference" else 1e-5))


def cka(student, teacher, *, where=None):
    """In terms of features, where the library has it in terms of examples."""
    student, teacher = examples(where, student, teacher)
    if len(student) == 0:
        return 0.0
    columns = []
    for x in (student, teacher):
        x = x.reshape(len(x), -1)
        columns.append([(c - sum(c) / len(c)).tolist() for c in x.T])

    def squared_norm_of_product(x, y):
        return sum(_dot(a, b) ** 2 for a in x for b in y)

    s, t = columns
    norms = math.sqrt(squared_norm_of_product(s, s) * squared_norm_of_product(t, t))
    return 1 - squared_norm_of_product(s, t) / norms


def inter_channel_correlation(student, teacher, *, variant="cifar", where=None):
    values = []
    for s, t in zip(positions(student, where), positions(teacher, where), strict=True):
        channels, total = np.shape(student)[-1], 0.0
        for i in range(channels):
            rows = [_unit([sum(p[i] * p[j] for p in x) for j in range(channels)]) for x in (s, t)]
            total += sum((a - b) ** 2 for a, b in zip(*rows, strict=True))
        values.append(total / channels)
    return np.array(values) / (len(values) if variant == "imagenet" else 1)


def class_activation(student, teacher, *, variant="normalized", where=None):
    values = []
    for s, t in zip(positions(student, where), positions(teacher, where), strict=True):
        classes, total = np.shape(student)[-1], 0.0
        for c in range(classes):
            maps = [[p[c] for p in x] for x in (s, t)]
            if variant == "normalized":
                maps = [_unit(x) for x in maps]
            total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
        values.append(total / (classes * max(len(s), 1)))
    return np.array(values)


def singular_value(student, teacher, *, k=1, where=None):
    def leading(rows, n):
        """Singular values and right vectors, by way of the eigenvectors of the product of channels."""
        x = np.array(rows)
        values, vectors = np.linalg.eigh(x.T @ x)
        order = np.argsort(values)[::-1][: min(n, *x.shape)]
        return [math.sqrt(max(values[i], 0.0)) for i in order], [vectors[:, i].tolist() for i in order]

    layers = []
    for s, t in zip(student, teacher, strict=True):
        of_examples = []
        for s_rows, t_rows in zip(positions(s, where), positions(t, where), strict=True):
            if not s_rows:
                of_examples.append(None)
                continue
            _, candidates = leading(s_rows, k + 3)
            values, vectors = leading(t_rows, k)
            chosen, aligned = [], []
            for scale, v in zip(_unit(values), vectors, strict=True):
                v = [-a for a in v] if sum(v) < 0 else v
                nearest = max(candidates, key=lambda u: abs(_dot(u, v)))
                sign = -1 if _dot(nearest, v) < 0 else 1
                chosen.append([scale * sign * a for a in nearest])
                aligned.append([scale * a for a in v])
            of_examples.append((chosen, aligned))
        layers.append(of_examples)
    result = np.zeros(len(layers[0]))
    for before, after in itertools.pairwise(layers):
        for n in range(len(result)):
            if before[n] is None:
                continue
            for m in range(k):
                (s_before, t_before), (s_after, t_after) = ([x[m] for x in layer[n]] for layer in (before, after))
                for i in range(len(s_after)):
                    for j in range(len(s_before)):
                        of_student = math.exp(-((s_after[i] - s_before[j]) ** 2) / 8)
                        of_teacher = math.exp(-((t_after[i] - t_before[j]) ** 2) / 8)
                        result[n] += (of_student - of_teacher) ** 2
    return result
