"""What the oracles share."""

import math

import numpy as np


def softmax(row, temperature=1.0, valid=None):
    """A list as long as the row, with 0 for what does not take part."""
    valid = range(len(row)) if valid is None else valid
    largest = max((row[c] for c in valid), default=0.0)
    total = sum(math.exp((row[c] - largest) / temperature) for c in valid)
    return [math.exp((row[c] - largest) / temperature) / total if c in valid else 0.0 for c in range(len(row))]


def each(of_row, where, first, *others, keeps_axis=False):
    """One example after the other: ``of_row(its row of each array, the elements of it that take part)``."""
    first = np.asarray(first, np.float64)
    result = np.zeros(first.shape if keeps_axis else first.shape[:-1])
    for i in np.ndindex(first.shape[:-1]):
        valid = [c for c in range(first.shape[-1]) if where is None or where[i][c]]
        result[i] = of_row(first[i].tolist(), *(np.asarray(x)[i].tolist() for x in others), valid)
    return result


def positions(x, where=None):
    """Of every example of a map [batch, ..., channels]: the list of the channel rows at the positions that count."""
    x = np.asarray(x, np.float64)
    return [
        [x[n][at].tolist() for at in np.ndindex(x.shape[1:-1]) if where is None or where[n][at]] for n in range(len(x))
    ]


def examples(where, *arrays):
    """The arrays [batch, ...] as float64, of the examples that count only."""
    arrays = [np.asarray(x, np.float64) for x in arrays]
    if where is None:
        return arrays
    return [np.stack([x[i] for i in range(len(x)) if where[i]]) if any(where) else x[:0] for x in arrays]
