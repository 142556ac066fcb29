"""What is particular to losses on correlations: identities, limits, repeated singular values, errors."""

import jax
import numpy as np
import pytest

from jaxkd.losses import (
    cka,
    class_activation,
    cosine_embedding,
    inter_channel_correlation,
    norm_and_direction,
    pearson_feature,
    projected_log_error,
    singular_value,
)

from . import oracles

RNG = np.random.default_rng(0)
A, B = RNG.standard_normal((2, 5, 7)).astype(np.float32)
MAPS = RNG.standard_normal((4, 3, 2, 4, 5)).astype(np.float32)
CENTERS = RNG.standard_normal((3, 7)).astype(np.float32)
LABELS = np.array([0, 2, -1, 1, 2])


def test_cosine_ignores_lengths_and_knows_opposites():
    np.testing.assert_allclose(cosine_embedding(7 * A, A), 0, atol=1e-6)
    np.testing.assert_allclose(cosine_embedding(-A, A), 2, rtol=1e-6)
    np.testing.assert_allclose(cosine_embedding(np.zeros_like(A), A), 1, rtol=1e-6)
    np.testing.assert_allclose(cosine_embedding(1e3 * A, 1e-3 * B), cosine_embedding(A, B), rtol=1e-5)


def test_cosine_is_precise_near_equality():
    """To first order half the squared angle, which one minus a cosine would lose in float32."""
    angles = np.array([1e-2, 1e-3, 1e-4], np.float32)
    turned = np.stack([np.cos(angles), np.sin(angles)], -1)
    np.testing.assert_allclose(cosine_embedding(turned, np.float32([[1, 0]] * 3)), angles**2 / 2, rtol=1e-4, atol=2e-12)


def test_pearson_is_one_minus_the_correlation():
    student, teacher = (x.astype(np.float64).reshape(-1, 5) for x in MAPS[:2])
    correlations = [np.corrcoef(student[:, c], teacher[:, c])[0, 1] for c in range(5)]
    expected = (1 - np.mean(correlations)) * (len(student) - 1) / len(student)
    np.testing.assert_allclose(pearson_feature(*MAPS[:2]), expected, rtol=1e-5)
    np.testing.assert_allclose(pearson_feature(3 * MAPS[0] + 100, MAPS[0]), 0, atol=1e-6)


def test_pearson_of_channels_that_are_dead():
    student, teacher = MAPS[:2].copy()
    student[..., 0] = 0
    value, gradient = jax.value_and_grad(pearson_feature)(student, teacher)
    expected = np.mean([0.5 * 23 / 24, *(pearson_feature(student[..., c:], teacher[..., c:]) for c in [1] * 4)])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_variants_of_inter_channel_correlation():
    of_example = np.asarray(inter_channel_correlation(*MAPS[:2]))
    np.testing.assert_allclose(inter_channel_correlation(*MAPS[:2], variant="imagenet"), of_example / 3, rtol=1e-6)
    # Scaling a map scales its products; positions have no order, and may be of another number.
    np.testing.assert_allclose(inter_channel_correlation(9 * MAPS[0], MAPS[1]), of_example, rtol=1e-5)
    larger = np.concatenate([MAPS[1], MAPS[1]], 1)
    np.testing.assert_allclose(inter_channel_correlation(MAPS[0], larger), of_example, rtol=1e-5)


def test_class_activation_by_hand():
    student, teacher = np.float32([[[3], [4]]]), np.float32([[[0], [2]]])
    np.testing.assert_allclose(class_activation(student, teacher), [(0.6**2 + 0.2**2) / 2], rtol=1e-6)
    np.testing.assert_allclose(class_activation(student, teacher, variant="raw"), [(9 + 4) / 2], rtol=1e-6)
    single = MAPS[:, :, :1, :1]
    with pytest.raises(ValueError, match="one position"):
        class_activation(*single[:2])
    assert np.all(class_activation(*single[:2], variant="raw") > 0)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_singular_value_is_zero_at_equality(scale):
    first, second = scale * MAPS[:2]

    def loss(*student):
        return singular_value(student, (first, second)).sum()

    value, gradients = jax.value_and_grad(loss, (0, 1))(first, second)
    np.testing.assert_allclose(value, 0, atol=1e-9)
    np.testing.assert_allclose(gradients, 0, atol=1e-6)


