"""What is particular to the divergences, targets and rankers: limits, detached factors, excluded classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses

from . import oracles
from .oracles.divergences import head_weight, kl

STUDENT, TEACHER = 2 * np.random.default_rng(0).standard_normal((2, 4, 6))


@pytest.fixture(autouse=True)
def _in_double():
    with jax.enable_x64(True):
        yield


def gradient(loss, student=STUDENT, teacher=TEACHER, **parameters):
    """With respect to the student and the teacher."""
    return jax.grad(lambda s, t: loss(s, t, **parameters).sum(), (0, 1))(student, teacher)


def difference(oracle, x):
    """The gradient of the sum of a function of x, by central differences."""
    slopes = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[at] = 1e-5
        slopes[at] = np.sum(oracle(x + step) - oracle(x - step)) / 2e-5
    return slopes


def test_alpha_beta_is_continuous_and_the_code_jumps():
    for limit in ((0.5, 0.0), (0.0, 0.5), (0.5, -0.5), (-0.5, 0.5), (0.0, 0.0), (1.0, 0.0)):
        exact = losses.alpha_beta_divergence(STUDENT, TEACHER, alpha=limit[0], beta=limit[1])
        # At equal distances on both sides: what is left is of second order.
        near = [
            losses.alpha_beta_divergence(STUDENT, TEACHER, alpha=limit[0] + h, beta=limit[1] + 2 * h)
            for h in (1e-4, -1e-4)
        ]
        np.testing.assert_allclose(exact, sum(near) / 2, rtol=1e-5)
    for alpha, beta, power in ((0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.4, -0.4, 0.4)):
        code, exact = (
            losses.alpha_beta_divergence(STUDENT, TEACHER, alpha=alpha, beta=beta, variant=variant)
            for variant in ("code", "continuous")
        )
        np.testing.assert_allclose(code, power * exact, rtol=1e-12)


def test_divergences_meet_where_they_are_the_same():
    forward = losses.soft_label_kl(STUDENT, TEACHER, 1.0)
    reverse = losses.reverse_kl(STUDENT, TEACHER)
    np.testing.assert_allclose(reverse, losses.soft_label_kl(TEACHER, STUDENT, 1.0), rtol=1e-12)
    for loss, expected in (
        (losses.alpha_beta_divergence(STUDENT, TEACHER, alpha=1.0, beta=0.0), forward),
        (losses.alpha_beta_divergence(STUDENT, TEACHER, alpha=0.0, beta=1.0), reverse),
        (losses.generalized_jsd(STUDENT, TEACHER, beta=0.0), forward),
        (losses.generalized_jsd(STUDENT, TEACHER, beta=1.0), reverse),
        (losses.skew_kl(STUDENT, TEACHER, alpha=1e-9), forward),
        (losses.skew_reverse_kl(STUDENT, TEACHER, alpha=1e-9), reverse),
        (losses.interpolated_teacher(STUDENT, TEACHER, 1.0, variant="kl"), forward),
        (losses.soft_cross_entropy(STUDENT, TEACHER), losses.interpolated_teacher(STUDENT, TEACHER, 1.0)),
        (
            losses.soft_cross_entropy(STUDENT, TEACHER, 3.0) - losses.soft_cross_entropy(TEACHER, TEACHER, 3.0),
            losses.soft_label_kl(STUDENT, TEACHER, 3.0),
        ),
        (losses.listwise_kl(STUDENT, TEACHER), forward),
    ):
        np.testing.assert_allclose(loss, expected, rtol=1e-7)


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 1.1), (0.07, 0.07)])
def test_alpha_beta_is_precise_near_0(alpha, beta):
    """In float32: what the logarithms are rounded by is left, the cancellation of the terms is not."""
    for gap in (1e-3, 0.03, 0.3, 3.0):
        student = TEACHER + gap * np.random.default_rng(3).standard_normal(TEACHER.shape)
        pair = [np.float32(x) for x in (student, TEACHER)]
        exact = oracles.alpha_beta_divergence(*map(np.float64, pair), alpha=alpha, beta=beta)
        np.testing.assert_allclose(
            losses.alpha_beta_divergence(*pair, alpha=alpha, beta=beta), exact, rtol=1e-5 + 1e-6 / gap
        )


def test_total_variation_of_equal_softmaxes_has_no_gradient():
    pair = [np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)] * 2
    value, gradient = jax.jit(jax.value_and_grad(lambda s, t: losses.total_variation(s, t).sum()))(*pair)
    assert value == 0
    assert not np.any(gradient)


def test_jsd_tends_to_0_at_its_ends_and_scaled_to_the_divergences():
    forward, reverse = losses.soft_label_kl(STUDENT, TEACHER, 1.0), losses.reverse_kl(STUDENT, TEACHER)
    for beta, end in ((1e-6, forward), (1 - 1e-6, reverse)):
        assert np.all(losses.generalized_jsd(STUDENT, TEACHER, beta=beta) < 1e-4)
        np.testing.assert_allclose(losses.generalized_jsd(STUDENT, TEACHER, beta=beta, scaled=True), end, rtol=1e-3)


def test_bounds_are_reached_by_teachers_of_another_class():
    student, teacher = 1e4 * np.eye(3)[None, 0], 1e4 * np.eye(3)[None, 1]
    for value, bound in (
        (losses.generalized_jsd(student, teacher), np.log(2)),
        (losses.skew_kl(student, teacher, alpha=0.1), -np.log(0.1)),
        (losses.skew_reverse_kl(student, teacher, alpha=0.1), -np.log(0.1)),
        (losses.total_variation(student, teacher), 1),
        (losses.universal_logit(student, np.zeros((1, 3))), 4 / 3),
    ):
        np.testing.assert_allclose(value, bound, rtol=1e-12)


def test_weights_of_adaptive_kl_carry_no_gradient():
    rows = [[oracles.softmax_with_temperature(x)[i].tolist() for x in (TEACHER, STUDENT)] for i in range(4)]
    weight = np.array([head_weight(p, q, 0.5) for p, q in rows])
    assert np.ptp(weight) > 0.1
    of_forward, of_reverse = (
        difference(lambda s, loss=loss: loss(s, TEACHER, temperature=1.0), STUDENT)
        for loss in (oracles.soft_label_kl, oracles.reverse_kl)
    )
    expected = weight[:, None] * of_forward + (1 - weight)[:, None] * of_reverse
    np.testing.assert_allclose(gradient(losses.adaptive_kl)[0], expected, atol=1e-6)


def test_head_of_adaptive_kl_by_hand():
    """Of .4 .3 .2 .1 and mu .5 the first alone is the head: the one that crosses .5 belongs to the tail."""
    p, q = [0.3, 0.1, 0.4, 0.2], [0.25, 0.25, 0.25, 0.25]
    weight = 0.15 / (0.05 + 0.15 + 0.15 + 0.05)
    expected = weight * kl(p, q) + (1 - weight) * kl(q, p)
    np.testing.assert_allclose(losses.adaptive_kl(np.log(q), np.log(p)), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("interpolated_teacher", {"u": 0.4}),
        ("interpolated_teacher", {"u": 0.4, "variant": "kl"}),
        ("skew_reverse_kl", {"variant": "detached"}),
    ],
)
def test_student_in_the_target_is_detached(name, parameters):
    oracle = getattr(oracles, name)
    got = gradient(getattr(losses, name), **parameters)
    of_student = difference(lambda s: oracle(s, TEACHER, frozen=STUDENT, **parameters), STUDENT)
    of_teacher = difference(lambda t: oracle(STUDENT, t, **parameters), TEACHER)
    for x, expected in zip(got, (of_student, of_teacher), strict=True):
        np.testing.assert_allclose(x, expected, atol=1e-6)
    through = difference(lambda s: oracle(s, TEACHER, **parameters), STUDENT)
    assert np.max(np.abs(through - of_student)) > 1e-3


def test_mixtures_have_a_gradient_for_their_share():
    shares = np.array([0.1, 0.2, 0.5, 0.9])[:, None]

    def oracle(x, name):
        rows = [getattr(oracles, name)(s, t, alpha=a) for s, t, a in zip(STUDENT, TEACHER, x[:, 0], strict=True)]
        return np.array(rows)

    for name in ("skew_kl", "skew_reverse_kl"):
        loss = getattr(losses, name)
        got = jax.grad(lambda alpha, loss=loss: loss(STUDENT, TEACHER, alpha=alpha).sum())(shares[:, 0])
        np.testing.assert_allclose(got, difference(lambda x, name=name: oracle(x, name), shares)[:, 0], atol=1e-6)
        total = jax.grad(lambda alpha, loss=loss: loss(STUDENT, TEACHER, alpha=alpha).sum())(0.3)
        each = jax.grad(lambda alpha, loss=loss: loss(STUDENT, TEACHER, alpha=alpha).sum())(np.full(4, 0.3))
        np.testing.assert_allclose(total, each.sum(), rtol=1e-12)


def test_skewed_divergences_are_precise_near_0():
    """In float32, where the terms all but cancel."""
    student = STUDENT.astype(np.float32)
    teacher = student + np.float32(1e-3) * TEACHER.astype(np.float32)
    for name in ("skew_kl", "skew_reverse_kl", "generalized_jsd"):
        np.testing.assert_allclose(
            getattr(losses, name)(student, teacher), getattr(oracles, name)(student, teacher), rtol=2e-3
        )


def test_universal_logit_fills_up_with_probability_0():
    longer = np.concatenate([TEACHER, np.full((4, 3), -1.0)], -1)
    value = losses.universal_logit(STUDENT, longer)
    np.testing.assert_allclose(value, oracles.universal_logit(STUDENT, longer), rtol=1e-12)
    np.testing.assert_allclose(losses.universal_logit(longer, STUDENT), value, rtol=1e-12)
    np.testing.assert_allclose(losses.universal_logit(STUDENT.T, longer.T, axis=0), value, rtol=1e-12)
    with pytest.raises(ValueError, match=r"\[4,6\].*\[3,9\]"):
        losses.universal_logit(STUDENT, longer[:3])


def test_universal_logit_masks_either_vocabulary():
    longer = np.concatenate([TEACHER, np.full((4, 3), np.nan)], -1)
    of_student, of_teacher = np.arange(6) != 2, np.arange(9) < 6
    spoilt = np.where(of_student, STUDENT, np.nan)
    masks = {"where": of_student, "teacher_where": of_teacher}
    expected = oracles.universal_logit(np.delete(STUDENT, 2, -1), TEACHER)
    np.testing.assert_allclose(losses.universal_logit(spoilt, longer, **masks), expected, rtol=1e-12)
    got = gradient(losses.universal_logit, spoilt, longer, **masks)
    assert not got[0][:, 2].any()
    assert not got[1][:, 6:].any()
    kept = gradient(losses.universal_logit, np.delete(STUDENT, 2, -1), TEACHER)
    np.testing.assert_allclose(np.delete(got[0], 2, -1), kept[0], rtol=1e-9)
    np.testing.assert_allclose(got[1][:, :6], kept[1], rtol=1e-9)
    for masks in ({"where": np.zeros(6, bool)}, {"teacher_where": np.zeros(6, bool)}):
        np.testing.assert_array_equal(losses.universal_logit(STUDENT, TEACHER, **masks), 0)
        assert not np.any(gradient(losses.universal_logit, **masks))


def test_universal_logit_of_masked_examples_is_none_on_either_side():
    valid = np.array([True, False, True, False])[:, None]
    longer = np.concatenate([TEACHER, TEACHER[:, :3]], -1)
    expected = np.where(valid[:, 0], oracles.universal_logit(STUDENT, longer), 0)
    student, teacher = np.where(valid, STUDENT, np.nan), np.where(valid, longer, np.nan)
    for masks in ({"where": valid}, {"teacher_where": valid}):
        np.testing.assert_allclose(losses.universal_logit(student, teacher, **masks), expected, rtol=1e-12)
        for of_side in gradient(losses.universal_logit, student, teacher, **masks):
            assert np.isfinite(of_side).all()
            assert not of_side[1::2].any()


EXCLUDING = [
    ("soft_cross_entropy", {}, "full"),
    ("reverse_kl", {}, "dropped"),
    ("generalized_jsd", {}, "full"),
    ("generalized_jsd", {"beta": 1.0}, "dropped"),
    ("skew_kl", {}, "full"),
    ("skew_kl", {"variant": "code"}, "full"),
    ("skew_reverse_kl", {}, "full"),
    ("total_variation", {}, "full"),
    ("alpha_beta_divergence", {}, "dropped"),
    ("alpha_beta_divergence", {"alpha": 0.0, "beta": 0.0}, "dropped"),
    ("alpha_beta_divergence", {"alpha": -0.5, "beta": 0.2}, "dropped"),
    ("adaptive_kl", {}, "dropped"),
    ("interpolated_teacher", {"u": 0.4}, "full"),
    ("interpolated_teacher", {"u": 0.0}, "full"),
    ("interpolated_teacher", {"u": 0.4, "variant": "kl"}, "full"),
    ("binary_soft_label", {}, "full"),
    ("listwise_kl", {}, "full"),
    ("hard_teacher_label", {}, "full"),
    ("universal_logit", {}, "full"),
    ("centered_self_distillation", {"center": np.full(6, 0.1)}, "full"),
]


@pytest.mark.parametrize(("name", "parameters", "rule"), EXCLUDING)
@pytest.mark.parametrize("both", [False, True])
def test_class_that_the_teacher_excludes(name, parameters, rule, both):
    """A logit of -inf: as a very low one where that has a limit, as a masked one where it has none. All is finite."""
    loss = getattr(losses, name)
    excluded = np.arange(6) == 3
    teacher = np.where(excluded, -np.inf, TEACHER)
    student = np.where(excluded, -np.inf, STUDENT) if both and name != "binary_soft_label" else STUDENT
    value = loss(student, teacher, **parameters)
    if rule == "dropped" or (both and name != "binary_soft_label"):
        others = {k: np.delete(v, 3) if k == "center" else v for k, v in parameters.items()}
        expected = loss(np.delete(student, 3, -1), np.delete(teacher, 3, -1), **others)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
    else:
        expected = loss(student, np.where(excluded, -1e4, TEACHER), **parameters)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert np.isfinite(value).all()
    for x in gradient(loss, student, teacher, **parameters):
        assert np.isfinite(x).all()


def test_margin_mse_of_a_triple_is_the_papers():
    s, t = STUDENT[:, :2], TEACHER[:, :2]
    expected = ((s[:, 0] - s[:, 1]) - (t[:, 0] - t[:, 1])) ** 2
    np.testing.assert_allclose(losses.margin_mse(s, t), expected, rtol=1e-12)
    np.testing.assert_allclose(losses.margin_mse(s + 5, t - 3), expected, rtol=1e-12)
    without_first = np.array([False, True])
    np.testing.assert_array_equal(losses.margin_mse(s, t, where=without_first), 0)


def test_candidate_that_the_teacher_excludes_adds_no_margin():
    excluded = np.arange(6) == 3
    teacher = np.where(excluded, -np.inf, TEACHER)
    value, slope = jax.value_and_grad(lambda s: losses.margin_mse(s, teacher).sum())(STUDENT)
    # Five margins, of which four are left.
    np.testing.assert_allclose(value, 0.8 * losses.margin_mse(STUDENT, TEACHER, where=~excluded).sum(), rtol=1e-12)
    assert np.all(np.isfinite(slope))
    assert not np.any(slope[:, 3])
    assert not np.any(losses.margin_mse(STUDENT, np.roll(teacher, -3, 1)))


def test_binary_soft_label_is_precise_where_both_are_sure():
    """In float32, though the probabilities of either side are 1 there."""
    student, teacher = np.float32([[19.0], [-19.0], [19.0]]), np.float32([[20.0], [-20.0], [-20.0]])
    value = losses.binary_soft_label(student, teacher)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, oracles.binary_soft_label(student, teacher), rtol=1e-5)


def test_center_of_dino_is_a_vector_or_of_every_logit():
    center = np.linspace(-1, 1, 6)
    value = losses.centered_self_distillation(STUDENT, TEACHER, center)
    expected = oracles.centered_self_distillation(STUDENT, TEACHER, center)
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    moved = losses.centered_self_distillation(STUDENT.T, TEACHER.T, center, axis=0)
    np.testing.assert_allclose(moved, expected, rtol=1e-10)
    with pytest.raises(ValueError, match=r"center \[5\], teacher logits \[4,6\]"):
        losses.centered_self_distillation(STUDENT, TEACHER, center[:5])


def test_one_number_for_each_example():
    shares = np.array([0.1, 0.2, 0.5, 0.9])
    for loss, name in (
        (losses.skew_kl, "alpha"),
        (losses.skew_reverse_kl, "alpha"),
        (losses.interpolated_teacher, "u"),
        (losses.reverse_kl, "temperature"),
        (losses.generalized_jsd, "temperature"),
        (losses.centered_self_distillation, "teacher_temperature"),
    ):
        rest = {"center": np.zeros(6)} if loss is losses.centered_self_distillation else {}
        values = loss(STUDENT, TEACHER, **rest, **{name: shares})
        each = [loss(s, t, **rest, **{name: x}) for s, t, x in zip(STUDENT, TEACHER, shares, strict=True)]
        np.testing.assert_allclose(values, each, rtol=1e-12)
        moved = loss(STUDENT.T, TEACHER.T, axis=0, **rest, **{name: shares})
        np.testing.assert_allclose(moved, values, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("reverse_kl", {"temperature": 0.0}, "temperature"),
        ("generalized_jsd", {"beta": 1.1}, "beta"),
        ("generalized_jsd", {"beta": float("nan")}, "beta"),
        ("skew_kl", {"alpha": 1.0}, "alpha"),
        ("skew_kl", {"alpha": 0.0}, "alpha"),
        ("skew_kl", {"alpha": np.array([0.1, -0.1, 0.1, 0.1])}, "alpha"),
        ("skew_kl", {"variant": "detached"}, "'paper', 'code'"),
        ("skew_reverse_kl", {"alpha": 1.0}, "alpha"),
        ("alpha_beta_divergence", {"alpha": float("inf")}, "alpha"),
        ("alpha_beta_divergence", {"variant": "paper"}, "'continuous', 'code'"),
        ("adaptive_kl", {"mu": 1.5}, "mu"),
        ("interpolated_teacher", {"u": 1.5}, "u is 1.5"),
        ("universal_logit", {"teacher_temperature": -1.0}, "teacher_temperature"),
    ],
)
def test_numbers_out_of_range_are_told(name, parameters, said):
    with pytest.raises(ValueError, match=said):
        getattr(losses, name)(STUDENT, TEACHER, **parameters)


def test_a_traced_number_that_chooses_the_formula_is_told():
    with pytest.raises(ValueError, match="beta is traced"):
        jax.jit(lambda beta: losses.generalized_jsd(STUDENT, TEACHER, beta=beta))(0.5)


@pytest.mark.parametrize(
    "name", ["soft_label_kl", "reverse_kl", "total_variation", "adaptive_kl", "margin_mse", "listwise_kl"]
)
def test_one_class_is_told(name):
    with pytest.raises(ValueError, match="one c"):
        getattr(losses, name)(STUDENT[:, :1], TEACHER[:, :1])
