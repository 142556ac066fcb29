"""Orthogonal projection, masked generation, a temperature against the student, congruence: against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.networks import Outputs
from jaxkd.objectives import (
    Signals,
    correlation_congruence,
    curriculum_temperature,
    masked_generative,
    orthogonal_projection,
)

RNG = np.random.default_rng(0)
INITIAL = RNG.bit_generator.state
N, CLASSES = 4, 3
WHERE = np.array([True, True, False, True])
KEPT = np.flatnonzero(WHERE)


@pytest.fixture(autouse=True)
def same_draws_in_any_order():
    RNG.bit_generator.state = INITIAL


def drawn(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def given(student, teacher, where=WHERE, seed=1):
    """Signals of one feature each; what padding holds is NaN."""

    def spoilt(x):
        return jnp.where(where.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.nan)

    sides = (Outputs(spoilt(drawn(N, CLASSES)), {"f": spoilt(x)}) for x in (student, teacher))
    return Signals(*sides, {}, {"where": jnp.asarray(where)}, jnp.int32(0), jax.random.key(seed))


def started(objective, signals):
    return objective.init(jax.random.key(0), jax.eval_shape(lambda: signals))


def evaluated(objective, signals, variables):
    def loss(params, feature):
        student = signals.student._replace(taps={"f": feature})
        (term,) = objective.apply({"params": params}, signals._replace(student=student))[0].values()
        return term.weight * term.sum / term.count

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables["params"], signals.student.taps["f"])
    assert np.any(grads[1][KEPT])
    assert not np.any(grads[1][~WHERE])
    assert all(np.isfinite(x).all() and np.any(x) for x in jax.tree.leaves(grads[0]))
    return value


def exact(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def exponential(a):
    """The Taylor series, of a thousandth, squared ten times."""
    term = total = np.eye(len(a))
    for i in range(1, 12):
        term = term @ (a / 1024) / i
        total = total + term
    for _ in range(10):
        total = total @ total
    return total


@pytest.mark.parametrize(
    ("wide", "narrow", "student_is_wide"), [(6, 3, True), (6, 3, False), (4, 4, True), (11, 2, False)]
)
def test_orthogonal_projection(wide, narrow, student_is_wide):
    widths = (wide, narrow) if student_is_wide else (narrow, wide)
    student, teacher = 2 * drawn(N, 2, 2, widths[0]), 3 * drawn(N, 5, widths[1]) + 1
    signals = given(student, teacher)
    objective = orthogonal_projection("f", "f")
    variables = started(objective, signals)
    triangle = exact(variables["params"]["triangle"])
    lower = np.zeros((wide, wide))
    for i, j in np.ndindex(wide, narrow):
        lower[i, j] = triangle[i, j] if i > j else 0
    columns = exponential(lower - lower.T)[:, :narrow]
    np.testing.assert_allclose(columns.T @ columns, np.eye(narrow), atol=1e-10)
    projection = columns if student_is_wide else columns.T
    s, t = exact(student)[KEPT].mean((1, 2)) @ projection, exact(teacher)[KEPT].mean(1)
    t = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
    distance = np.abs(s - t)
    expected = np.where(distance < 1, distance**2 / 2, distance - 0.5).mean()
    assert (distance > 1).any()
    assert (distance < 1).any()

    def loss(params):
        term = objective.apply({"params": params}, signals)[0]["orthogonal_projection"]
        return term.sum / term.count

    value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    gradient = np.asarray(gradient["triangle"])
    assert np.isfinite(gradient).all()
    assert np.all(gradient[np.tril_indices(wide, -1, narrow)] != 0)
    with pytest.raises(ValueError, match=r'"f" is \[4\], teacher tap "f" is \[4,3\]: tap features'):
        started(objective, given(drawn(N), drawn(N, 3)))


def conv(params, x):
    kernel, y = params["kernel"], np.zeros((*x.shape[:-1], params["kernel"].shape[-1]))
    kernel = kernel[None, None] if kernel.ndim == 2 else kernel
    r = kernel.shape[0] // 2
    n, height, width, _ = x.shape
    for b, i, j in np.ndindex(n, height, width):
        for u, v in np.ndindex(kernel.shape[:2]):
            p, q = i + u - r, j + v - r
            if 0 <= p < height and 0 <= q < width:
                y[b, i, j] += x[b, p, q] @ kernel[u, v]
    return y + params["bias"]


@pytest.mark.parametrize(("mask", "shape"), [("positions", (3, 3, 1)), ("channels", (1, 1, 4))])
def test_masked_generative(mask, shape):
    student, teacher = drawn(N, 3, 3, 2), drawn(N, 3, 3, 4)
    signals = given(student, teacher)
    objective = masked_generative("f", "f", mask=mask, share=0.4)
    variables = jax.tree.map(lambda x: x + 0.3 * drawn(*x.shape), started(objective, signals))
    value = evaluated(objective, signals, variables)
    params = exact(variables["params"])
    total = 0
    for n in KEPT:
        kept = np.asarray(jax.random.bernoulli(jax.random.fold_in(signals.rng, n), 0.6, shape))
        x = conv(params["align"], exact(student)[n : n + 1]) * kept
        generated = conv(params["conv2"], np.maximum(conv(params["conv1"], x), 0))
        total += ((generated - exact(teacher)[n]) ** 2).sum()
    np.testing.assert_allclose(value, total / len(KEPT), rtol=1e-5)


def test_masked_generative_of_equal_widths_has_no_alignment_and_draws_anew():
    feature = drawn(N, 3, 3, 4)
    objective = masked_generative("f", "f")
    variables = started(objective, given(feature, feature))
    assert set(variables["params"]) == {"conv1", "conv2"}
    student, teacher = drawn(2, N, 3, 3, 4)
    sums = [
        objective.apply(variables, given(student, teacher, seed=seed))[0]["masked_generative"].sum for seed in (1, 2)
    ]
    assert sums[0] != sums[1]


def test_masked_generative_errors():
    with pytest.raises(ValueError, match=r"share is 1\.5: it has to lie in"):
        masked_generative("f", "f", share=1.5)
    with pytest.raises(ValueError, match=r"1 - share, is 0: it has to be above 0"):
        masked_generative("f", "f", share=1)
    with pytest.raises(ValueError, match="mask='pixels': there are"):
        masked_generative("f", "f", mask="pixels")
    with pytest.raises(ValueError, match=r'"f" is \[4,2,2,3\], teacher tap "f" is \[4,4,4,3\]: .* of one size'):
        started(masked_generative("f", "f"), given(drawn(N, 2, 2, 3), drawn(N, 4, 4, 3)))


def test_curriculum_temperature():
    """Three steps of gradient descent climb by the temperature, ever faster."""
    signals = given(drawn(N, 1), drawn(N, 1))
    objective = curriculum_temperature(ramp=2, start=1.0, end=20.0)
    variables = started(objective, signals)
    assert variables["params"]["theta"] == 1

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    s, t = exact(signals.student.logits)[KEPT], exact(signals.teacher.logits)[KEPT]

    def oracle(theta):
        temperature = 1 + 20 / (1 + np.exp(-theta))
        p, q = softmax(t / temperature), softmax(s / temperature)
        return temperature, temperature**2 * (p * np.log(p / q)).sum(-1).mean()

    @jax.jit
    def step(params, step):
        def loss(params):
            terms, metrics, _ = objective.apply({"params": params}, signals._replace(step=step))
            term = terms["soft_label"]
            return term.sum / term.count, metrics["temperature"].sum

        (value, temperature), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return value, temperature, optax.apply_updates(params, jax.tree.map(lambda g: -5 * g, gradient))

    params, theta = variables["params"], 1.0
    for i, factor in enumerate([0, 0.5, 1]):
        value, temperature, params = step(params, jnp.int32(i))
        np.testing.assert_allclose([temperature, value], oracle(theta), rtol=2e-5)
        slope = (oracle(theta + 1e-4)[1] - oracle(theta - 1e-4)[1]) / 2e-4
        theta += 5 * factor * slope
        np.testing.assert_allclose(params["theta"], theta, rtol=1e-4)
    assert theta != 1


def test_curriculum_temperature_errors():
    with pytest.raises(ValueError, match="ramp is 0: it has to be above 0"):
        curriculum_temperature(0)
    signals = given(drawn(N, 1), drawn(N, 1))
    with pytest.raises(ValueError, match=r"student logits \[4,3\], teacher logits \[4,5\]"):
        started(curriculum_temperature(1), signals._replace(teacher=Outputs(drawn(N, 5))))


def test_correlation_congruence():
    student, teacher = drawn(N, 2, 3), drawn(N, 5)
    signals = given(student, teacher)
    objective = correlation_congruence("f", "f", width=7)
    variables = jax.tree.map(lambda x: x + 0.3 * drawn(*x.shape), started(objective, signals))
    value = evaluated(objective, signals, variables)
    params = exact(variables["params"])
    s, t = (
        exact(x)[KEPT].reshape(len(KEPT), -1) @ params[side]["kernel"] + params[side]["bias"]
        for side, x in (("student", student), ("teacher", teacher))
    )
    delta = np.abs(s - t)
    pairs = [(delta[i] * delta[i + 1]).sum() for i in range(len(KEPT) - 1)]
    np.testing.assert_allclose(value, np.mean(pairs), rtol=1e-5)
    wide = started(correlation_congruence("f", "f"), signals)["params"]
    assert (wide["student"]["kernel"].shape, wide["teacher"]["kernel"].shape) == ((6, 128), (5, 128))


def test_correlation_congruence_errors():
    with pytest.raises(ValueError, match="width is 0: it has to be at least 1"):
        correlation_congruence("f", "f", width=0)
    with pytest.raises(ValueError, match="variant='gram': there are"):
        correlation_congruence("f", "f", variant="gram")
    with pytest.raises(ValueError, match=r'"f" is \[4\], teacher tap "f" is \[4,3\]: tap features'):
        started(correlation_congruence("f", "f"), given(drawn(N), drawn(N, 3)))
