"""What is particular to the losses on logits: temperatures, missing labels, errors."""

import inspect

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from jaxkd import losses
from jaxkd.losses import cross_entropy, distillation_loss, hint, soft_label_kl, softmax_with_temperature

from . import oracles

few = hypothesis.settings(max_examples=40, deadline=None, derandomize=True, database=None)
logits = arrays.arrays(np.float32, (2, 5), elements=strategies.floats(-1e4, 1e4, width=32))
temperatures = strategies.floats(0.125, 64, width=32)
A, B = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
LABELS = np.array([0, 4, -1])


def test_high_temperature_is_half_the_mean_squared_difference_of_centred_logits():
    centred = [x.astype(np.float64) - x.mean(-1, keepdims=True) for x in (A, B)]
    expected = 0.5 * np.mean((centred[0] - centred[1]) ** 2, -1)
    error = [np.max(np.abs(soft_label_kl(A, B, T) - expected)) for T in (1e2, 1e3, 1e4)]
    assert error[2] < 1e-3
    # The next order of the expansion is 1 / T.
    np.testing.assert_allclose([error[0] / error[1], error[1] / error[2]], 10, rtol=0.2)


@pytest.mark.parametrize("temperature", [0.5, 4.0, 20.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("masked", [False, True])
def test_float32_is_precise_at_every_temperature(temperature, masked):
    """Value and gradients to a few bits, though probabilities of student and teacher agree in all but their last."""
    where = np.array([[True, False, True, True, True]] * 2 + [[True] * 5]) if masked else None
    with jax.enable_x64(True):
        # In double precision at these temperatures the textbook's sums have bits to spare.
        q, p = (np.asarray(softmax_with_temperature(np.float64(x), temperature, where=where)) for x in (A, B))
        log_ratio = np.where(p > 0, np.log(np.where(p > 0, p, 1)) - np.log(np.where(p > 0, q, 1)), 0)
    expected = temperature**2 * np.sum(p * log_ratio, -1)
    of_student = temperature * (q - p)
    of_teacher = temperature * p * (log_ratio - np.sum(p * log_ratio, -1, keepdims=True))

    def loss(student, teacher):
        values = soft_label_kl(student, teacher, temperature, where=where)
        return values.sum(), values

    (_, values), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(A, B)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, expected, rtol=2e-6)
    for gradient, wanted in zip(gradients, (of_student, of_teacher), strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("temperature", [50_000, np.float16(5e4), jnp.bfloat16(49_920.0), np.int32(50_000)])
def test_temperature_of_any_type(temperature):
    value = soft_label_kl(A, B, temperature)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, soft_label_kl(A, B, float(temperature)), rtol=1e-6)
    centred = [x - x.mean(-1, keepdims=True) for x in (A, B)]
    np.testing.assert_allclose(value, 0.5 * np.mean((centred[0] - centred[1]) ** 2, -1), rtol=1e-3)


def test_near_and_far_logits_meet():
    """Where one form of the divergence takes over from another, in the shift of a row and in that of a class."""
    towards = np.array([1.0, -0.3, 0.2, -1.0, 0.1], np.float32)
    shifts = np.float32([0.2, 0.24, 0.26, 0.3, 0.45, 0.499, 0.501, 0.55])[:, None] * towards
    student = np.broadcast_to(A[0], shifts.shape).astype(np.float32)
    teacher = student + shifts
    np.testing.assert_allclose(
        soft_label_kl(student, teacher, 1.0), oracles.soft_label_kl(student, teacher, temperature=1.0), rtol=1e-5
    )


def test_offset_of_all_logits_changes_nothing():
    """Logits drift together, for no loss holds them: what agrees but for an offset has no gradient."""

    def loss(student, teacher):
        return soft_label_kl(student, teacher, 4.0).sum()

    for student, teacher in ((A, A), (A, B)):
        offset = np.round(teacher * 1024) / 1024 + np.float32(1000)  # exact in float32, or its rounding is seen
        teacher = offset - np.float32(1000)
        got, expected = (jax.grad(loss)(np.round(student * 1024) / 1024, x) for x in (offset, teacher))
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_second_derivative_is_that_of_the_normaliser():
    """Of one example: diag(q) - q q^T at T = 1; and forward mode agrees with reverse mode."""
    q = np.asarray(softmax_with_temperature(A[0]))
    hessian = jax.jit(jax.hessian(lambda student: soft_label_kl(student, B[0], 1.0)))(A[0])
    np.testing.assert_allclose(hessian, np.diag(q) - np.outer(q, q), atol=1e-6)
    forwards = jax.jacfwd(lambda student: soft_label_kl(student, B[0], 1.0))(A[0])
    np.testing.assert_allclose(forwards, jax.grad(lambda student: soft_label_kl(student, B[0], 1.0))(A[0]), rtol=1e-6)


def test_low_temperature_is_the_argmax():
    np.testing.assert_array_equal(softmax_with_temperature(A, 1e-4), np.eye(5)[A.argmax(-1)])
    assert np.isfinite(jax.grad(lambda x: softmax_with_temperature(x, 1e-4)[:, 0].sum())(A)).all()
    assert np.isfinite(jax.grad(lambda s: soft_label_kl(s, B, 1e-4).sum())(A)).all()


def test_very_high_temperature_is_uniform():
    np.testing.assert_allclose(softmax_with_temperature(A, 1e6), 0.2, rtol=1e-5)


def test_one_temperature_for_each_example():
    T = np.array([1.0, 2.0, 7.0], np.float32)
    for loss in (
        lambda a, b, labels, T, axis: softmax_with_temperature(a, T, axis=axis),
        lambda a, b, labels, T, axis: soft_label_kl(a, b, T, axis=axis),
        lambda a, b, labels, T, axis: distillation_loss(a, b, labels, temperature=T, axis=axis),
    ):
        one = jax.jit(lambda *arrays, loss=loss: loss(*arrays, -1))
        values = one(A, B, LABELS, T)
        np.testing.assert_allclose(values, [one(*xs) for xs in zip(A, B, LABELS, T, strict=True)], rtol=1e-5)
        np.testing.assert_allclose(loss(A.T, B.T, LABELS, T, 0).T, values, rtol=1e-5)


@few
@hypothesis.given(logits, logits, temperatures)
def test_divergence_is_finite_not_negative_and_the_oracles(student, teacher, temperature):
    value = np.asarray(soft_label_kl(student, teacher, temperature))
    assert np.isfinite(value).all()
    assert (value >= 0).all()
    # A probability that rounds to 0 has no logarithm in the oracle, so agreement is asked for near logits only.
    near = [x / 1e3 * temperature for x in (student, teacher)]
    expected = oracles.soft_label_kl(*near, temperature=temperature)
    got = soft_label_kl(*near, temperature)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * temperature**2)


