"""What is particular to the losses of detectors: weights, normalisers, published reductions, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses

from . import oracles
from .families.detection import draw_boxes, draw_sides

RNG = np.random.default_rng(0)
MAPS = RNG.standard_normal((2, 3, 2, 3, 4))
WHERE = np.array([[[True, False, True], [True, True, True]], [[False] * 3, [True] * 3], [[False] * 3] * 2])
ARRAYS = {
    "class_response": MAPS,
    "localization_kl": draw_sides(RNG, (3,)),
    "box_distillation": draw_boxes(RNG, (3,)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_weights_agree_with_the_oracle_and_nan_stays_masked(name):
    student, teacher = ARRAYS[name]
    weights = RNG.random(WHERE.shape)
    expected = getattr(oracles, name)(student, teacher, weights=weights, where=WHERE)
    spread = WHERE.reshape(WHERE.shape + (1,) * (student.ndim - 3))
    spoilt = [np.where(spread, x, np.nan) for x in (student, teacher)]

    def total(student, weights):
        values = getattr(losses, name)(student, spoilt[1], weights=weights, where=WHERE)
        return values.sum(), values

    with jax.enable_x64(True):
        compute = jax.jit(jax.grad(total, (0, 1), has_aux=True))
        gradients, values = compute(spoilt[0], np.where(WHERE, weights, np.nan))
        (gradient, of_weights), values = [np.asarray(x) for x in gradients], np.asarray(values)
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert values[2] == 0
    assert np.isfinite(gradient).all()
    assert not np.where(spread, 0, gradient).any()
    # Detached, as in the code.
    assert not np.any(of_weights)
    assert not np.any(getattr(losses, name)(student, teacher, weights=np.zeros(WHERE.shape)))


@pytest.mark.parametrize("name", ["class_response", "box_distillation"])
def test_the_mean_over_the_batch_is_a_sum_by_the_positives_of_the_batch(name):
    student, teacher = ARRAYS[name]
    weights, positives = RNG.random(WHERE.shape), 7
    per_location = getattr(losses, name)(*(x.reshape(18, 1, -1) for x in (student, teacher)))
    expected = np.sum(per_location * weights.ravel()) / positives
    values = getattr(losses, name)(student, teacher, weights=weights, normalizer=positives / 3)
    np.testing.assert_allclose(np.mean(values), expected, rtol=1e-5)


def test_code_of_localization_is_a_fraction_of_the_sum():
    student, teacher = ARRAYS["localization_kl"]
    weights = RNG.random(WHERE.shape)
    normalized = losses.localization_kl(student, teacher, weights=weights)
    code = losses.localization_kl(student, teacher, weights=weights, variant="code")
    np.testing.assert_allclose(code, normalized * weights.sum((1, 2)) / student.shape[-1], rtol=1e-5)


def test_imitation_divides_by_the_positions_of_the_batch():
    student, teacher = MAPS
    cells = WHERE
    squares = np.square(student - teacher)
    inside, outside = squares[cells].sum() / (2 * cells.sum()), squares[~cells].sum() / (2 * (~cells).sum())
    np.testing.assert_allclose(losses.fine_grained_imitation(student, teacher, cells), inside, rtol=1e-5)
    weights = {"foreground_weight": 3, "background_weight": 12}
    value = losses.decoupled_feature(student, teacher, cells, **weights)
    np.testing.assert_allclose(value, (3 * inside + 12 * outside) / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("fine_grained_imitation", {}), ("decoupled_feature", {"foreground_weight": 3.0, "background_weight": 12.0})],
)
def test_padded_images_are_no_images(name, parameters):
    loss = functools.partial(getattr(losses, name), **parameters)
    padded = [np.concatenate([x, np.full_like(x[:1], np.nan)]) for x in MAPS]
    cells = np.concatenate([WHERE, WHERE[:1]])
    value = loss(*padded, cells, where=np.array([True, True, True, False]))
    np.testing.assert_allclose(value, loss(*MAPS, WHERE), rtol=1e-6)


def test_contexts_agree_with_the_oracle():
    student, teacher = MAPS
    contexts = RNG.standard_normal((2, 3, 4))
    foreground = np.where(WHERE, 0.25, 0)
    for given in ((contexts[0], contexts[1]), (contexts[0], None), (None, contexts[1])):
        for where in (None, WHERE):
            expected = oracles.focal_global(student, teacher, foreground, *given, relation_weight=0.1, where=where)
            with jax.enable_x64(True):
                values = losses.focal_global(student, teacher, foreground, *given, relation_weight=0.1, where=where)
            np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert np.asarray(values)[2] == 0


def test_equal_maps_have_no_gradient_at_any_size_and_rounding():
    # Attention is compared by absolute values: rounded in two ways, equal maps would get the gradient of its sign.
    x = RNG.standard_normal((2, 25, 38, 32)).astype(np.float32)
    loss = jax.jit(jax.value_and_grad(lambda s, t: losses.focal_global(s, t, jnp.zeros(s.shape[:3])).sum()))
    value, gradient = loss(x, x)
    assert value == 0
    assert not gradient.any()


def test_objects_by_hand():
    """The whole image; the middle of it, in an image of another size; one that reaches beyond the border."""
    boxes = np.array(
        [[[0.0, 0, 80, 40], [20, 10, 30, 20]], [[4, 2, 6, 4], [-1, -1, -1, -1]], [[7, 0, 9, 1], [0, 0, 0, 0]]]
    )
    scales = losses.object_scales(boxes, np.array([[40, 80], [8, 16], [4, 8]]), (4, 8))
    whole = np.full((4, 8), 1 / 45)
    whole[1:3, 2:4] = 1 / 4
    middle = np.zeros((4, 8))
    middle[1:3, 2:4] = 1 / 4
    border = np.zeros((4, 8))
    border[:2, 7:] = 1 / 6
    np.testing.assert_allclose(scales, [whole, middle, border], rtol=1e-6)
    none = losses.object_scales(np.zeros((3, 0, 4)), (40, 80), (4, 8))
    np.testing.assert_array_equal(none, np.zeros((3, 4, 8)))


def test_boxes_by_hand():
    student, teacher = np.array([[[0.0, 0, 2, 2]]]), np.array([[[1.0, 1, 3, 3]]])
    for variant, value in (("iou", 6 / 7), ("giou", 6 / 7 + 2 / 9), ("l1", 4), ("smooth_l1", 2)):
        got = losses.box_distillation(student, teacher, variant=variant)
        np.testing.assert_allclose(got, [value], rtol=1e-6)


def test_boxes_of_any_unit():
    """Far below an area of 1e-6, and far above: only the gradient has the unit, inverted."""
    equal = np.float32([[[0.1, 0.1, 0.1005, 0.1005]]])
    student, teacher = np.float32([[[0.1, 0.1, 0.4, 0.5]]]), np.float32([[[0.2, 0.15, 0.6, 0.45]]])
    for variant in ("iou", "giou"):
        loss = jax.value_and_grad(lambda s, t, v=variant: losses.box_distillation(s, t, variant=v).sum(), (0, 1))
        value, gradients = loss(equal, equal)
        np.testing.assert_allclose(value, 0, atol=1e-6)
        # Per side, as everything is at this size.
        np.testing.assert_allclose(np.multiply(gradients, 5e-4), 0, atol=1e-6)
        expected, slopes = loss(student, teacher)
        for unit in (1e-8, 1e-4, 1e4):
            value, gradients = loss(np.float32(unit) * student, np.float32(unit) * teacher)
            np.testing.assert_allclose(value, expected, rtol=1e-5)
            np.testing.assert_allclose(np.multiply(gradients, unit), slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["iou", "giou"])
def test_boxes_without_area_have_finite_gradients(variant):
    point, far, line = [[0.0, 0, 0, 0]], [[1e4, 1e4, 1e4, 1e4]], [[0.0, 0, 0, 1e4]]
    speck, square = [[1e-12, 0, 2e-12, 1e-12]], [[0.0, 0, 2, 2]]
    boxes = [np.float32([box]) for box in (point, far, line, speck, square)]
    for student in boxes:
        for teacher in boxes:
            value, gradients = jax.value_and_grad(
                lambda s, t: losses.box_distillation(s, t, variant=variant).sum(), (0, 1)
            )(student, teacher)
            assert 0 <= value <= 2
            assert np.isfinite(gradients).all()


def test_corners_out_of_order():
    """A centre and a size are no corners: known ones raise, and traced ones stay in the range."""
    student, teacher = np.float32([[[50, 80, 10, 10]]]), np.float32([[[52, 50, 60, 60]]])
    for variant in ("iou", "giou"):
        loss = functools.partial(losses.box_distillation, variant=variant)
        with pytest.raises(ValueError, match=r"student boxes \[1,1,4\] have corners out of order.*centre"):
            loss(student, teacher)
        with pytest.raises(ValueError, match="teacher boxes"):
            loss(teacher, student)
        for pair in ((student, teacher), (teacher, student), (student, student)):
            assert 0 <= jax.jit(loss)(*pair) <= 2
        both = np.concatenate([teacher, student], 1)
        np.testing.assert_allclose(loss(both, both, where=np.array([[True, False]])), 0, atol=1e-6)
    np.testing.assert_allclose(losses.box_distillation(student, teacher, variant="l1"), 132)


def test_beta_may_be_traced_and_changes_no_type():
    student, teacher = MAPS.astype(np.float32)
    for beta in (1, 2.0, 1.5):
        expected = losses.class_response(student, teacher, beta=beta)
        traced = jax.jit(losses.class_response)(student, teacher, beta=beta)
        np.testing.assert_allclose(traced, expected, rtol=1e-5)
        gradient = jax.jit(jax.grad(lambda b: losses.class_response(student, student, beta=b).sum()))(float(beta))
        assert gradient == 0
        with jax.enable_x64(True):
            assert losses.class_response(student, teacher, beta=np.float64(beta)).dtype == jnp.float32


def test_focal_global_promotes_nothing_by_itself():
    student, teacher = MAPS.astype(np.float32)
    scales = np.where(WHERE, 0.25, 0).astype(np.float32)
    for where in (None, jnp.asarray(WHERE)):
        expected = losses.focal_global(student, teacher, scales, where=where)
        with jax.numpy_dtype_promotion("strict"):
            values = losses.focal_global(*map(jnp.asarray, (student, teacher, scales)), where=where)
        np.testing.assert_array_equal(values, expected)


def test_errors():
    student, teacher = MAPS
    for said, arguments in (
        (r"weights \[3,2\].*\[3,2,3\]", {"weights": np.ones((3, 2))}),
        (r"normalizer \[2\].*\[3\]", {"normalizer": np.ones(2)}),
        ("beta", {"beta": 0.5}),
        (r"beta \[3\]: .*scalar", {"beta": np.ones(3)}),
        ("weights.*-1", {"weights": np.full((3, 2, 3), -1.0)}),
        ("normalizer", {"normalizer": 0}),
    ):
        with pytest.raises(ValueError, match=said):
            losses.class_response(student, teacher, **arguments)
    with pytest.raises(ValueError, match=r"student logits \[3,2,3,4\], teacher logits \[3,2,3,2\]: .*same classes"):
        losses.class_response(student, teacher[..., :2])
    with pytest.raises(ValueError, match="four coordinates"):
        losses.box_distillation(student[..., :3], teacher[..., :3])
    with pytest.raises(ValueError, match=r"student boxes \[3,2,3,4\] are int32"):
        losses.box_distillation(student.astype(np.int32), teacher)
    with pytest.raises(ValueError, match=r"student boxes \[3,2,3,4\], teacher boxes \[3,2,2,4\]"):
        losses.box_distillation(student, teacher[:, :, :2])
    with pytest.raises(ValueError, match=r"temperature \[3\]"):
        losses.localization_kl(student, teacher, np.ones(3))
    with pytest.raises(ValueError, match="one bin"):
        losses.localization_kl(student[..., :1], teacher[..., :1])
    raw = np.zeros((2, 100, 68))
    with pytest.raises(ValueError, match=r"\[2,100,68\].*100 sides.*reshape a head's \[\.\.\., 4 \* bins\]"):
        losses.localization_kl(raw, raw)
    for wrong in (np.ones((3, 2, 3)), np.ones((3, 2), bool)):
        with pytest.raises(ValueError, match="foreground"):
            losses.fine_grained_imitation(student, teacher, jnp.asarray(wrong))
    with pytest.raises(ValueError, match=r"where \[2\].*examples \[3\]"):
        losses.fine_grained_imitation(student, teacher, WHERE, where=np.ones(2, bool))
    with pytest.raises(ValueError, match="background_weight"):
        losses.decoupled_feature(student, teacher, WHERE, foreground_weight=1, background_weight=-1)


def test_errors_of_focal_and_global():
    student, teacher = MAPS
    foreground, context = np.ones((3, 2, 3)), np.ones((3, 4))
    for said, arguments, numbers in (
        (r"scales \[3,2,3\] are bool.*object_scales makes them", (foreground > 0,), {}),
        (r"scales \[3,2\].*\[3,2,3\]", (foreground[..., 0],), {}),
        (r"student_context \[4\].*\[3,2,3,4\]", (foreground, context[0]), {}),
        ("teacher_context", (foreground, None, context[:, :2]), {}),
        ("temperature", (foreground,), {"temperature": 0.0}),
        (r"temperature \[3\]", (foreground,), {"temperature": np.ones(3)}),
        ("relation_weight", (foreground,), {"relation_weight": -1.0}),
        (r"attention_weight \[3\]", (foreground,), {"attention_weight": np.ones(3)}),
    ):
        with pytest.raises(ValueError, match=said):
            losses.focal_global(student, teacher, *arguments, **numbers)
    boxes = np.ones((3, 5, 4))
    for said, arguments in (
        (r"boxes \[3,5\]", (boxes[..., 0], (4, 4), (2, 3))),
        (r"image_size \[3\].*\[3,5,4\]", (boxes, (4, 4, 3), (2, 3))),
        ("image_size", (boxes, (4, 0), (2, 3))),
        ("size is", (boxes, (4, 4), (0, 3))),
    ):
        with pytest.raises(ValueError, match=said):
            losses.object_scales(*arguments)
