"""Losses on maps, one example and one position at a time. Channels are the last axis."""

import itertools
import math

import numpy as np

from ._common import positions


def adaptive_average_pool(x, sizes):
    """A map [batch, *spatial, channels] averaged to ``sizes``, bin by bin."""
    x = np.asarray(x, np.float64)
    result = np.zeros((x.shape[0], *sizes, x.shape[-1]))
    for n in range(len(x)):
        for at in np.ndindex(*sizes):
            inside = _bin(at, sizes, x.shape[1:-1])
            result[n][at] = [sum(float(x[n][i][c]) for i in inside) / len(inside) for c in range(x.shape[-1])]
    return result


def attention_map(features, *, variant="code", where=None):
    features = np.asarray(features, np.float64)
    result = np.zeros(features.shape[:-1])
    for n, rows in enumerate(positions(features, where)):
        taken = [at for at in np.ndindex(features.shape[1:-1]) if where is None or where[n][at]]
        for at, value in zip(taken, _attention(rows, variant), strict=True):
            result[n][at] = value
    return result


def attention_transfer(student, teacher, *, variant="code", where=None):
    def of_example(student, teacher):
        total = 0.0
        for s, t in zip(_attention(student, variant), _attention(teacher, variant), strict=True):
            total += (s - t) ** 2
        return math.sqrt(total) if variant == "paper" else total / max(len(student), 1)

    return _pairs(of_example, where, *_of_one_size(student, teacher))


def neuron_selectivity(student, teacher, *, where=None):
    def of_example(student, teacher):
        if not student:
            return 0.0
        a, b = ([_unit([row[c] for row in rows]) for c in range(len(rows[0]))] for rows in (student, teacher))
        return _kernel_mean(a, a) + _kernel_mean(b, b) - 2 * _kernel_mean(a, b)

    return _pairs(of_example, where, *_of_one_size(student, teacher))


def channel_wise(student, teacher, *, temperature=4.0, where=None):
    def of_example(student, teacher):
        if not student:
            return 0.0
        total = 0.0
        for c in range(len(student[0])):
            q = _softmax([row[c] / temperature for row in student])
            p = _softmax([row[c] / temperature for row in teacher])
            for i in range(len(p)):
                if p[i] > 0:
                    total += p[i] * (math.log(p[i]) - math.log(q[i]))
        return temperature**2 * total / len(student[0])

    return _pairs(of_example, where, student, teacher)


def fsp(student_first, student_second, teacher_first, teacher_second, *, variant="code", where=None):
    networks = []
    for first, second in ((student_first, student_second), (teacher_first, teacher_second)):
        networks.append([positions(x, where) for x in _of_one_size(first, second)])
    results = []
    for n in range(len(networks[0][0])):
        matrices = []
        for first, second in networks:
            products = {}
            for i in range(np.shape(student_first)[-1]):
                for j in range(np.shape(student_second)[-1]):
                    terms = [x[i] * y[j] for x, y in zip(first[n], second[n], strict=True)]
                    products[i, j] = sum(terms) / max(len(terms), 1)
            matrices.append(products)
        total = sum((matrices[0][ij] - matrices[1][ij]) ** 2 for ij in matrices[0])
        results.append(total / len(matrices[0]) if variant == "code" else total)
    return np.array(results)


def factor_transfer(student, teacher, *, variant="code", where=None):
    def of_example(student, teacher):
        if variant == "code":
            s, t = ([value for row in rows for value in row] for rows in (student, teacher))
        else:
            s, t = ([sum(value**2 for value in row) / len(row) for row in rows] for rows in (student, teacher))
        total = sum(abs(x - y) for x, y in zip(_unit(s), _unit(t), strict=True))
        return total / max(len(s), 1)

    return _pairs(of_example, where, *_of_one_size(student, teacher))


def activation_boundary(student, teacher, *, margin=1.0, where=None):
    def of_example(student, teacher):
        total = 0.0
        for s, t in _elements(student, teacher):
            if t > 0 and s <= margin:
                total += (s - margin) ** 2
            if t <= 0 and s > -margin:
                total += (s + margin) ** 2
        return total

    return _pairs(of_example, where, student, teacher)