def test_singular_vectors_have_no_sign():
    expected = singular_value(list(MAPS[:2]), list(MAPS[2:]), k=2)
    signs = np.float32([-1, 1])
    for student, teacher in ((signs, -signs), (-signs, signs), (signs, signs)):
        turned = [
            [s * x for s, x in zip(sign, maps, strict=True)]
            for sign, maps in ((student, MAPS[:2]), (teacher, MAPS[2:]))
        ]
        np.testing.assert_allclose(singular_value(*turned, k=2), expected, rtol=1e-4)


def test_singular_value_of_three_layers_is_the_sum_of_two_pairs():
    student, teacher = [MAPS[0], MAPS[1], MAPS[2][..., :3]], [MAPS[1], MAPS[3], MAPS[0][..., :3]]
    pairs = singular_value(student[:2], teacher[:2]) + singular_value(student[1:], teacher[1:])
    np.testing.assert_allclose(singular_value(student, teacher), pairs, rtol=1e-5)


def test_singular_value_of_more_channels_than_positions():
    maps = [x.reshape(3, 4, 10).astype(np.float64) for x in MAPS]
    direction = RNG.standard_normal(maps[0].shape)

    def moved(step):
        return [maps[0] + step * direction, maps[1]], maps[2:]

    with jax.enable_x64(True):
        value, slope = jax.jvp(lambda step: singular_value(*moved(step), k=2), (0.0,), (1.0,))
    np.testing.assert_allclose(value, oracles.singular_value(*moved(0), k=2), rtol=1e-10)
    sides = [oracles.singular_value(*moved(step), k=2) for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (sides[0] - sides[1]) / 2e-5, rtol=1e-5)


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5])
def test_gradient_is_finite_where_singular_values_repeat(gap):
    """As of an identity, of a projection, and of what rounding leaves of them."""
    values = np.diag(1 + gap * np.arange(5)).astype(np.float32)
    rotation = np.linalg.qr(RNG.standard_normal((5, 5)))[0].astype(np.float32)
    for map_ in (values, rotation @ values, values * (np.arange(5) < 2)):
        student = [np.stack([map_] * 3)] * 2
        gradients = jax.grad(lambda s: singular_value(s, [x.reshape(3, 8, 5) for x in MAPS[:2]], k=2).sum())(student)
        assert np.isfinite(gradients).all()


def test_projected_log_error_stops_at_its_eps():
    np.testing.assert_allclose(projected_log_error(A, A), np.log(1e-12), rtol=1e-6)
    np.testing.assert_allclose(projected_log_error(A, 3 * A + 1, variant="correlation"), np.log(1e-5), rtol=1e-5)
    assert np.isfinite(jax.grad(projected_log_error)(A, A)).all()
    # A constant feature has no correlation: its error is 1, whatever rounding its mean takes.
    constant = np.full((5, 7), 1000.1, np.float32)
    np.testing.assert_allclose(projected_log_error(constant, A, variant="correlation"), np.log(7), rtol=1e-5)


def test_norm_and_direction_pulls_on_norm_below_the_teacher_only():
    center = CENTERS[:1]
    for scale, pulls in ((0.5, True), (2.0, False)):
        student = scale * np.float32(np.linalg.norm(B[:1])) * center / np.linalg.norm(center)
        loss = jax.value_and_grad(lambda s: norm_and_direction(s, B[:1], np.array([0]), center).sum())
        value, gradient = loss(student)
        np.testing.assert_allclose(value, 0.5 if pulls else 0, atol=1e-6)
        assert (np.linalg.norm(gradient) > 1e-2) == pulls


