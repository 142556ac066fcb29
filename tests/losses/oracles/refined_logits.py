"""Refined losses on logits, one example and one class at a time. Classes are the last axis."""

import math

import numpy as np

from ._common import each, examples, softmax


def _kl(p, q):
    return sum(p[c] * (math.log(p[c]) - math.log(q[c])) for c in range(len(p)) if p[c] > 0)


def _soft_ce(p, q):
    return -sum(p[c] * math.log(q[c]) for c in range(len(p)) if p[c] > 0)


def _without(valid, label):
    return [c for c in valid if c != label]


def decoupled_kd(student_logits, teacher_logits, labels, *, temperature=4.0, alpha=1.0, beta=8.0, where=None):
    def of_row(student, teacher, label, valid):
        if label not in valid:
            return 0.0
        p, q = softmax(teacher, temperature, valid), softmax(student, temperature, valid)
        tckd = _kl(
            [p[label], sum(p[c] for c in _without(valid, label))], [q[label], sum(q[c] for c in _without(valid, label))]
        )
        p_rest = softmax(teacher, temperature, _without(valid, label))
        q_rest = softmax(student, temperature, _without(valid, label))
        return temperature**2 * (alpha * tckd + beta * _kl(p_rest, q_rest))

    return each(of_row, where, student_logits, teacher_logits, labels)


def normalized_kd(student_logits, teacher_logits, labels, *, temperature=1.0, gamma=1.5, where=None):
    def of_row(student, teacher, label, valid):
        if label not in valid:
            return 0.0
        p, q = softmax(teacher, 1.0, valid), softmax(student, 1.0, valid)
        p_rest = softmax(teacher, temperature, _without(valid, label))
        q_rest = softmax(student, temperature, _without(valid, label))
        return -p[label] * math.log(q[label]) + gamma * temperature**2 * _soft_ce(p_rest, q_rest)

    return each(of_row, where, student_logits, teacher_logits, labels)


def scale_decoupled_kd(student_logits, teacher_logits, labels, *, temperature=4.0, alpha=1.0, beta=8.0, where=None):
    """Logits [..., regions, classes]; the first region is the whole image."""
    student_logits, teacher_logits, labels = map(np.asarray, (student_logits, teacher_logits, labels))
    result = np.zeros(labels.shape)
    for i in np.ndindex(labels.shape):
        student, teacher = student_logits[i], teacher_logits[i]
        masks = None if where is None else np.broadcast_to(where, student_logits.shape)[i]
        right = []
        for r in range(len(teacher)):
            valid = [c for c in range(teacher.shape[1]) if masks is None or masks[r][c]]
            right.append(max(valid, key=lambda c, r=r: teacher[r][c]) == labels[i])
        for r in range(len(teacher)):
            mask = None if masks is None else masks[r : r + 1]
            one = decoupled_kd(
                student[r : r + 1],
                teacher[r : r + 1],
                [labels[i]],
                temperature=temperature,
                alpha=alpha,
                beta=beta,
                where=mask,
            )
            result[i] += (1 if right[r] == right[0] else 2) * one[0] / len(teacher)
    return result


