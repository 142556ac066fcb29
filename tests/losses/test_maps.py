"""What the losses on maps have of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from jaxkd.losses._maps import adaptive_average_pool

from .oracles import maps as oracles


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def agrees(name, *arrays, axis=None, **parameters):
    """Value of loss and oracle, in float64; ``axis`` moves the channels there first."""
    expected = getattr(oracles, name)(*arrays, **parameters)
    if axis is not None:
        arrays = [np.moveaxis(x, -1, axis) for x in arrays]
        parameters["axis"] = axis
    with jax.enable_x64(True):
        np.testing.assert_allclose(getattr(losses, name)(*arrays, **parameters), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (1, 1), (3, 4), (5, 5), (8, 12), (4, 4)])
def test_adaptive_average_pool(size):
    x = normal(2, 8, 12, 3)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            adaptive_average_pool(jnp.asarray(x), (1, 2), size), oracles.adaptive_average_pool(x, size), rtol=1e-12
        )
        small = x[:, :2, :3]
        np.testing.assert_allclose(
            adaptive_average_pool(jnp.asarray(small), (1, 2), size),
            oracles.adaptive_average_pool(small, size),
            rtol=1e-12,
        )


def test_bins_by_hand():
    """Of five, three bins hold the elements 0-1, 1-3 and 3-4."""
    pooled = adaptive_average_pool(jnp.arange(5.0), (0,), (3,))
    np.testing.assert_allclose(pooled, [0.5, 2.0, 3.5], rtol=1e-6)


@pytest.mark.parametrize("name", ["attention_transfer", "neuron_selectivity", "factor_transfer"])
@pytest.mark.parametrize("axis", [None, 1, 2])
def test_the_larger_map_is_pooled(name, axis):
    channels = (3, 3) if name == "factor_transfer" else (3, 5)
    small, large = normal(2, 3, 4, channels[0]), normal(2, 5, 8, channels[1], seed=1)
    agrees(name, small, large, axis=axis)
    agrees(name, large, small, axis=axis)


def test_sizes_of_fsp_are_everyones_own():
    first, second = normal(2, 5, 7, 3), normal(2, 3, 4, 2, seed=1)
    other_first, other_second = normal(2, 4, 4, 3, seed=2), normal(2, 4, 6, 2, seed=3)
    for axis in (None, 1):
        agrees("fsp", first, second, other_first, other_second, axis=axis)
        agrees("fsp", second, first, other_second, other_first, axis=axis, variant="paper")


def test_fsp_is_zero_at_equality():
    first, second = (normal(3, 4, 4, c, seed=c).astype(np.float32) for c in (3, 5))
    values, gradients = jax.value_and_grad(lambda *x: losses.fsp(*x).sum(), (0, 1))(first, second, first, second)
    np.testing.assert_allclose(values, 0, atol=1e-9)
    assert all(np.abs(g).max() < 1e-6 for g in gradients)


def test_attention_map_keeps_positions():
    x = normal(2, 3, 5, 4)
    for variant in ("code", "paper", "sum"):
        expected = losses.attention_map(x, variant=variant)
        assert expected.shape == (2, 3, 5)
        for axis in (1, 2, -2):
            moved = losses.attention_map(np.moveaxis(x, -1, axis), variant=variant, axis=axis)
            np.testing.assert_allclose(moved, expected, rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(losses.attention_map(x, variant="sum"), (1, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(losses.attention_map(x) ** 2, (1, 2)), 1, rtol=1e-6)


def test_attention_by_hand():
    """Energies 3 and 4 against 0 and 1: unit vectors (.6, .8) and (0, 1)."""
    student, teacher = np.sqrt([[[3.0], [4.0]]]), np.array([[[0.0, 0.0], [1.0, 0.0]]])
    np.testing.assert_allclose(losses.attention_transfer(student, teacher), 0.2, rtol=1e-6)
    np.testing.assert_allclose(losses.attention_transfer(student, teacher, variant="paper"), np.sqrt(0.4), rtol=1e-6)
    np.testing.assert_allclose(losses.attention_transfer(student, teacher, variant="sum"), (3 / 7) ** 2, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(2, 2, 8, 6), (5, 4, 3, 5), (4, 4, 1, 2), (7, 1, 6, 2)])
def test_both_forms_of_the_kernel(sizes):
    """More channels than positions, and fewer."""
    height, width, channels, others = sizes
    for axis in (None, 1, 2):
        agrees("neuron_selectivity", normal(2, height, width, channels), normal(2, height, width, others), axis=axis)


def test_neuron_selectivity_at_equality_with_few_channels():
    x = normal(3, 6, 6, 4).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda s: losses.neuron_selectivity(s, x).sum())(x)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_channel_wise_has_no_level():
    student, teacher = normal(2, 3, 3, 4).astype(np.float32), normal(2, 3, 3, 4, seed=1).astype(np.float32)
    shifted = losses.channel_wise(student + np.array([3, -5, 0, 10], np.float32), teacher)
    np.testing.assert_allclose(shifted, losses.channel_wise(student, teacher), rtol=1e-4)


@pytest.mark.parametrize("name", ["attention_transfer", "neuron_selectivity", "channel_wise", "factor_transfer"])
def test_one_position_has_no_meaning(name):
    parameters = {"variant": "repdistiller"} if name == "factor_transfer" else {}
    with pytest.raises(ValueError, match="one position"):
        getattr(losses, name)(np.ones((2, 1, 1, 3)), np.ones((2, 1, 1, 3)), **parameters)
    if name != "channel_wise":
        with pytest.raises(ValueError, match="one position"):
            getattr(losses, name)(np.ones((2, 1, 1, 3)), np.ones((2, 4, 4, 3)), **parameters)
    with pytest.raises(ValueError, match=r"^feature map \[2,1,3\]: .*one position"):
        losses.attention_map(np.ones((2, 1, 3)))


@pytest.mark.parametrize("name", ["attention_transfer", "neuron_selectivity", "channel_wise", "hierarchical_context"])
def test_tokens_and_volumes(name):
    for shape in ((2, 7, 3), (2, 2, 3, 2, 3)):
        agrees(name, normal(*shape), normal(*shape, seed=1))


def test_activation_boundary_sees_only_the_teachers_sign():
    student, teacher = normal(2, 3, 3, 2), normal(2, 3, 3, 2, seed=1)
    value = losses.activation_boundary(student, teacher)
    np.testing.assert_allclose(losses.activation_boundary(student, 10 * teacher), value, rtol=1e-6)
    np.testing.assert_array_equal(losses.activation_boundary(2 * np.sign(teacher), teacher), 0)


@pytest.mark.parametrize(
    ("scale", "bias", "margin"),
    [
        (1.0, 0.0, -np.sqrt(2 / np.pi)),  # half of a normal distribution
        (-2.0, 0.0, -2 * np.sqrt(2 / np.pi)),  # the sign of the scale is no matter
        (1.0, 4.0, -3.0),  # hardly ever negative
        (1.0, -30.0, -30.0),  # always
        (0.0, 2.0, 0.0),
        (0.0, -2.0, -2.0),
        (1e-30, -2.0, -2.0),
    ],
)
def test_batch_norm_margin(scale, bias, margin):
    value, gradients = jax.value_and_grad(losses.batch_norm_margin, (0, 1))(scale, bias)
    np.testing.assert_allclose(value, margin, rtol=1e-5)
    assert np.isfinite(gradients).all()


def test_batch_norm_margin_is_the_mean_below_zero():
    x = np.linspace(-12, 0, 200_001)
    for scale, bias in ((0.7, 0.4), (1.5, -1.0), (0.3, 0.8)):
        density = np.exp(-(((x - bias) / scale) ** 2) / 2)
        expected = np.sum(x * density) / np.sum(density)
        np.testing.assert_allclose(losses.batch_norm_margin(scale, bias), expected, rtol=1e-3)


def test_overhaul_by_hand():
    """Margin -1. The teacher fires; is within the margin, and the student above or below; is below the margin."""
    teacher = np.array([[[2.0], [-0.5], [-0.5], [-3.0], [-3.0]]])
    student = np.array([[[0.0], [0.5], [-2.0], [0.0], [-2.0]]])
    np.testing.assert_allclose(losses.overhaul(student, teacher, np.array([-1.0])), 4 + 1 + 0 + 1 + 0)


def test_variational_information_of_unit_variance_is_half_the_mean_square():
    student, teacher = normal(2, 3, 3, 2), normal(2, 3, 3, 2, seed=1)
    variance = np.full(2, np.log(np.exp(1 - 1e-5) - 1))
    expected = 0.5 * np.mean((student - teacher) ** 2, (1, 2, 3))
    np.testing.assert_allclose(losses.variational_information(student, teacher, variance), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (6, 5), (5, 2), (3, 9), (2, 2), (1, 1)])
def test_levels_of_hierarchical_context(size):
    student, teacher = normal(2, *size, 2), normal(2, *size, 2, seed=1)
    where = np.random.default_rng(2).random((2, *size)) < 0.4
    where[1, -1] = False
    for mask in ({}, {"where": where}):
        agrees("hierarchical_context", student, teacher, **mask)
    # A difference that is everywhere the same is the same at every level.
    np.testing.assert_allclose(losses.hierarchical_context(student + 3, student), 9, rtol=1e-6)


def test_masked_levels_of_hierarchical_context():
    student, teacher = (normal(2, 6, 6, 2, seed=s).astype(np.float32) for s in (0, 1))
    where = np.random.default_rng(2).random((2, 6, 6)) < 0.4
    where[1] = False

    def loss(student, teacher):
        return losses.hierarchical_context(student, teacher, where=where).sum()

    value, gradients = jax.value_and_grad(loss, (0, 1))(student, teacher)
    spoilt = [np.where(where[..., None], x, np.nan) for x in (student, teacher)]
    same_value, same_gradients = jax.value_and_grad(loss, (0, 1))(*spoilt)
    np.testing.assert_allclose(same_value, value, rtol=1e-6)
    for gradient, same in zip(gradients, same_gradients, strict=True):
        np.testing.assert_allclose(same, gradient, rtol=1e-6)
        assert not same[~where].any()
    assert losses.hierarchical_context(student, teacher, where=where)[1] == 0


ONES = np.ones((2, 4, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: losses.attention_transfer(ONES, ONES, variant="sums"), "'code', 'paper', 'sum'"),
        (lambda: losses.attention_transfer(ONES, ONES[:, :, 0]), r"\[2,4,4,3\].*\[2,4,3\]"),
        (lambda: losses.attention_transfer(ONES, np.ones((2, 2, 8, 3))), r"neither .* resize"),
        (lambda: losses.attention_transfer(ONES, ONES[:, :2, :2], where=np.ones((2, 4, 4), bool)), "where"),
        (lambda: losses.attention_transfer(ONES, ONES, axis=0), "axis 0"),
        (lambda: losses.neuron_selectivity(ONES[0, 0, 0], ONES[0, 0, 0]), r"batch, \*spatial, channels"),
        (lambda: losses.channel_wise(ONES, ONES[..., :2]), "connector"),
        (lambda: losses.channel_wise(ONES, ONES, temperature=0), "temperature"),
        (lambda: losses.channel_wise(ONES, ONES, temperature=np.ones(3)), r"temperature \[3\].*scalar"),
        (lambda: losses.factor_transfer(ONES, ONES[..., :2]), "channels"),
        (lambda: losses.factor_transfer(ONES[..., :1], ONES[:, :1, :1, :1]), r"\[2,4,4,1\].*\[2,1,1,1\].*element"),
        (lambda: losses.fsp(ONES, ONES, ONES, ONES[..., :2]), "second map .*connector"),
        (lambda: losses.fsp(ONES, ONES, ONES[:, :2, :2], ONES, where=np.ones((2, 4, 4), bool)), "where"),
        (lambda: losses.activation_boundary(ONES, ONES, margin=0), "margin"),
        (lambda: losses.activation_boundary(ONES, ONES, margin=np.ones(3)), r"margin \[3\].*scalar"),
        (lambda: losses.overhaul(ONES, ONES, np.array([-1.0, 0.0, 0.5])), "margin .*0"),
        (lambda: losses.overhaul(ONES, ONES, -ONES[0, 0, 0, :2]), r"margin \[2\].*\[2,4,4,3\]"),
        (lambda: losses.overhaul(ONES, ONES[:1], -ONES[0, 0, 0]), r"\[2,4,4,3\].*\[1,4,4,3\]"),
        (lambda: losses.variational_information(ONES, ONES, raw_variance=ONES), "^raw_variance"),
        (lambda: losses.hierarchical_context(ONES, ONES[:, :2]), r"\[2,4,4,3\].*\[2,2,4,3\]"),
        (lambda: losses.batch_norm_margin(np.ones(3), np.ones(1)), "scale"),
    ],
)
def test_errors_name_what_does_not_fit(call, said):
    with pytest.raises(ValueError, match=said):
        call()