def test_norm_and_direction_without_label_or_with_a_mask():
    spoilt = A.copy()
    spoilt[2] = np.nan
    where = np.ones((5, 7), bool)
    where[:, 5:] = False
    spoilt[:, 5:] = np.nan
    values, gradient = jax.value_and_grad(
        lambda s: (lambda v: (v.sum(), v))(norm_and_direction(s, B, LABELS, CENTERS, where=where)), has_aux=True
    )(spoilt)
    np.testing.assert_allclose(values[1], oracles.norm_and_direction(A, B, LABELS, CENTERS, where=where), rtol=1e-5)
    assert values[1][2] == 0
    assert np.isfinite(gradient).all()
    assert not gradient[2].any()
    assert not gradient[:, 5:].any()
    nothing = norm_and_direction(A, B, LABELS, CENTERS, where=np.zeros((5, 7), bool))
    np.testing.assert_array_equal(nothing, 0)
    traced = jax.jit(norm_and_direction)(A, B, np.array([0, 2, -1, 1, 3]), CENTERS)
    np.testing.assert_array_equal(np.isnan(traced), [False] * 4 + [True])


def test_cka_ignores_rotation_scale_and_offset():
    rotation = np.linalg.qr(RNG.standard_normal((7, 7)))[0].astype(np.float32)
    np.testing.assert_allclose(cka(3 * A @ rotation + 5, A), 0, atol=1e-5)
    np.testing.assert_allclose(cka(np.full_like(A, 0.1), A), 1, rtol=1e-6)
    assert 0.01 < cka(A, B[:, :2]) < 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: cosine_embedding(A, B[:, :3]), r"\[5,7\].*\[5,3\]: add a connector"),
        (lambda: pearson_feature(*MAPS[:2], axis=0), "axis 0"),
        (lambda: pearson_feature(A[:1], B[:1]), "one example"),
        (
            lambda: pearson_feature(*MAPS[:2], where=np.ones((4, 1), bool)),
            r"where \[4,1\], positions \[3,2,4\]: .*as many axes",
        ),
        (lambda: inter_channel_correlation(MAPS[0], MAPS[1][..., :3]), r"\[3,2,4,5\].*\[3,2,4,3\].*convolution"),
        (lambda: inter_channel_correlation(*MAPS[:2], variant="paper"), "'cifar', 'imagenet'"),
        (lambda: class_activation(*MAPS[:2], variant="paper"), "'normalized', 'raw'"),
        (lambda: projected_log_error(A, B, variant="paper"), "'difference', 'correlation'"),
        (lambda: projected_log_error(A, B[:, :3]), r"\[5,7\].*\[5,3\]: project"),
        (lambda: cka(A, B[:3]), r"\[5,7\].*\[3,7\]"),
        (lambda: cka(A[:2], B[:2]), r"\[2,7\]: two examples.*3 or more"),
        (lambda: inter_channel_correlation(*MAPS[:2, ..., :1]), r"\[3,2,4,1\] has one channel"),
        (lambda: singular_value(list(MAPS[:2, ..., :1]), list(MAPS[2:, ..., :1])), r"\[3,2,4,1\].*one channel each"),
        (lambda: norm_and_direction(A, B, LABELS, CENTERS[:, :3]), r"centers \[3,3\].*\[5,7\].*\[classes, 7\]"),
        (lambda: norm_and_direction(A, B, LABELS, CENTERS[:2]), "labels go up to 2, of 2 classes"),
        (lambda: singular_value(MAPS[0], MAPS[1]), "lists or tuples"),
        (lambda: singular_value([MAPS[0]], [MAPS[1]]), "two or more layers"),
        (lambda: singular_value(list(MAPS[:2]), list(MAPS[2:]), k=6), "k is 6: .* have 5 singular vectors"),
        (lambda: singular_value(list(MAPS[:2]), list(MAPS[2:]), k=0), "1 or more"),
        (lambda: singular_value([MAPS[0], MAPS[1]], [MAPS[0], MAPS[1][..., :3]]), r"\[3,2,4,5\].*\[3,2,4,3\]"),
    ],
)
def test_errors_name_shapes_and_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()
