"""Losses of detectors."""

import math

import numpy as np

from ._common import softmax


def _locations(where, weights, shape):
    """Of every image: its locations that count, and their weights."""
    images = []
    for n in range(shape[0]):
        valid = [at for at in np.ndindex(shape[1:]) if where is None or where[n][at]]
        images.append([(at, 1.0 if weights is None else float(weights[n][at])) for at in valid])
    return images


def _weighted(of_location, shape, where, weights, normalizer):
    result = []
    for n, image in enumerate(_locations(where, weights, shape)):
        total = sum(w * of_location(n, at) for at, w in image)
        divisor = sum(w for _, w in image) if normalizer is None else np.broadcast_to(normalizer, shape[:1])[n]
        result.append(total / divisor if divisor else 0.0)
    return result


def class_response(student, teacher, beta=1.0, weights=None, normalizer=None, where=None):
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)

    def of_location(n, at):
        total = 0.0
        for s, t in zip(student[n][at].tolist(), teacher[n][at].tolist(), strict=True):
            q, p = 1 / (1 + math.exp(-s)), 1 / (1 + math.exp(-t))
            total -= abs(p - q) ** beta * (p * math.log(q) + (1 - p) * math.log(1 - q))
        return total

    return _weighted(of_location, student.shape[:-1], where, weights, normalizer)


def localization_kl(student, teacher, temperature=10.0, weights=None, variant="normalized", where=None):
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    *_, sides, bins = student.shape

    def of_location(n, at):
        total = 0.0
        for side in range(sides):
            q, p = (softmax(x[n][at][side].tolist(), temperature) for x in (student, teacher))
            total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) * temperature**2
        return total / sides / (bins if variant == "code" else 1)

    normalizer = 1.0 if variant == "code" else None
    return _weighted(of_location, student.shape[:-2], where, weights, normalizer)


def box_distillation(student, teacher, variant="giou", weights=None, normalizer=None, where=None):
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)

    def of_location(n, at):
        s, t = student[n][at].tolist(), teacher[n][at].tolist()
        if variant == "l1":
            return sum(abs(a - b) for a, b in zip(s, t, strict=True))
        if variant == "smooth_l1":
            apart = [abs(a - b) for a, b in zip(s, t, strict=True)]
            return sum(d - 0.5 if d > 1 else d * d / 2 for d in apart)
        areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (s, t)]
        sides = [max(min(s[i + 2], t[i + 2]) - max(s[i], t[i]), 0) for i in (0, 1)]
        union = sum(areas) - sides[0] * sides[1]
        hull = math.prod(max(s[i + 2], t[i + 2]) - min(s[i], t[i]) for i in (0, 1))
        return 1 - sides[0] * sides[1] / union + (1 - union / hull if variant == "giou" else 0)

    return _weighted(of_location, student.shape[:-1], where, weights, normalizer)


def fine_grained_imitation(student, teacher, foreground, variant="paper", where=None):
    sums, counts = _squares(student, teacher, foreground, where)
    if variant == "code":
        counts = [sum(counts) / len(counts)] * len(counts)
    return [total / (2 * count) if count else 0.0 for total, count in zip(sums, counts, strict=True)]


def decoupled_feature(student, teacher, foreground, foreground_weight, background_weight, variant="paper", where=None):
    result = np.zeros(len(student))
    for cells, weight in ((foreground, foreground_weight), (~np.asarray(foreground), background_weight)):
        terms = np.array(fine_grained_imitation(student, teacher, cells, variant, where))
        result += weight * terms / (np.shape(student)[-1] if variant == "code" else 1)
    return result


def _squares(student, teacher, cells, where):
    """Of every image: the squared differences at the cells, added up, and the number of the cells."""
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    sums, counts = [], []
    for n in range(len(student)):
        chosen = [a for a in np.ndindex(student.shape[1:-1]) if cells[n][a] and (where is None or where[n][a])]
        pairs = [zip(student[n][at].tolist(), teacher[n][at].tolist(), strict=True) for at in chosen]
        sums.append(sum((a - b) ** 2 for pair in pairs for a, b in pair))
        counts.append(len(chosen))
    return sums, counts