@few
@hypothesis.given(logits, temperatures, strategies.floats(-1e3, 1e3, width=32))
def test_softmax_adds_up_and_ignores_a_shift(x, temperature, shift):
    p = np.asarray(softmax_with_temperature(x, temperature))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    # The shift itself rounds the logits, to one part in 2^24 of their size.
    np.testing.assert_allclose(softmax_with_temperature(x + np.float32(shift), temperature), p, atol=3e-3 / temperature)


@pytest.mark.parametrize("temperature", [1e-4, 1.0, 4.0])
def test_classes_the_teacher_rules_out(temperature):
    teacher = B.copy()
    teacher[:, 3:] = -np.inf
    values = soft_label_kl(A, teacher, temperature)
    gradient = jax.grad(lambda student: soft_label_kl(student, teacher, temperature).sum())(A)
    assert np.isfinite(gradient).all()
    if temperature >= 1:
        expected = oracles.soft_label_kl(A, teacher, temperature=temperature)
        np.testing.assert_allclose(values, expected, rtol=1e-5)
        # They still are in the student's softmax: it is to learn that they are ruled out.
        assert (np.asarray(gradient)[:, 3:] > 0).all()


def test_labels_that_are_missing_or_out_of_range():
    labels = np.array([-7, 4, 5])
    for loss in (cross_entropy, lambda x, labels: distillation_loss(x, B, labels)):
        with pytest.raises(ValueError, match="labels go up to 5, of 5 classes"):
            loss(A, labels)
    values = np.asarray(jax.jit(cross_entropy)(A, labels))
    assert values[0] == 0
    assert np.isfinite(values[1])
    assert np.isnan(values[2])
    mixed = np.asarray(jax.jit(lambda labels: distillation_loss(A, B, labels, temperature=2.0, alpha=0.3))(labels))
    np.testing.assert_allclose(mixed[0], 0.3 * soft_label_kl(A, B, 2.0)[0], rtol=1e-6)
    assert np.isnan(mixed[2])
    assert not jax.grad(lambda x: cross_entropy(x, np.array([-7, 4, 4]))[0])(A).any()


