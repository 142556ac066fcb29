"""Divergences of two softmaxes and targets made of the teacher's logits, one example and one class at a time."""

import math

import numpy as np

from ._common import each, softmax


def kl(p, q):
    """Of two lists of probabilities; what p gives nothing adds nothing."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total += a * (math.log(a) - math.log(b))
    return total


def entropy_against(p, q):
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            total -= a * math.log(b)
    return total


def mixed(share, p, q):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def of_probabilities(loss, student, teacher, where, temperature=1.0):
    """``loss(p, q)`` of every example, p of the teacher and q of the student; 0 where nothing takes part."""

    def of_row(student, teacher, valid):
        if not valid:
            return 0.0
        q, p = softmax(student, temperature, valid), softmax(teacher, temperature, valid)
        return loss([p[c] for c in valid], [q[c] for c in valid])

    return each(of_row, where, student, teacher)


def soft_cross_entropy(student, teacher, *, temperature=1.0, where=None):
    return temperature**2 * of_probabilities(entropy_against, student, teacher, where, temperature)


def reverse_kl(student, teacher, *, temperature=1.0, where=None):
    return temperature**2 * of_probabilities(lambda p, q: kl(q, p), student, teacher, where, temperature)


def generalized_jsd(student, teacher, *, beta=0.5, temperature=1.0, scaled=False, where=None):
    def loss(p, q):
        if beta == 0:
            return kl(p, q)
        if beta == 1:
            return kl(q, p)
        m = mixed(beta, p, q)
        value = beta * kl(p, m) + (1 - beta) * kl(q, m)
        return value / (beta * (1 - beta)) if scaled else value

    return of_probabilities(loss, student, teacher, where, temperature)


def skew_kl(student, teacher, *, alpha=0.1, variant="paper", where=None):
    def loss(p, q):
        m = mixed(alpha, p, q)
        return kl(p, m) if variant == "paper" else entropy_against(p, m)

    return of_probabilities(loss, student, teacher, where)


def skew_reverse_kl(student, teacher, *, alpha=0.1, variant="paper", frozen=None, where=None):
    """``frozen``: the student of the mixture, where it is another than the one that is trained."""
    if frozen is None:
        return of_probabilities(lambda p, q: kl(q, mixed(alpha, q, p)), student, teacher, where)

    def of_row(student, teacher, frozen, valid):
        q, p, f = softmax(student), softmax(teacher), softmax(frozen)
        return kl(q, mixed(alpha, f, p))

    return each(of_row, None, student, teacher, frozen)


def total_variation(student, teacher, *, where=None):
    def loss(p, q):
        return sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2

    return of_probabilities(loss, student, teacher, where)


def alpha_beta_divergence(student, teacher, *, alpha=0.5, beta=0.5, temperature=1.0, variant="continuous", where=None):
    a, b = alpha, beta

    def loss(p, q):
        total = 0.0
        for x, y in zip(p, q, strict=True):
            if a == 0 and b == 0:
                total += (math.log(y) - math.log(x)) ** 2 / 2
            elif b == 0:
                total += (x**a * math.log(x**a / y**a) - x**a + y**a) / (a if variant == "code" else a * a)
            elif a == 0:
                total += (y**b * math.log(y**b / x**b) - y**b + x**b) / (b if variant == "code" else b * b)
            elif a + b == 0:
                total += (math.log(y**a / x**a) + x**a / y**a - 1) / (a if variant == "code" else a * a)
            else:
                bracket = x**a * y**b - a / (a + b) * x ** (a + b) - b / (a + b) * y ** (a + b)
                total -= bracket / (a * b)
        return total

    return of_probabilities(loss, student, teacher, where, temperature)


def head_weight(p, q, mu):
    """What the forward divergence of AKL counts."""
    order = sorted(range(len(p)), key=lambda c: -p[c])
    head, cumulative = [], 0.0
    for place, c in enumerate(order):
        cumulative += p[c]
        if place == 0 or cumulative <= mu:
            head.append(c)
    of_head = sum(abs(p[c] - q[c]) for c in head)
    everything = sum(abs(a - b) for a, b in zip(p, q, strict=True))
    return of_head / everything if everything > 0 else 0.5


def adaptive_kl(student, teacher, *, mu=0.5, where=None):
    def loss(p, q):
        weight = head_weight(p, q, mu)
        return weight * kl(p, q) + (1 - weight) * kl(q, p)

    return of_probabilities(loss, student, teacher, where)


def interpolated_teacher(student, teacher, *, u, variant="code", frozen=None, where=None):
    """``frozen``: the student of the target, where it is another than the one that is trained."""

    def of_row(student, teacher, frozen, valid):
        if not valid:
            return 0.0
        target = [(1 - u) * s + u * t for s, t in zip(frozen, teacher, strict=True)]
        r, q = softmax(target, 1.0, valid), softmax(student, 1.0, valid)
        r, q = [r[c] for c in valid], [q[c] for c in valid]
        return kl(r, q) if variant == "kl" else entropy_against(r, q)

    return each(of_row, where, student, teacher, student if frozen is None else frozen)


def binary_soft_label(student, teacher, *, where=None):
    def log_sigmoid(x):
        return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))

    def of_row(student, teacher, valid):
        total = 0.0
        for c in valid:
            for sign in (1, -1):
                log_p, log_q = log_sigmoid(sign * teacher[c]), log_sigmoid(sign * student[c])
                total += math.exp(log_p) * (log_p - log_q)
        return total

    return each(of_row, where, student, teacher)


def logit_mse(student, teacher, *, where=None):
    def of_row(student, teacher, valid):
        return sum((student[c] - teacher[c]) ** 2 for c in valid) / max(len(valid), 1)

    return each(of_row, where, student, teacher)


def margin_mse(student, teacher, *, where=None):
    def of_row(student, teacher, valid):
        others = [c for c in valid if c > 0]
        if 0 not in valid or not others:
            return 0.0
        total = 0.0
        for c in others:
            total += ((student[0] - student[c]) - (teacher[0] - teacher[c])) ** 2
        return total / len(others)

    return each(of_row, where, student, teacher)


def listwise_kl(student, teacher, *, temperature=1.0, where=None):
    return temperature**2 * of_probabilities(kl, student, teacher, where, temperature)


def hard_teacher_label(student, teacher, *, where=None):
    def of_row(student, teacher, valid):
        if not valid:
            return 0.0
        best = valid[0]
        for c in valid:
            if teacher[c] > teacher[best]:
                best = c
        return -math.log(softmax(student, 1.0, valid)[best])

    return each(of_row, where, student, teacher)


def universal_logit(student, teacher, *, student_temperature=1.0, teacher_temperature=1.0):
    def of_row(student, teacher, valid):
        q = sorted(softmax(student, student_temperature), reverse=True)
        p = sorted(softmax(teacher, teacher_temperature), reverse=True)
        total = 0.0
        for k in range(max(len(q), len(p))):
            total += abs((q[k] if k < len(q) else 0.0) - (p[k] if k < len(p) else 0.0))
        return total

    return each(of_row, None, student, teacher)


def centered_self_distillation(
    student, teacher, center, *, student_temperature=0.1, teacher_temperature=0.04, where=None
):
    def of_row(student, teacher, center, valid):
        moved = [t - c for t, c in zip(teacher, center, strict=True)]
        p, q = softmax(moved, teacher_temperature, valid), softmax(student, student_temperature, valid)
        return entropy_against([p[c] for c in valid], [q[c] for c in valid])

    return each(of_row, where, student, teacher, np.broadcast_to(center, np.shape(student)))
