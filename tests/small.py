"""Small data, networks and objectives for the tests of training; nothing here is drawn but from fixed seeds."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from jaxkd.data import Batches, from_arrays
from jaxkd.models import MLP
from jaxkd.networks import from_linen, from_nnx
from jaxkd.objectives import Objective, Taps, Term

CLASSES = 5


def examples(n=48, size=4, labelled=0.4, seed=0):
    """Random images; most labels are missing, so that devices and micro-batches have unequal counts of them."""
    rng = np.random.default_rng(seed)
    label = np.where(rng.random(n) < labelled, rng.integers(0, CLASSES, n), -1)
    image = rng.integers(0, 256, (n, size, size, 1), dtype=np.uint8)
    return from_arrays("noise", "train", image, label, tuple("abcde"))


def batches(batch_size=16, *, seed=0, process_index=0, process_count=1, **of_examples):
    of_process = {"process_index": process_index, "process_count": process_count}
    return Batches(examples(**of_examples), batch_size, seed=seed, **of_process)


def mlp(*widths, dropout=0.0):
    return from_linen(MLP(widths, CLASSES, dropout))


class LinenConv(nn.Module):
    """No bias before BatchNorm: its gradient would be rounding noise, which Adam scales up."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name, name="norm")(x))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class NnxConv(nnx.Module):
    def __init__(self, axis_name, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, axis_name=axis_name, rngs=rngs)
        self.dense = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.dense(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def conv(library, axis_name=None):
    """A convolution, BatchNorm (tap ``"norm"``) and a classifier."""
    if library == "linen":
        return from_linen(LinenConv(axis_name))
    return from_nnx(lambda rngs: NnxConv(axis_name, rngs))


def similarity():
    """A relational objective: the Gram matrix of the teacher's logits, over the valid examples of the global batch."""

    def apply(variables, signals):
        student, teacher = signals.student.logits, signals.teacher.logits
        where = signals.batch.get("where", jnp.ones(len(student), bool))
        if signals.axis_name is not None:
            student, teacher, where = (
                jax.lax.all_gather(x, signals.axis_name, tiled=True) for x in (student, teacher, where)
            )
        pairs = where[:, None] & where[None, :]
        squares = jnp.square(student @ student.T - teacher @ teacher.T)
        return {"similarity": Term(1.0, jnp.sum(jnp.where(pairs, squares, 0)) / jnp.sum(pairs), jnp.ones(()))}, {}, {}

    return Objective(Taps(), lambda key, signals: {}, apply)


def noisy(variables, batch, keys):
    """Noise from the keys of the examples, and a third of them padding."""
    noise = jax.vmap(lambda key: jax.random.normal(key, batch["image"].shape[1:]))(keys)
    return {**batch, "image": batch["image"] + 0.1 * noise, "where": batch["index"] % 3 != 0}


def assert_close(a, b, tolerance=1e-5):
    """Trees of arrays (PRNG keys among them) agree, relative to 1 or to what is larger."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(
            as_numpy(x), as_numpy(y), rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path)
        )


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        x, y = as_numpy(x), as_numpy(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), jax.tree_util.keystr(path)


def as_numpy(x):
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)
