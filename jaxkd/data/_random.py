"""Random words and permutations that are the same on every machine and with every NumPy."""

import numpy as np

# What they are for: the same seed gives unrelated ones for unrelated uses.
ORDER, LABELS, SPLIT, PAIRS = range(4)


def words(n: int, seed: int, count: int, use: int) -> np.ndarray:
    """``n`` words of Philox, keyed by ``(seed, count)``, a pure function of its arguments: uint64 [n]."""
    return np.random.Philox(key=np.array([seed, count], np.uint64), counter=[0, 0, 0, use]).random_raw(n)


def permutation(n: int, seed: int, *, epoch: int = 0, use: int = ORDER) -> np.ndarray:
    """A permutation of ``range(n)``, a pure function of its arguments: int32 [n].

    The ranks of ``n`` words, keyed by ``(seed, epoch)``. NumPy promises never to change the words of a bit
    generator; it promises no such thing for ``Generator.permutation``, and a resumed run must find the order it left.
    """
    return np.argsort(words(n, seed, epoch, use), kind="stable").astype(np.int32)


def check_seed(seed: int) -> None:
    """Raises ValueError unless ``seed`` fits the generator's key."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}: it has to be in [0, 2**64)")
