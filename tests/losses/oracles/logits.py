"""Losses on logits, one example and one class at a time. Classes are the last axis."""

import math

from ._common import each, softmax


def softmax_with_temperature(logits, *, temperature=1.0, where=None):
    return each(lambda row, valid: softmax(row, temperature, valid), where, logits, keeps_axis=True)


def soft_label_kl(student_logits, teacher_logits, *, temperature=4.0, where=None):
    def of_row(student, teacher, valid):
        q = softmax(student, temperature, valid)
        p = softmax(teacher, temperature, valid)
        total = 0.0
        for c in valid:
            if p[c] > 0:
                total += p[c] * (math.log(p[c]) - math.log(q[c]))
        return temperature**2 * total

    return each(of_row, where, student_logits, teacher_logits)


def cross_entropy(logits, labels, *, where=None):
    def of_row(row, label, valid):
        return 0.0 if label < 0 else -math.log(softmax(row, 1.0, valid)[label])

    return each(of_row, where, logits, labels)


def distillation_loss(student_logits, teacher_logits, labels, *, temperature=3.0, alpha=0.5, where=None):
    soft = soft_label_kl(student_logits, teacher_logits, temperature=temperature, where=where)
    return alpha * soft + (1 - alpha) * cross_entropy(student_logits, labels, where=where)