@pytest.mark.parametrize("spoilt", [False, True])
def test_label_whose_class_is_masked_is_none(spoilt):
    where = np.ones((3, 5), bool)
    where[1, 4] = where[2, 0] = False
    x = np.where(where, A, np.nan) if spoilt else A
    values, gradient = (
        np.asarray(jax.jit(f)(x, np.array([2, 4, 5])))
        for f in (
            lambda x, labels: cross_entropy(x, labels, where=where),
            jax.grad(lambda x, labels: cross_entropy(x, labels, where=where)[:2].sum()),
        )
    )
    np.testing.assert_allclose(values[0], oracles.cross_entropy(A[:1], np.array([2]))[0], rtol=1e-5)
    assert values[1] == 0
    assert np.isnan(values[2])  # out of range is not masked
    assert gradient[0].any()
    assert not gradient[1].any()
    mixed = distillation_loss(x, B, np.array([2, 4, -1]), temperature=2.0, alpha=0.3, where=where)
    np.testing.assert_allclose(mixed[1:], 0.3 * soft_label_kl(x, B, 2.0, where=where)[1:], rtol=1e-6)


def test_label_below_zero_takes_no_gradient_from_nan_logits():
    spoilt = A.copy()
    spoilt[2] = np.nan
    gradient = jax.grad(lambda x: cross_entropy(x, LABELS).sum())(spoilt)
    assert np.isfinite(gradient[:2]).all()
    assert cross_entropy(spoilt, LABELS)[2] == 0


def test_temperature_and_alpha_may_be_traced():
    value = jax.jit(lambda T, alpha: distillation_loss(A, B, LABELS, temperature=T, alpha=alpha))(2.0, 0.25)
    np.testing.assert_allclose(value, distillation_loss(A, B, LABELS, temperature=2.0, alpha=0.25), rtol=1e-6)


@pytest.mark.parametrize(
    "temperature", [0, -1.0, float("nan"), np.array([1.0, 0.0, 1.0]), np.float32(-2), jnp.float32(-1)]
)
def test_temperature_out_of_range(temperature):
    for call in (
        lambda: softmax_with_temperature(A, temperature),
        lambda: soft_label_kl(A, B, temperature),
        lambda: distillation_loss(A, B, LABELS, temperature=temperature),
    ):
        with pytest.raises(ValueError, match=r"temperature (is .*|\[3\] has 0.0 in it): it has to be above 0"):
            call()


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=r"alpha is .*: it has to lie in \[0, 1\]"):
        distillation_loss(A, B, LABELS, alpha=alpha)


def test_shapes_that_differ():
    for call in (
        lambda: soft_label_kl(A, B[:, :4]),
        lambda: soft_label_kl(A, B[:1]),  # would broadcast
        lambda: distillation_loss(A, B[:1], LABELS),
        lambda: jax.eval_shape(soft_label_kl, A, B[0]),
    ):
        with pytest.raises(ValueError, match=r"student logits \[3,5\], teacher logits \[.*\]: they have"):
            call()
    with pytest.raises(ValueError, match=r"student features \[3,5\], teacher features \[3,4\]: add a connector"):
        hint(A, B[:, :4])
    with pytest.raises(ValueError, match=r"student features \[3,5\], teacher features \[2,5\]: .* same examples"):
        hint(A, B[:2])  # no connector would help


def test_labels_of_wrong_type_or_shape():
    with pytest.raises(ValueError, match=r"labels \[3\] are float32: they have to be integers \[3\]"):
        cross_entropy(A, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"labels \[3,5\] .* integers \[3\] \(of one-hot labels their argmax"):
        cross_entropy(A, jnp.eye(5)[:3])
    for labels in (np.zeros((3, 1), int), np.zeros(5, int), np.zeros((), int)):
        with pytest.raises(ValueError, match=r"labels \[.*\], examples \[3\]: one label for each example"):
            cross_entropy(A, labels)
    with pytest.raises(ValueError, match=r"labels \[3\], examples \[5\]"):
        cross_entropy(A, np.zeros(3, int), axis=0)


