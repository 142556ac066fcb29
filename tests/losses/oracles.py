"""The losses as their papers have them, in float64, one example and one class at a time. Classes are the last axis."""

import math

import numpy as np


def softmax_with_temperature(logits, *, temperature=1.0, where=None):
    return _each(lambda row, valid: _softmax(row, temperature, valid), where, logits, keeps_axis=True)


def soft_label_kl(student_logits, teacher_logits, *, temperature=4.0, where=None):
    def of_row(student, teacher, valid):
        q = _softmax(student, temperature, valid)
        p = _softmax(teacher, temperature, valid)
        total = 0.0
        for c in valid:
            if p[c] > 0:
                total += p[c] * (math.log(p[c]) - math.log(q[c]))
        return temperature**2 * total

    return _each(of_row, where, student_logits, teacher_logits)


def cross_entropy(logits, labels, *, where=None):
    def of_row(row, label, valid):
        return 0.0 if label < 0 else -math.log(_softmax(row, 1.0, valid)[label])

    return _each(of_row, where, logits, labels)


def distillation_loss(student_logits, teacher_logits, labels, *, temperature=3.0, alpha=0.5, where=None):
    soft = soft_label_kl(student_logits, teacher_logits, temperature=temperature, where=where)
    return alpha * soft + (1 - alpha) * cross_entropy(student_logits, labels, where=where)


def hint(student, teacher, *, where=None):
    def of_row(student, teacher, valid):
        total = 0.0
        for i in valid:
            total += (student[i] - teacher[i]) ** 2
        return total / len(valid) if valid else 0.0

    return _each(of_row, where, student, teacher)


def _softmax(row, temperature, valid):
    """A list as long as the row, with 0 for what does not take part."""
    largest = max((row[c] for c in valid), default=0.0)
    total = sum(math.exp((row[c] - largest) / temperature) for c in valid)
    return [math.exp((row[c] - largest) / temperature) / total if c in valid else 0.0 for c in range(len(row))]


def _each(of_row, where, first, *others, keeps_axis=False):
    """One example after the other: ``of_row(its row of each array, the elements of it that take part)``."""
    first = np.asarray(first, np.float64)
    result = np.zeros(first.shape if keeps_axis else first.shape[:-1])
    for i in np.ndindex(first.shape[:-1]):
        valid = [c for c in range(first.shape[-1]) if where is None or where[i][c]]
        result[i] = of_row(first[i].tolist(), *(np.asarray(x)[i].tolist() for x in others), valid)
    return result
