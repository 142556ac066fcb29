"""What the tests on real images share."""

import functools

import pytest

from . import on_digits


@pytest.fixture(scope="session")
def digits():
    """See ``on_digits.read``."""
    return on_digits.read()


@pytest.fixture(scope="session")
def frozen(digits):
    """``frozen(kind)``: the teacher's variables."""
    return functools.cache(lambda kind: on_digits.teach(kind, digits[1]["all"]))