def test_hint_over_several_axes():
    maps = np.random.default_rng(1).standard_normal((2, 2, 3, 3, 4)).astype(np.float32)
    where = np.random.default_rng(2).random((2, 3, 3, 1)) < 0.5
    np.testing.assert_allclose(hint(*maps, axis=(1, 2, 3)), np.square(maps[0] - maps[1]).mean((1, 2, 3)), rtol=1e-5)
    expected = [np.square(maps[0] - maps[1])[i][where[i, ..., 0]].mean() for i in range(2)]
    np.testing.assert_allclose(hint(*maps, axis=(1, 2, 3), where=where), expected, rtol=1e-5)


NUMBERS = {
    "soft_label_kl": ("temperature",),
    "reverse_kl": ("temperature",),
    "soft_cross_entropy": ("temperature",),
    "listwise_kl": ("temperature",),
    "generalized_jsd": ("temperature",),
    "alpha_beta_divergence": ("temperature",),
    "skew_kl": ("alpha",),
    "skew_reverse_kl": ("alpha",),
    "interpolated_teacher": ("u",),
    "universal_logit": ("student_temperature", "teacher_temperature"),
    "transformed_teacher_matching": ("exponent",),
    "softmax_with_temperature": ("temperature",),
    "teacher_free": ("temperature",),
    "weighted_soft_label": ("temperature",),
    "decoupled_kd": ("temperature", "alpha", "beta"),
    "normalized_kd": ("temperature", "gamma"),
    "one_for_all": ("exponent", "temperature"),
    "distillation_loss": ("temperature", "alpha"),
    "scale_decoupled_kd": ("temperature", "alpha", "beta"),
    "centered_self_distillation": ("student_temperature", "teacher_temperature"),
}
EACH = [(name, parameter) for name, parameters in NUMBERS.items() for parameter in parameters]


def call(name, **parameters):
    """The loss of the three examples above, or of three times two regions."""
    loss = getattr(losses, name)
    if name == "softmax_with_temperature":
        return loss(A, **parameters)
    if name == "teacher_free":
        return loss(A, LABELS, **parameters)
    if name == "centered_self_distillation":
        return loss(A, B, np.zeros(5, np.float32), **parameters)
    if name == "scale_decoupled_kd":
        return loss(np.stack([A, B], 1), np.stack([B, A], 1), LABELS, **parameters)
    labelled = "labels" in inspect.signature(loss).parameters
    return loss(A, B, *([LABELS] if labelled else []), **parameters)


@pytest.mark.parametrize(("name", "parameter"), EACH)
def test_numbers_of_examples_are_of_their_shape_and_no_labels(name, parameter):
    shape = jax.eval_shape(lambda x: call(name, **{parameter: x}), 0.5).shape
    half = np.full(3, 0.5, np.float32)
    assert jax.eval_shape(lambda x: call(name, **{parameter: x}), half).shape == shape
    for wrong, said in (
        (half[:, None], rf"{parameter} \[3,1\], examples \[3\]: give a scalar, or one number for each example"),
        (np.full(5, 0.5), rf"{parameter} \[5\], examples \[3\]"),
    ):
        with pytest.raises(ValueError, match=said):
            call(name, **{parameter: wrong})
    with pytest.raises(ValueError, match=rf"{parameter} \[3\] is int32: .* labels"):
        jax.eval_shape(lambda x: call(name, **{parameter: x}), np.ones(3, np.int32))


def test_labels_in_place_of_the_temperature():
    labels = np.array([1, 4, 0])
    for loss in (soft_label_kl, losses.reverse_kl, losses.soft_cross_entropy, losses.listwise_kl):
        with pytest.raises(ValueError, match=r"temperature \[3\] is int.*labels"):
            loss(A, B, labels)
        assert loss(A, B, 4).shape == loss(A, B, np.int64(4)).shape == (3,)