def overhaul(student, teacher, margin, *, where=None):
    def of_example(student, teacher):
        total = 0.0
        for s_row, t_row in zip(student, teacher, strict=True):
            for s, t, m in zip(s_row, t_row, margin, strict=True):
                # Three regions, as in the paper: fires; does not, within the margin; and below it.
                if t > 0:
                    total += (s - t) ** 2
                elif t > m:
                    total += (s - t) ** 2 if s > t else 0.0
                else:
                    total += (s - m) ** 2 if s > m else 0.0
        return total

    return _pairs(of_example, where, student, teacher)


def batch_norm_margin(scale, bias):
    scale, bias = np.asarray(scale, np.float64), np.asarray(bias, np.float64)
    result = np.zeros(scale.shape)
    for i in np.ndindex(scale.shape):
        g, b = abs(float(scale[i])), float(bias[i])
        if g == 0:
            result[i] = min(b, 0.0)
            continue
        below = 0.5 * math.erfc(b / g / math.sqrt(2))
        if below > 0.001:
            result[i] = b - g * math.exp(-((b / g) ** 2) / 2) / math.sqrt(2 * math.pi) / below
        else:
            result[i] = -3 * g
    return result


def variational_information(student, teacher, raw_variance, *, where=None):
    def of_example(student, teacher):
        total, count = 0.0, 0
        for mu_row, t_row in zip(student, teacher, strict=True):
            for mu, t, rho in zip(mu_row, t_row, raw_variance, strict=True):
                squared = math.log(1 + math.exp(rho)) + 1e-5
                total += ((mu - t) ** 2 / squared + math.log(squared)) / 2
                count += 1
        return total / max(count, 1)

    return _pairs(of_example, where, student, teacher)


def hierarchical_context(student, teacher, *, where=None):
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    shape, channels = student.shape[1:-1], student.shape[-1]
    results = []
    for n in range(len(student)):
        total, weights, weight = 0.0, 0.0, 1.0
        for size in (None, 4, 2, 1):
            if size is not None and size >= shape[0]:
                continue
            sizes = shape if size is None else (size,) * len(shape)
            squares = []
            for at in np.ndindex(*sizes):
                inside = [i for i in _bin(at, sizes, shape) if where is None or where[n][i]]
                if inside:
                    for c in range(channels):
                        s, t = (sum(float(x[n][i][c]) for i in inside) / len(inside) for x in (student, teacher))
                        squares.append((s - t) ** 2)
            total += weight * sum(squares) / max(len(squares), 1)
            weights += weight
            weight /= 2
        results.append(total / weights)
    return np.array(results)


def _bin(at, sizes, shape):
    """The positions of a map of ``shape`` that bin ``at`` of ``sizes`` holds."""
    ranges = [
        range(math.floor(i * n / size), math.ceil((i + 1) * n / size))
        for i, size, n in zip(at, sizes, shape, strict=True)
    ]
    return list(itertools.product(*ranges))


def _of_one_size(student, teacher):
    shapes = [np.shape(x)[1:-1] for x in (student, teacher)]
    if shapes[0] == shapes[1]:
        return student, teacher
    sizes = tuple(map(min, *shapes))
    return adaptive_average_pool(student, sizes), adaptive_average_pool(teacher, sizes)


def _pairs(of_example, where, student, teacher):
    """Of every example: ``of_example(the channels at its positions that count, the teacher's)``."""
    pairs = zip(positions(student, where), positions(teacher, where), strict=True)
    return np.array([of_example(s, t) for s, t in pairs])


def _elements(student, teacher):
    for s_row, t_row in zip(student, teacher, strict=True):
        yield from zip(s_row, t_row, strict=True)


def _unit(values):
    norm = max(math.sqrt(sum(v * v for v in values)), 1e-12)
    return [v / norm for v in values]


def _attention(rows, variant):
    energies = [sum(v * v for v in row) / (len(row) if variant == "code" else 1) for row in rows]
    if variant != "sum":
        return _unit(energies)
    total = sum(energies)
    return [e / total if total > 0 else 0.0 for e in energies]


def _kernel_mean(a, b):
    total = 0.0
    for x in a:
        for y in b:
            total += sum(u * v for u, v in zip(x, y, strict=True)) ** 2
    return total / (len(a) * len(b))


def _softmax(values):
    largest = max(values)
    exps = [math.exp(v - largest) for v in values]
    return [e / sum(exps) for e in exps]
