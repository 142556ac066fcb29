"""Particular properties of the losses that refine the distillation loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses

from . import oracles

LABELLED = ("decoupled_kd", "normalized_kd", "weighted_soft_label", "one_for_all", "teacher_free", "scale_decoupled_kd")
PAIRS = ("transformed_teacher_matching", "dist", "multi_level_kd")


def inputs(seed=0, batch=4, classes=7):
    rng = np.random.default_rng(seed)
    student, teacher = 3 * rng.standard_normal((2, batch, classes))
    return student, teacher, rng.integers(0, classes, batch)


def call(name, student, teacher, labels, **keywords):
    """The loss of any of ``LABELLED`` and ``PAIRS``."""
    loss = getattr(losses, name)
    if name == "teacher_free":
        return loss(student, labels, **keywords)
    if name == "scale_decoupled_kd":
        where = keywords.pop("where", None)
        keywords |= {} if where is None else {"where": where[:, None]}
        return loss(jnp.stack([student, 2 * student], 1), jnp.stack([teacher, teacher[:, ::-1]], 1), labels, **keywords)
    return loss(student, teacher, labels, **keywords) if name in LABELLED else loss(student, teacher, **keywords)


@pytest.mark.parametrize("name", LABELLED)
def test_without_a_label_of_its_own_an_example_gives_nothing(name):
    student, teacher, labels = inputs()
    labels[1] = -1
    where = np.ones((4, 7), bool)
    where[2, labels[2]] = False

    def total(student):
        values = call(name, student, teacher, labels, where=where)
        return jnp.sum(values), values

    gradient, values = jax.grad(total, has_aux=True)(student)
    np.testing.assert_array_equal(np.asarray(values) == 0, [False, True, True, False])
    np.testing.assert_array_equal(np.any(gradient, 1), [True, False, False, True])


@pytest.mark.parametrize("name", LABELLED)
def test_traced_label_beyond_the_classes_is_nan(name):
    student, teacher, labels = inputs()
    values = jax.jit(lambda labels: call(name, student, teacher, labels))(np.where(np.arange(4) == 2, 7, labels))
    np.testing.assert_array_equal(np.isnan(values), np.arange(4) == 2)


@pytest.mark.parametrize("name", [*LABELLED, *PAIRS])
def test_one_class_raises(name):
    student, teacher, labels = inputs(classes=1)
    with pytest.raises(ValueError, match="one class"):
        call(name, student, teacher, labels)


@pytest.mark.parametrize("name", [*LABELLED, *PAIRS])
def test_classes_that_the_teacher_excludes(name):
    student, teacher, labels = inputs()
    labels[:] = 0
    # Of the second example all but the label, of the third the label itself.
    teacher[0, 3:], teacher[1, 1:], teacher[2, 0] = -np.inf, -np.inf, -np.inf

    def total(student, teacher):
        values = call(name, student, teacher, labels)
        return jnp.sum(values), values

    gradients, values = jax.grad(total, (0, 1), has_aux=True)(student, teacher)
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("name", ["decoupled_kd", "normalized_kd", "weighted_soft_label", "one_for_all"])
def test_own_class_that_both_exclude(name):
    """The others' part is left, which the same losses of huge negative logits have."""
    student, teacher, labels = inputs()
    labels[:] = 0
    values = {}
    for lowest in (-np.inf, -1e4):
        student[2:, 0], teacher[2:, 0] = lowest, lowest
        total = lambda *logits: (jnp.sum(x := call(name, *logits, labels)), x)  # noqa: E731
        gradients, values[lowest] = jax.jit(jax.grad(total, (0, 1), has_aux=True))(student, teacher)
        assert np.isfinite(gradients).all()
    if name == "weighted_soft_label":  # But for the weight: 0, as where the teacher alone excludes it.
        np.testing.assert_array_equal(values[-np.inf][2:], 0)
    else:
        np.testing.assert_allclose(values[-np.inf], values[-1e4], rtol=1e-5)


