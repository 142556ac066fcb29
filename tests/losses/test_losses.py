"""One battery over every loss. A new loss enters by a line of the table and an oracle."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses

from . import oracles


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A loss, what it takes ("logits", "features": student first, then teacher; "labels"), and its parameters.

    ``not_zero`` says why it is not 0 where the student equals the teacher. A distribution keeps the axis of classes.
    """

    name: str
    takes: tuple[str, ...]
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    not_zero: str = ""
    keeps_axis: bool = False

    @property
    def eager(self) -> Callable[..., jax.Array]:
        return functools.partial(getattr(losses, self.name), **self.parameters)

    @functools.cached_property
    def loss(self) -> Callable[..., jax.Array]:
        return jax.jit(self.eager, static_argnames="axis")

    def oracle(self, *arrays: Any, where: Any = None) -> np.ndarray:
        return getattr(oracles, self.name)(*arrays, **self.parameters, where=where)

    @functools.cached_property
    def value_and_gradients(self) -> Callable[..., tuple[jax.Array, list[jax.Array]]]:
        """The loss, and the gradients of its sum after ``weighted``."""

        def weighted_sum(*arrays, where):
            values = self.eager(*arrays, where=where)
            return jnp.sum(weighted(values)), values

        @jax.jit
        def compute(arrays, where):
            gradients, values = jax.grad(weighted_sum, floating(self), has_aux=True)(*arrays, where=where)
            return values, list(gradients)

        return compute


def weighted(values):
    """Values with weights of their own: the sum of a distribution would have no gradient."""
    return values * np.cos(np.arange(values.size)).reshape(values.shape)


TABLE = (
    Case("cross_entropy", ("logits", "labels"), not_zero="it has no teacher"),
    Case("distillation_loss", ("logits", "logits", "labels"), {"temperature": 3.0, "alpha": 0.3}, "its hard part"),
    Case("hint", ("features", "features")),
    Case("soft_label_kl", ("logits", "logits"), {"temperature": 4.0}),
    Case("softmax_with_temperature", ("logits",), {"temperature": 2.0}, "it is no loss", keeps_axis=True),
)
every_loss = pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)

DIM = 7


def inputs(case, *shape, seed=0, dtype=np.float64, labels_below=DIM):
    """Random arguments: logits and features [*shape, DIM], labels [*shape], of which some are missing."""
    rng = np.random.default_rng(seed)
    drawn = []
    for kind in case.takes:
        if kind == "labels":
            labels = rng.integers(0, labels_below, shape)
            drawn.append(np.where(rng.random(shape) < 0.3, -1, labels).astype(np.int32))
        else:
            drawn.append((3 * rng.standard_normal((*shape, DIM))).astype(dtype))
    return drawn


def floating(case):
    return [i for i, kind in enumerate(case.takes) if kind != "labels"]


def test_every_public_name_is_in_the_table():
    assert {case.name for case in TABLE} == set(losses.__all__)


@every_loss
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_agrees_with_the_oracle(case, shape):
    arrays = inputs(case, *shape)
    expected = case.oracle(*arrays)
    with jax.enable_x64(True):
        in_double = case.loss(*arrays)
        assert in_double.dtype == jnp.float64
        np.testing.assert_allclose(in_double, expected, rtol=1e-10, atol=1e-10)
    in_single = case.loss(*inputs(case, *shape, dtype=np.float32))
    assert in_single.dtype == jnp.float32
    np.testing.assert_allclose(in_single, expected, rtol=1e-5, atol=1e-6)


