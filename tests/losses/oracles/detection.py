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


def fine_grained_imitation(student, teacher, foreground, where=None):
    total, count = _squares(student, teacher, foreground, where)
    return total / (2 * count) if count else 0.0


def decoupled_feature(student, teacher, foreground, foreground_weight, background_weight, variant="code", where=None):
    result = 0.0
    for cells, weight in ((foreground, foreground_weight), (~np.asarray(foreground), background_weight)):
        result += weight * fine_grained_imitation(student, teacher, cells, where)
    return result / (np.shape(student)[-1] if variant == "code" else 1)


def focal_global(
    student,
    teacher,
    scales,
    student_context=None,
    teacher_context=None,
    temperature=0.5,
    foreground_weight=1e-3,
    background_weight=5e-4,
    attention_weight=1e-3,
    relation_weight=5e-6,
    where=None,
):
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    channels = student.shape[-1]
    contexts = [np.zeros((len(student), channels)) if u is None else u for u in (student_context, teacher_context)]
    result = []
    for n in range(len(student)):
        valid = [at for at in np.ndindex(student.shape[1:-1]) if where is None or where[n][at]]
        if not valid:
            result.append(0.0)
            continue
        s, t = ([x[n][at].tolist() for at in valid] for x in (student, teacher))
        (spatial_s, channel_s), (spatial_t, channel_t) = (_attention(x, temperature) for x in (s, t))
        on_objects = [float(scales[n][at]) for at in valid]
        beside = sum(m == 0 for m in on_objects)
        total = 0.0
        for p, m in enumerate(on_objects):
            weight = foreground_weight * m if m else background_weight / beside
            for c in range(channels):
                total += weight * spatial_t[p] * channel_t[c] * (s[p][c] - t[p][c]) ** 2
                related = s[p][c] + contexts[0][n][c] - t[p][c] - contexts[1][n][c]
                total += relation_weight * related**2
        total += attention_weight * sum(abs(a - b) for a, b in zip(spatial_s, spatial_t, strict=True))
        total += attention_weight * sum(abs(a - b) for a, b in zip(channel_s, channel_t, strict=True))
        result.append(total)
    return result


def _attention(rows, temperature):
    """Of the rows of channels of an image's positions: the attention over positions, and over channels."""
    positions, channels = len(rows), len(rows[0])
    of_positions = [sum(map(abs, row)) / channels for row in rows]
    of_channels = [sum(abs(row[c]) for row in rows) / positions for c in range(channels)]
    return [positions * p for p in softmax(of_positions, temperature)], [
        channels * p for p in softmax(of_channels, temperature)
    ]


def object_scales(boxes, image_size, size):
    boxes = np.asarray(boxes, np.float64)
    result = np.zeros((len(boxes), *size))
    for n, image in enumerate(boxes.tolist()):
        height, width = np.broadcast_to(image_size, (len(boxes), 2))[n].tolist()
        for x1, y1, x2, y2 in image:
            if x2 <= x1 or y2 <= y1:
                continue
            left, right = math.floor(x1 / width * size[1]), math.ceil(x2 / width * size[1])
            top, bottom = math.floor(y1 / height * size[0]), math.ceil(y2 / height * size[0])
            for i in range(top, bottom + 1):
                for j in range(left, right + 1):
                    if 0 <= i < size[0] and 0 <= j < size[1]:
                        area = (bottom - top + 1) * (right - left + 1)
                        result[n][i][j] = max(result[n][i][j], 1 / area)
    return result


def _squares(student, teacher, cells, where):
    """The squared differences at the cells of all images, added up, and the number of the cells."""
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    total, count = 0.0, 0
    for n in range(len(student)):
        chosen = [a for a in np.ndindex(student.shape[1:-1]) if cells[n][a] and _takes_part(where, n, a)]
        pairs = [zip(student[n][at].tolist(), teacher[n][at].tolist(), strict=True) for at in chosen]
        total += sum((a - b) ** 2 for pair in pairs for a, b in pair)
        count += len(chosen)
    return total, count


def _takes_part(where, n, at):
    """Whether a position does, by the flags of all positions or of the images."""
    return where is None or bool(np.asarray(where[n]) if np.ndim(where) == 1 else where[n][at])
