"""Names of the CIFAR-100 tables' code: those that the golden arrays were made with (``make_golden``)."""

import pytest
from flax.traverse_util import flatten_dict

from jaxkd.models.pretrained._names import source

from . import golden, make_golden


@pytest.mark.parametrize("family", golden.MODELS)
def test_names_are_those_that_the_published_code_took(family):
    module = golden.MODELS[family]
    for path in flatten_dict(golden.variables(family)):
        assert source(module, path[1:]).name == make_golden.torch_name(family, "/".join(path))