@every_loss
def test_gradient_agrees_with_differences_of_the_oracle(case):
    arrays = inputs(case, 3)
    with jax.enable_x64(True):
        _, gradients = case.value_and_gradients(arrays, None)
    for i, gradient in zip(floating(case), map(np.asarray, gradients), strict=True):
        for at in np.ndindex(arrays[i].shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [x.copy() for x in arrays]
                moved[i][at] += step
                sides.append(np.sum(weighted(case.oracle(*moved))))
            assert abs((sides[0] - sides[1]) / 2e-5 - gradient[at]) < 1e-6


@every_loss
def test_bfloat16_is_computed_in_float32(case):
    arrays = [jnp.asarray(x, jnp.bfloat16) if x.dtype == np.float64 else x for x in inputs(case, 4)]
    raised = [x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in arrays]
    assert case.loss(*arrays).dtype == jnp.float32
    # To the last bit or so, as the compiler fuses the two differently; bfloat16 would be off by 1 part in 256.
    np.testing.assert_allclose(case.loss(*arrays), case.loss(*raised), rtol=1e-6)


@every_loss
def test_transformations(case):
    arrays = inputs(case, 8, 2, dtype=np.float32)
    expected = np.stack([case.eager(*(x[i] for x in arrays)) for i in range(8)])
    for transformed in (case.eager, case.loss, jax.vmap(case.loss), jax.pmap(case.loss)):
        np.testing.assert_allclose(transformed(*arrays), expected, rtol=1e-5, atol=1e-6)


@every_loss
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_axis_is_moveaxis(case, axis):
    arrays = inputs(case, 3, 4, dtype=np.float32)
    expected = np.asarray(case.loss(*arrays))
    if case.keeps_axis:
        expected = np.moveaxis(expected, -1, axis)
    moved = [np.moveaxis(x, -1, axis) if i in floating(case) else x for i, x in enumerate(arrays)]
    np.testing.assert_allclose(case.loss(*moved, axis=axis), expected, rtol=1e-6, atol=1e-6)


@every_loss
def test_where_is_dropping_and_nan_stays_under_it(case):
    arrays = inputs(case, 4, dtype=np.float32, labels_below=2)
    where = np.ones((4, DIM), bool)
    for row, dropped in enumerate(((2, 3), (3, 5), (2, 6), (5, 6))):  # never the classes of the labels
        where[row, dropped] = False
    spoilt = [np.where(where, x, np.nan) if i in floating(case) else x for i, x in enumerate(arrays)]
    values, gradients = case.value_and_gradients(spoilt, where)
    kept = [x[where].reshape(4, DIM - 2) if i in floating(case) else x for i, x in enumerate(arrays)]
    np.testing.assert_allclose(values, case.oracle(*arrays, where=where), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values[where] if case.keeps_axis else values, np.ravel(case.loss(*kept)), rtol=1e-5)

    def sum_of_kept(*kept):
        padded = jnp.zeros(values.shape).at[where if case.keeps_axis else ...].set(case.eager(*kept).reshape(-1))
        return jnp.sum(weighted(padded))

    for gradient, expected in zip(gradients, jax.jit(jax.grad(sum_of_kept, floating(case)))(*kept), strict=True):
        assert not gradient[~where].any()
        np.testing.assert_allclose(gradient[where], expected.reshape(-1), rtol=1e-5, atol=1e-6)


@every_loss
def test_where_broadcasts(case):
    arrays = inputs(case, 4, dtype=np.float32, labels_below=2)
    where = np.arange(DIM) < 4
    whole = case.loss(*arrays, where=np.broadcast_to(where, (4, DIM)))
    np.testing.assert_array_equal(case.loss(*arrays, where=where), whole)


@every_loss
def test_examples_are_independent_of_their_order(case):
    arrays = inputs(case, 6, dtype=np.float32)
    order = np.random.default_rng(1).permutation(6)
    permuted = np.asarray(case.loss(*(x[order] for x in arrays)))
    np.testing.assert_allclose(permuted, np.asarray(case.loss(*arrays))[order], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", [c for c in TABLE if not c.not_zero], ids=lambda case: case.name)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_zero_value_and_gradient_at_equality(case, scale):
    student, *rest = inputs(case, 4, dtype=np.float32)
    values, gradients = case.value_and_gradients([scale * student, scale * student, *rest[1:]], None)
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_allclose(gradients[0], 0, atol=1e-6)


SOME = np.random.default_rng(0).standard_normal((3, DIM))
ONE_HOT = 2e4 * np.eye(3, DIM) - 1e4
EXTREMES = {  # student and teacher [batch, DIM], and which elements take part
    "huge logits that agree": (ONE_HOT, ONE_HOT, None),
    "huge logits that disagree": (ONE_HOT, ONE_HOT[::-1], None),
    "zero": (0 * SOME, 0 * SOME, None),
    "a zero student": (0 * SOME, SOME, None),
    "duplicated examples": (np.tile(SOME[:1], (3, 1)), np.tile(SOME[1:2], (3, 1)), None),
    "one example": (SOME[:1], SOME[1:2], None),
    "everything masked": (SOME, SOME[::-1], np.zeros((3, DIM), bool)),
    "a masked example": (SOME, SOME[::-1], np.broadcast_to(np.arange(3)[:, None] > 0, (3, DIM))),
}


@every_loss
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_finite_at_extremes(case, extreme, dtype):
    student, teacher, where = EXTREMES[extreme]
    labels = np.array([0, -1, 2])[: len(student)]
    given = iter((student, teacher))
    arrays = [labels if kind == "labels" else jnp.asarray(next(given), dtype) for kind in case.takes]
    values, gradients = case.value_and_gradients(arrays, where)
    assert np.isfinite(values).all()
    assert all(np.isfinite(g.astype(np.float32)).all() for g in gradients)
    if extreme == "everything masked":
        np.testing.assert_array_equal(values, 0)
        assert not any(g.any() for g in gradients)