@pytest.mark.parametrize("name", ["transformed_teacher_matching", "multi_level_kd", "teacher_free"])
def test_unknown_variant_lists_what_there_is(name):
    with pytest.raises(ValueError, match=r"'other'.*'(wttm|code)'"):
        call(name, *inputs(), variant="other")


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("decoupled_kd", {"temperature": 0.0}),
        ("decoupled_kd", {"beta": -1.0}),
        ("normalized_kd", {"gamma": -1.0}),
        ("weighted_soft_label", {"temperature": -1.0}),
        ("transformed_teacher_matching", {"exponent": 0.0}),
        ("one_for_all", {"exponent": 0.0}),
        ("teacher_free", {"confidence": 1.5}),
        ("dist", {"gamma": -1.0}),
        ("dist", {"temperature": np.ones(4)}),
        ("multi_level_kd", {"temperatures": (1.0, 0.0)}),
        ("multi_level_kd", {"temperatures": ()}),
        ("multi_level_kd", {"temperatures": (np.ones(4), 2.0)}),
    ],
)
def test_number_out_of_range(name, keywords):
    with pytest.raises(ValueError, match=next(iter(keywords))):
        call(name, *inputs(), **keywords)


def test_decoupled_kd_couples_to_the_distillation_loss():
    """With beta = 1 - p_y it is the KL divergence of all classes."""
    student, teacher, labels = inputs()
    p = losses.softmax_with_temperature(teacher, 4.0)[np.arange(4), labels]
    values = losses.decoupled_kd(student, teacher, labels, beta=1 - p)
    np.testing.assert_allclose(values, losses.soft_label_kl(student, teacher, 4.0), rtol=1e-5)