@pytest.mark.parametrize(
    ("name", "parameter"), [("dist", "beta"), ("dist", "gamma"), ("adaptive_kl", "mu"), ("teacher_free", "confidence")]
)
def test_numbers_for_all_examples_are_scalars(name, parameter):
    with pytest.raises(ValueError, match=rf"{parameter} \[3\]: it has to be a scalar"):
        call(name, **{parameter: np.full(3, 0.5)})


@pytest.mark.parametrize(
    ("temperature", "error", "said"),
    [
        ([-4.0] * 3, TypeError, r"temperature is a list, \[-4.0, .*: it has to be a number"),
        ("4", TypeError, "temperature is a str, '4': it has to be a number"),
        (None, TypeError, "temperature is a NoneType"),
        (True, ValueError, "temperature is bool: it has to be a real number"),
        (1j, TypeError, "temperature is a complex"),
        (float("inf"), ValueError, "temperature is inf: it has to be finite"),
        (np.array([1.0, np.inf, 1.0]), ValueError, r"temperature \[3\] has inf in it: it has to be finite"),
    ],
)
def test_temperature_that_is_no_number(temperature, error, said):
    with pytest.raises(error, match=said):
        soft_label_kl(A, B, temperature)


def test_lists_are_told_without_their_contents():
    for call, said in (
        (lambda: soft_label_kl(A.tolist(), B), "student logits: a list is no array; give one, as jnp.asarray makes it"),
        (lambda: soft_label_kl(A, B.tolist()), "teacher logits: a list"),
        (lambda: cross_entropy(A, LABELS.tolist()), "labels: a list"),
        (lambda: soft_label_kl(A, B, where=[True] * 5), "where: a list"),
        (lambda: losses.listwise_kl(A.tolist(), B), "student scores: a list"),
    ):
        with pytest.raises(TypeError, match=said) as raised:
            call()
        assert len(str(raised.value)) < 100
    with pytest.raises(ValueError, match=r"temperatures is 4.0: it has to be a sequence, \(4.0,\) for one"):
        losses.multi_level_kd(A, B, 4.0)
    with pytest.raises(ValueError, match=r"grids is 4: it has to be a sequence, \(4,\) for one"):
        losses.region_means(np.ones((1, 4, 4, 2), np.float32), 4)


def test_axis_of_any_integer_type():
    moved = soft_label_kl(A.T, B.T, axis=np.int64(0))
    np.testing.assert_allclose(moved, soft_label_kl(A, B), rtol=1e-6)
    np.testing.assert_allclose(cross_entropy(A.T, LABELS, axis=np.int64(0)), cross_entropy(A, LABELS), rtol=1e-6)
    for axis in (None, (1,), 1.0):
        with pytest.raises(ValueError, match=r"axis of logits \[3,5\] is .*: it has to be one whole number"):
            soft_label_kl(A, B, axis=axis)
    with pytest.raises(ValueError, match="axis 2 of logits"):
        soft_label_kl(A, B, axis=np.int64(2))
    maps = np.ones((2, 2, 3, 3, 4), np.float32)
    assert hint(*maps, axis=[1, np.int64(2), 3]).shape == (2,)
    with pytest.raises(ValueError, match="has to be one whole number"):
        hint(*maps, axis=None)


def test_one_class_names_whose():
    with pytest.raises(ValueError, match=r"student logits \[3,1\] have one class on axis -1"):
        soft_label_kl(A[:, :1], B[:, :1])
    with pytest.raises(ValueError, match=r"student logits \[3,0\] have no class on axis -1"):
        soft_label_kl(A[:, :0], B[:, :0])
    with pytest.raises(ValueError, match=r"teacher logits \[3,1\] have one class"):
        losses.universal_logit(A, B[:, :1])
    with pytest.raises(ValueError, match=r"student scores \[3,1\] have one candidate"):
        losses.margin_mse(A[:, :1], B[:, :1])


def test_logits_of_two_types_meet_in_the_wider():
    with jax.enable_x64(True):
        wide, expected = B.astype(np.float64), soft_label_kl(A.astype(np.float64), B.astype(np.float64))
        value, (of_student, of_teacher) = jax.value_and_grad(lambda s, t: soft_label_kl(s, t).sum(), (0, 1))(A, wide)
        assert (of_student.dtype, of_teacher.dtype) == (jnp.float32, jnp.float64)
        np.testing.assert_allclose(value, expected.sum(), rtol=1e-12)
