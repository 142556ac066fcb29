"""What holds for the table of all losses as a whole. The battery of tests over each is ``battery.py``."""

import inspect

import pytest

from jaxkd import losses

from . import battery
from .cases import KINDS
from .families import TABLE


def test_every_public_name_is_in_the_table():
    assert {case.name for case in TABLE} == set(losses.__all__)
    tests = {name for name in vars(battery) if name.startswith("test_")}
    assert {name for case in TABLE for name in case.skip} <= tests


@pytest.mark.parametrize("name", losses.__all__)
def test_docstring_says_what_a_user_needs(name):
    text = inspect.getdoc(getattr(losses, name))
    for part in ("Args:", "Returns:", "Raises:"):
        assert part in text
    if name != "cross_entropy":
        assert "References:" in text
        assert "http" in text


def test_kinds_are_all_used():
    assert set(KINDS) >= {kind for case in TABLE for kind in case.takes if case.draw is None}
