"""Losses on transformers."""

import math

import numpy as np

from ._common import softmax


def attention_relation(student_pair, teacher_pair, relation_heads, where=None):
    student, teacher = ([np.asarray(x, np.float64).tolist() for x in pair] for pair in (student_pair, teacher_pair))
    result = []
    for n in range(len(student[0])):
        valid = [i for i in range(len(student[0][n])) if where is None or where[n][i]]
        total = 0.0
        for head in range(relation_heads):
            for query in valid:
                q, p = (
                    _relation(*(x[n] for x in pair), relation_heads, head, query, valid) for pair in (student, teacher)
                )
                total += sum(b * (math.log(b) - math.log(a)) for a, b in zip(q, p, strict=True) if b)
        result.append(total / max(relation_heads * len(valid), 1))
    return result


def _relation(first, second, heads, head, query, keys):
    """How much a token has to do with each of the others: a row of one head's softmax."""
    width = len(first[0]) // heads
    mine = range(head * width, (head + 1) * width)
    return softmax([sum(first[query][i] * second[key][i] for i in mine) / math.sqrt(width) for key in keys])


def attention_mse(student, teacher, variant="code", where=None):
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    if where is not None and np.ndim(where) == 2:
        where = [[[[q and k for k in row] for q in row]] for row in where]
    where = np.broadcast_to(True if where is None else where, student.shape)
    result = []
    for n in range(len(student)):
        total, entries = 0.0, 0
        for at in np.ndindex(student.shape[1:]):
            if where[n][at]:
                pair = student[n][at], teacher[n][at]
                a, b = (0.0 if variant == "code" and x <= -100 else x for x in pair)
                total += (a - b) ** 2
                entries += 1
        result.append(total / max(entries, 1))
    return result


def patient_hidden(student, teacher, variant="code", where=None):
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    result = []
    for n in range(len(student)):
        total, terms = 0.0, 0
        for layer in np.ndindex(student.shape[1:-1]):
            if where is None or where[n][layer]:
                pair = [x[n][layer].tolist() for x in (student, teacher)]
                a, b = ([v / max(math.sqrt(sum(w * w for w in x)), 1e-12) for v in x] for x in pair)
                total += sum((v - w) ** 2 for v, w in zip(a, b, strict=True))
                terms += len(a)
        result.append(total / max(terms, 1) if variant == "code" else total)
    return result