def region_means(features, *, grids=(1, 2, 4)):
    """Of maps [batch, height, width, channels]: the mean of each cell of each grid, computed from those of 4 x 4."""

    def mean_of_cell(x, n, i, j):
        # The cells of torch's adaptive pooling: rounded outwards, so that they overlap where n does not divide.
        rows = range(i * len(x) // n, -(-(i + 1) * len(x) // n))
        columns = range(j * len(x[0]) // n, -(-(j + 1) * len(x[0]) // n))
        return sum(x[h][w] for h in rows for w in columns) / (len(rows) * len(columns))

    def pool(x, n):
        return [[mean_of_cell(x, n, i, j) for j in range(n)] for i in range(n)]

    result = []
    for x in np.asarray(features, np.float64):
        finest = pool(x, max(4, *grids))
        result.append([cell for n in grids for row in pool(finest, n) for cell in row])
    return np.array(result)


def standardize_logits(logits, *, eps=1e-7, where=None):
    def of_row(row, valid):
        if not valid:
            return [0.0] * len(row)
        mean = sum(row[c] for c in valid) / len(valid)
        variance = sum((row[c] - mean) ** 2 for c in valid) / max(len(valid) - 1, 1)
        return [(row[c] - mean) / (math.sqrt(variance) + eps) if c in valid else 0.0 for c in range(len(row))]

    return each(of_row, where, logits, keeps_axis=True)


def transformed_teacher_matching(student_logits, teacher_logits, *, exponent=0.1, variant="ttm", where=None):
    def of_row(student, teacher, valid):
        powers = [p**exponent if p > 0 else 0.0 for p in softmax(teacher, 1.0, valid)]
        total = sum(powers)
        if not total:
            return 0.0
        divergence = _kl([x / total for x in powers], softmax(student, 1.0, valid))
        return divergence if variant == "ttm" else total * divergence

    return each(of_row, where, student_logits, teacher_logits)


def weighted_soft_label(student_logits, teacher_logits, labels, *, temperature=2.0, weights_of=None, where=None):
    """``weights_of``: the logits of student and teacher that the weights are of, where these are to be constants."""
    student_of_weights, teacher_of_weights = weights_of or (student_logits, teacher_logits)

    def of_row(student, teacher, label, s, t, valid):
        if label not in valid:
            return 0.0
        of_student, of_teacher = (-math.log(softmax(x, 1.0, valid)[label]) for x in (s, t))
        weight = 1 - math.exp(-max(of_student / (of_teacher + 1e-7), 0.0))
        p, q = softmax(teacher, temperature, valid), softmax(student, temperature, valid)
        return weight * temperature**2 * _soft_ce(p, q)

    return each(of_row, where, student_logits, teacher_logits, labels, student_of_weights, teacher_of_weights)


def one_for_all(student_logits, teacher_logits, labels, *, exponent=1.0, temperature=1.0, where=None):
    def of_row(student, teacher, label, valid):
        if label not in valid:
            return 0.0
        p, q = softmax(teacher, temperature, valid), softmax(student, temperature, valid)
        total = 0.0
        for c in valid:
            target = 1.0 if c == label else 0.0
            total -= ((p[c] + target) ** exponent - target) * math.log(q[c])
        return total

    return each(of_row, where, student_logits, teacher_logits, labels)


def teacher_free(logits, labels, *, temperature=20.0, confidence=0.99, variant="paper", where=None):
    def of_row(student, label, valid):
        if label not in valid:
            return 0.0
        u = [confidence if c == label else (1 - confidence) / (len(valid) - 1) for c in range(len(student))]
        if variant == "code":
            return _kl(softmax(u, temperature, valid), softmax(student, 1.0, valid)) / len(valid)
        powers = [u[c] ** (1 / temperature) if c in valid else 0.0 for c in range(len(u))]
        softened = [x / sum(powers) for x in powers]
        return temperature**2 * _kl(softened, softmax(student, temperature, valid))

    return each(of_row, where, logits, labels)


def _correlation(x, y):
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    norm_x = math.sqrt(sum((a - mean_x) ** 2 for a in x))
    norm_y = math.sqrt(sum((b - mean_y) ** 2 for b in y))
    return product / (norm_x * norm_y + 1e-8)


def _softmaxes(logits, temperature):
    return [softmax(row, temperature) for row in np.asarray(logits).tolist()]


def dist(student_logits, teacher_logits, *, temperature=1.0, beta=1.0, gamma=1.0, where=None):
    student, teacher = examples(where, student_logits, teacher_logits)
    if not len(student):
        return 0.0
    P, Q = _softmaxes(teacher, temperature), _softmaxes(student, temperature)
    inter = [1 - _correlation(p, q) for p, q in zip(P, Q, strict=True)]
    classes = range(len(P[0]))
    intra = [1 - _correlation([p[c] for p in P], [q[c] for q in Q]) for c in classes]
    if len(P) < 2:
        intra = [0.0]
    return temperature**2 * (beta * sum(inter) / len(inter) + gamma * sum(intra) / len(intra))


def multi_level_kd(
    student_logits, teacher_logits, *, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), variant="paper", where=None
):
    student, teacher = examples(where, student_logits, teacher_logits)
    n, classes = student.shape
    if n == 0:
        return 0.0
    of_examples = of_classes = 0.0
    for temperature in temperatures:
        P, Q = _softmaxes(teacher, temperature), _softmaxes(student, temperature)
        of_examples += temperature**2 * sum(_kl(p, q) for p, q in zip(P, Q, strict=True)) / n
        for i in range(n):
            for j in range(n):
                gap = sum(P[i][c] * P[j][c] for c in range(classes)) - sum(Q[i][c] * Q[j][c] for c in range(classes))
                of_examples += gap**2 / n
        for c in range(classes):
            for d in range(classes):
                gap = sum(P[i][c] * P[i][d] for i in range(n)) - sum(Q[i][c] * Q[i][d] for i in range(n))
                of_classes += gap**2 / classes
    if variant == "code":
        p = _softmaxes(teacher, 1.0)
        surest = [max(row) for row in p]
        totals = [sum(row[c] for row in p) for c in range(classes)]
        of_examples *= np.mean([x <= np.percentile(surest, 50) for x in surest])
        of_classes *= np.mean([x <= np.percentile(totals, 50) for x in totals])
    return of_examples + of_classes
