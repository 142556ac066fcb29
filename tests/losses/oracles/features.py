"""Losses on features. Channels are the last axis."""

from ._common import each


def hint(student, teacher, *, where=None):
    def of_row(student, teacher, valid):
        total = 0.0
        for i in valid:
            total += (student[i] - teacher[i]) ** 2
        return total / len(valid) if valid else 0.0

    return each(of_row, where, student, teacher)
