"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.sub(r"\W+", "_", block.splitlines()[-1])[:30])
def test_python_blocks_run(block):
    exec(compile(block, "README.md", "exec"), {})


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 100
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
