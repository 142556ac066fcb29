"""What the README shows runs as it stands there."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
STEPS = [block for block in BLOCKS if "def train_step" in block]


def run(block):
    """Runs a block; what it defines."""
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in STEPS], ids=lambda block: block[:20])
def test_python_blocks_run(block):
    run(block)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(32, 8)), jnp.float32), jnp.asarray(rng.integers(0, 3, 32))


def linen(step, batch):
    module = nn.Dense(3)
    student, teacher = (
        TrainState.create(
            apply_fn=module.apply, params=module.init(jax.random.key(seed), batch[0])["params"], tx=optax.adam(0.1)
        )
        for seed in range(2)
    )
    for _ in range(20):
        student, loss = step(student, teacher, *batch)
        yield loss, teacher.params


def nnx_modules(step, batch):
    student, teacher = (nnx.Linear(8, 3, rngs=nnx.Rngs(seed)) for seed in range(2))
    optimizer = nnx.Optimizer(student, optax.adam(0.1), wrt=nnx.Param)
    for _ in range(20):
        loss = step(student, optimizer, teacher, *batch)
        yield loss, teacher.kernel[...]


def jax_alone(step, batch):
    def student(params, image):
        features = jax.nn.relu(image @ params["hidden"])
        return features, features @ params["head"]

    def teacher(params, image):
        return jnp.tanh(image @ params), None

    draw = jax.random.normal
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"hidden": draw(keys[0], (8, 4)), "head": draw(keys[1], (4, 3))}
    of_teacher = draw(keys[2], (8, 16))
    for _ in range(20):
        params, loss = step(student, teacher, params, of_teacher, *batch)
        yield loss, of_teacher


@pytest.mark.parametrize(
    ("library", "train"), [("Flax Linen", linen), ("Flax NNX", nnx_modules), ("JAX alone", jax_alone)]
)
def test_steps_train_the_student_and_not_the_teacher(library, train, batch):
    (block,) = [block for block in STEPS if f"# {library}:" in block]
    assert set(re.findall(r"jaxkd[\w.]*", block)) == {"jaxkd.losses"}, "no more than the losses"
    steps = train(run(block)["train_step"], batch)
    history = [(float(loss), jax.tree.map(np.asarray, teacher)) for loss, teacher in steps]
    assert np.isfinite([loss for loss, _ in history]).all()
    assert history[-1][0] < 0.9 * history[0][0]
    jax.tree.map(np.testing.assert_array_equal, history[0][1], history[-1][1])


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) < 100
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