def test_decoupled_kd_by_hand():
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2), label 0."""
    student, teacher = np.log([[1.0, 1.0, 2.0]]), np.log([[2.0, 1.0, 1.0]])
    of_target = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    of_others = 0.5 * np.log(0.5 / (1 / 3)) + 0.5 * np.log(0.5 / (2 / 3))
    values = losses.decoupled_kd(student, teacher, np.array([0]), 1.0, alpha=2.0, beta=3.0)
    np.testing.assert_allclose(values, [2 * of_target + 3 * of_others], rtol=1e-5)


def test_standardized_logits_have_neither_shift_nor_scale():
    logits, _, _ = inputs()
    standardized = losses.standardize_logits(logits)
    np.testing.assert_allclose(losses.standardize_logits(5 * logits - 100), standardized, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.std(standardized, -1, ddof=1), 1, rtol=1e-5)


def test_weight_of_soft_labels_is_a_constant():
    student, teacher, labels = inputs(batch=2)
    with jax.enable_x64(True):
        gradients = jax.grad(lambda *x: jnp.sum(losses.weighted_soft_label(*x, labels)), (0, 1))(student, teacher)
    for i, gradient in enumerate(map(np.asarray, gradients)):
        for at in np.ndindex(student.shape):
            moved = np.stack([student, teacher])
            sides = []
            for step in (1e-5, -1e-5):
                moved[(i, *at)] = (student, teacher)[i][at] + step
                sides.append(np.sum(oracles.weighted_soft_label(*moved, labels, weights_of=(student, teacher))))
            assert abs((sides[0] - sides[1]) / 2e-5 - gradient[at]) < 1e-6


def test_variants_of_transformed_teacher_matching_meet_at_exponent_one():
    student, teacher, _ = inputs()
    for variant in ("ttm", "wttm"):
        values = losses.transformed_teacher_matching(student, teacher, 1.0, variant=variant)
        np.testing.assert_allclose(values, losses.soft_label_kl(student, teacher, 1.0), rtol=1e-5)


def test_one_for_all_of_exponent_one_is_the_soft_cross_entropy():
    student, teacher, labels = inputs()
    soft = -np.sum(jax.nn.softmax(teacher) * jax.nn.log_softmax(student), -1)
    np.testing.assert_allclose(losses.one_for_all(student, teacher, labels), soft, rtol=1e-5)


def test_virtual_teacher_of_the_code_is_all_but_uniform():
    logits, _, labels = inputs(classes=100)
    uniform = -np.mean(jax.nn.log_softmax(logits), -1) / 100 - np.log(100) / 100
    np.testing.assert_allclose(losses.teacher_free(logits, labels, variant="code"), uniform, rtol=5e-2)


def test_dist_is_all_but_zero_where_student_and_teacher_correlate():
    """The 1e-8 beside the norms is all that is left."""
    student, _, _ = inputs()
    assert abs(losses.dist(student, student)) < 1e-4
    assert abs(losses.dist(student + 7, student)) < 1e-4


def test_dist_of_one_valid_example_has_no_relation_within_a_class():
    student, teacher, _ = inputs()
    where = np.arange(4) == 1
    alone = losses.dist(student, teacher, where=where)
    np.testing.assert_allclose(alone, losses.dist(student, teacher, gamma=0.0, where=where), rtol=1e-6)
    np.testing.assert_allclose(losses.dist(student, teacher, gamma=1.0, beta=0.0, where=where), 0)


def test_one_example_on_each_device_makes_a_batch():
    student, teacher, _ = inputs(batch=8)
    loss = jax.pmap(lambda s, t: losses.dist(s, t, axis_name="devices"), axis_name="devices")
    whole = np.full(8, losses.dist(student, teacher))
    np.testing.assert_allclose(loss(student[:, None], teacher[:, None]), whole, rtol=1e-5)


@pytest.mark.parametrize("name", ["dist", "multi_level_kd"])
def test_relations_take_a_batch(name):
    student, teacher, _ = inputs()
    with pytest.raises(ValueError, match=r"\[1,4,7\].*\[batch, classes\]"):
        getattr(losses, name)(student[None], teacher[None])


def test_scale_decoupled_kd_of_the_whole_alone_is_decoupled_kd():
    student, teacher, labels = inputs()
    values = losses.scale_decoupled_kd(student[:, None], teacher[:, None], labels)
    np.testing.assert_allclose(values, losses.decoupled_kd(student, teacher, labels), rtol=1e-6)


def test_scale_decoupled_kd_doubles_regions_that_tell_something_else():
    student, teacher, _ = inputs(batch=1)
    order = np.argsort(teacher[0])
    whole, otherwise = teacher[0], np.where(np.arange(7) == order[0], 20.0, teacher[0])
    likeliest = order[-1:]
    s, t = np.stack([student[0]] * 3)[None], np.stack([whole, otherwise, whole])[None]
    parts = losses.decoupled_kd(s, t, np.repeat(likeliest, 3)[None])[0]
    want = (parts[0] + 2 * parts[1] + parts[2]) / 3
    np.testing.assert_allclose(losses.scale_decoupled_kd(s, t, likeliest), [want], rtol=1e-6)


def test_scale_decoupled_kd_takes_the_first_of_equal_answers():
    rng = np.random.default_rng(0)
    student, teacher = rng.integers(0, 3, (2, 8, 4, 7)).astype(np.float32)
    labels = rng.integers(0, 7, 8)
    want = oracles.scale_decoupled_kd(student, teacher, labels)
    np.testing.assert_allclose(losses.scale_decoupled_kd(student, teacher, labels), want, rtol=1e-5)


def test_scale_decoupled_kd_with_where_is_dropping():
    rng = np.random.default_rng(0)
    student, teacher = rng.standard_normal((2, 4, 3, 7)).astype(np.float32)
    labels = np.array([0, 1, 0, -1])
    where = np.arange(7) < 5
    spoilt = [np.where(where, x, np.nan) for x in (student, teacher)]
    value_and_grad = jax.value_and_grad(lambda s, t, **k: jnp.sum(losses.scale_decoupled_kd(s, t, labels, **k)), (0, 1))
    value, gradients = value_and_grad(*spoilt, where=where)
    want, wanted = value_and_grad(student[..., :5], teacher[..., :5])
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for gradient, of_kept in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(gradient[..., :5], of_kept, rtol=1e-4, atol=1e-6)
        assert not gradient[..., 5:].any()
    everywhere = np.broadcast_to(where, student.shape)
    want = oracles.scale_decoupled_kd(student, teacher, labels, where=everywhere)
    np.testing.assert_allclose(losses.scale_decoupled_kd(*spoilt, labels, where=everywhere), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "grids"),
    [((4, 4), (1, 2, 4)), ((8, 8), (1, 2)), ((7, 5), (1, 2, 4)), ((7, 5), (1, 2)), ((3, 2), (1, 2)), ((5, 10), (1, 5))],
)
def test_regions_of_a_map(size, grids):
    features = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    regions = losses.region_means(features, grids)
    assert regions.shape == (2, sum(grid**2 for grid in grids), 3)
    np.testing.assert_allclose(regions, oracles.region_means(features, grids=grids), rtol=1e-5, atol=1e-6)
    if not any(n % max(4, *grids) for n in size):
        np.testing.assert_allclose(regions[:, 0], features.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "grids", "said"),
    [((2, 2, 4, 3), (1, 2, 4), "smaller"), ((2, 4), (1,), "spatial"), ((2, 4, 4, 3), (), "grids")],
)
def test_maps_without_such_regions(shape, grids, said):
    with pytest.raises(ValueError, match=said):
        losses.region_means(np.zeros(shape, np.float32), grids)
