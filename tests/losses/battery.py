"""One battery over every loss. A new loss enters by a line in its family's table and an oracle.

The tests are collected by the modules ``test_battery_*``, one a family, which the suite's workers share.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from .cases import DIM, weighted


def some(keep=lambda case: True, *, variants=True):
    """For the cases for which ``keep`` holds, but for those that say why they cannot take the test.

    Without ``variants`` one of each loss, for what a variant hardly can have of its own: compilation takes long.
    """

    def decorate(test):
        test.keep, test.variants = keep, variants
        return test

    return decorate


def pytest_generate_tests(metafunc):
    """Parametrises by the cases of the module that collects, ``CASES``, so that all tests of one follow each other."""
    test = metafunc.function
    if hasattr(test, "keep"):
        cases = [case for case in metafunc.module.CASES if test.keep(case) and test.__name__ not in case.skip]
        if not test.variants:
            cases = list({case.name: case for case in reversed(cases)}.values())[::-1]
        metafunc.parametrize("case", cases, ids=str, scope="module")


tested = []


@pytest.fixture(autouse=True)
def forget(request):
    """Frees what was compiled for earlier losses: thousands of programs at once are more than a process may map."""
    case = request.node.callspec.params.get("case") if hasattr(request.node, "callspec") else None
    if case is None or case in tested:
        return
    for earlier in tested[-1:]:
        for name in ("loss", "value_and_gradients"):
            earlier.__dict__.pop(name, None)
    tested.append(case)
    if len(tested) % 20 == 0:
        jax.clear_caches()


def has(name):
    return lambda case: name in case.signature


@some()
def test_agrees_with_the_oracle(case):
    for shape in case.shapes:
        arrays = case.inputs(*shape)
        expected = case.oracle(*arrays)
        with jax.enable_x64(True):
            # Op by op, for every shape would be a program of its own.
            in_double = case.eager(*arrays)
            assert in_double.dtype == jnp.float64
            np.testing.assert_allclose(in_double, expected, rtol=1e-10, atol=1e-10)
    in_single = case.loss(*case.inputs(*shape, dtype=np.float32))
    assert in_single.dtype == jnp.float32
    assert in_single.shape == expected.shape
    np.testing.assert_allclose(in_single, expected, rtol=1e-5, atol=1e-6)


@some()
def test_gradient_agrees_with_differences_of_the_oracle(case):
    arrays = case.inputs(3)
    with jax.enable_x64(True):
        _, gradients = case.value_and_gradients(arrays, None)
    for i, gradient in zip(case.floating, map(np.asarray, gradients), strict=True):
        for at in np.ndindex(arrays[i].shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [x.copy() for x in arrays]
                moved[i][at] += step
                sides.append(np.sum(weighted(case.oracle(*moved))))
            difference = (sides[0] - sides[1]) / 2e-5
            assert abs(difference - gradient[at]) < 1e-6 * max(1, abs(difference)), (i, at)


@some(variants=False)
def test_bfloat16_is_computed_in_float32(case):
    arrays = [jnp.asarray(x, jnp.bfloat16) if x.dtype == np.float64 else x for x in case.inputs(4)]
    raised = [x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in arrays]
    assert case.loss(*arrays).dtype == jnp.float32
    # To the last bits, as the compiler fuses the two differently; bfloat16 would be off by 1 part in 256.
    np.testing.assert_allclose(case.loss(*arrays), case.loss(*raised), rtol=1e-5, atol=1e-6)


def in_numpy_double(value):
    """A parameter as ``np.float64``, which JAX promotes by, as it does not by a Python float."""
    if isinstance(value, tuple):
        return tuple(map(in_numpy_double, value))
    return np.float64(value) if isinstance(value, float) else value


@some()
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_double_parameters_leave_the_type(case, dtype):
    defaults = {name: x.default for name, x in case.signature.items() if x.default is not x.empty}
    parameters = {name: in_numpy_double(x) for name, x in {**defaults, **case.parameters}.items()}
    arrays = [jnp.asarray(x, dtype) if x.dtype == np.float64 else x for x in case.inputs(4)]
    with jax.enable_x64(True):
        result = jax.eval_shape(lambda *arrays: case.eager(*arrays, **parameters), *arrays)
    assert result.dtype == jnp.float32


@some(variants=False)
def test_transformations(case):
    """The jitted loss, one problem of two examples after the other, under vmap and under pmap over 8 of them."""
    problems = [case.inputs(2, seed=seed, dtype=np.float32) for seed in range(8)]
    stacked = [np.stack(x) for x in zip(*problems, strict=True)]
    expected = np.stack([case.loss(*arrays) for arrays in problems])
    for transformed in (jax.jit(jax.vmap(case.eager)), jax.pmap(case.eager)):
        np.testing.assert_allclose(transformed(*stacked), expected, rtol=1e-5, atol=1e-6)


@some(has("axis"), variants=False)
def test_axis_is_moveaxis(case):
    arrays = case.inputs(3, dtype=np.float32)
    expected = np.asarray(case.loss(*arrays))
    for axis in (0, 1) if arrays[0].ndim == 2 and case.shapes[0] == () else (1, -2):
        want = np.moveaxis(expected, -1, axis) if case.keeps_axis else expected
        maps = set(case.floating) - set(case.unmasked)
        moved = [np.moveaxis(x, -1, axis) if i in maps else x for i, x in enumerate(arrays)]
        np.testing.assert_allclose(case.loss(*moved, axis=axis), want, rtol=1e-5, atol=1e-6)


@some(lambda case: has("where")(case) and case.over)
def test_where_is_dropping_and_nan_stays_under_it(case):
    examples = 6 if case.relational else 4
    arrays = case.inputs(examples, dtype=np.float32, labels_below=2)
    where = case.mask(examples)
    spread = {i: case.spread(where, arrays[i], case.takes[i]) for i in case.masked()}
    spoilt = [np.where(spread[i], x, np.nan) if i in spread and i in case.floating else x for i, x in enumerate(arrays)]
    values, gradients = case.value_and_gradients(spoilt, where)
    kept = [case.kept(where, x, case.takes[i]) if i in spread else x for i, x in enumerate(arrays)]
    np.testing.assert_allclose(values, case.oracle(*arrays, where=where), rtol=1e-5, atol=1e-6)
    chosen = values[where] if case.keeps_axis else values
    np.testing.assert_allclose(np.ravel(chosen), np.ravel(case.eager(*kept)), rtol=1e-5, atol=1e-6)

    def sum_of_kept(*kept):
        padded = jnp.zeros(values.shape).at[where if case.keeps_axis else ...].set(jnp.ravel(case.eager(*kept)))
        return jnp.sum(weighted(padded))

    if case.relational:
        sum_of_kept = case.eager
    expected = jax.grad(sum_of_kept, case.floating)(*kept)
    for i, gradient, want in zip(case.floating, gradients, expected, strict=True):
        if i in spread:
            assert not gradient[~spread[i]].any()
            gradient = gradient[spread[i]]
        np.testing.assert_allclose(np.ravel(gradient), np.ravel(want), rtol=1e-4, atol=1e-6)


@some(lambda case: has("where")(case) and case.over == "elements", variants=False)
def test_where_broadcasts(case):
    arrays = case.inputs(4, dtype=np.float32, labels_below=2)
    where = np.arange(DIM) < 4
    whole = case.loss(*arrays, where=np.broadcast_to(where, (4, DIM)))
    np.testing.assert_allclose(case.loss(*arrays, where=where), whole, rtol=1e-6)


@some(variants=False)
def test_examples_have_no_order(case):
    arrays = case.inputs(6, dtype=np.float32)
    order = np.random.default_rng(1).permutation(6)
    unshared = set(range(len(arrays))) - set(case.unmasked)
    permuted = np.asarray(case.loss(*(x[order] if i in unshared else x for i, x in enumerate(arrays))))
    values = np.asarray(case.loss(*arrays))
    np.testing.assert_allclose(permuted, values if case.relational else values[order], rtol=1e-5, atol=1e-6)


@some(lambda case: not case.not_zero)
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_zero_value_and_gradient_at_equality(case, scale):
    student, *rest = case.inputs(4, dtype=np.float32)
    values, gradients = case.value_and_gradients([scale * student, scale * student, *rest[1:]], None)
    np.testing.assert_allclose(values, 0, atol=1e-9 if scale == 1 else 1e-6)
    np.testing.assert_allclose(gradients[0], 0, atol=1e-6)


def extreme_inputs(case, extreme):
    """Student, teacher and the rest; and ``where``."""
    batch = 1 if extreme == "one example" else 4
    arrays = case.inputs(batch, dtype=np.float32)
    pair = [i for i in case.floating if i not in case.unmasked]
    where = None
    if extreme == "zero":
        for i in pair:
            arrays[i] = 0 * arrays[i]
    elif extreme == "a zero student":
        arrays[0] = 0 * arrays[0]
    elif extreme == "duplicated examples":
        arrays = [
            np.repeat(x[:1], batch, 0) if i in pair or case.takes[i] == "labels" else x for i, x in enumerate(arrays)
        ]
    elif extreme in ("huge, and they agree", "huge, and they disagree"):
        for n, i in enumerate(pair):
            x = arrays[i]
            one_hot = np.arange(x.size).reshape(x.shape) % x.shape[-1] == (n if extreme.endswith("disagree") else 0)
            arrays[i] = np.where(one_hot, 1e4, -1e4).astype(np.float32)
    elif extreme == "everything masked":
        where = np.zeros_like(case.mask(batch))
    elif extreme == "a masked example":
        where = np.ones_like(case.mask(batch))
        where[0] = False
    return arrays, where


EXTREMES = (
    *(
        "zero",
        "a zero student",
        "duplicated examples",
        "one example",
        "huge, and they agree",
        "huge, and they disagree",
    ),
    *("everything masked", "a masked example"),
)


@some()
def test_finite_at_extremes(case):
    """Or, where an input has no meaning for the loss, an error that says so."""
    assert_finite_at_extremes(case, jnp.float32)


@some(variants=False)
def test_finite_at_extremes_in_bfloat16(case):
    assert_finite_at_extremes(case, jnp.bfloat16)


def assert_finite_at_extremes(case, dtype):
    for extreme in EXTREMES:
        if "masked" in extreme and not (has("where")(case) and case.over):
            continue
        arrays, where = extreme_inputs(case, extreme)
        arrays = [jnp.asarray(x, dtype) if i in case.floating else x for i, x in enumerate(arrays)]
        if extreme == "one example" and case.needs_two:
            with pytest.raises(ValueError, match="one example"):
                case.value_and_gradients(arrays, where)
            continue
        values, gradients = case.value_and_gradients(arrays, where)
        assert np.isfinite(values).all(), extreme
        assert all(np.isfinite(g.astype(np.float32)).all() for g in gradients), extreme
        if extreme == "everything masked":
            np.testing.assert_array_equal(values, 0)
            assert not any(g.any() for g in gradients)


def over_devices(case):
    """Arguments of 16 examples, masked ones spread unevenly over 8 devices; what is shared; and what a device does."""
    arrays = case.inputs(16, dtype=np.float32)
    where = np.ones(16, bool)
    where[[0, 1, 2, 7, 12]] = False
    masked = has("where")(case)
    shared = set(case.unmasked)

    def local(*arrays):
        *arrays, where = arrays

        def loss(*arrays):
            value = case.eager(*arrays, axis_name="devices", **({"where": where} if masked else {}))
            # What a learner does: every device's share of the mean over devices, and the gradients added up.
            return value / 8, value

        grads, value = jax.grad(loss, [i for i in case.floating if i not in shared], has_aux=True)(*arrays)
        return value[None], grads

    return (*arrays, where), shared, local


def assert_as_on_one_device(case, arrays, everywhere, grads):
    *arrays, where = arrays
    values, gradients = case.value_and_gradients(arrays, where if has("where")(case) else None)
    np.testing.assert_allclose(np.ravel(everywhere), np.full(np.size(everywhere), values), rtol=1e-5, atol=1e-6)
    expected = [g for i, g in zip(case.floating, gradients, strict=True) if i not in case.unmasked]
    for got, want in zip(grads, expected, strict=True):
        np.testing.assert_allclose(np.reshape(got, want.shape), want, rtol=1e-4, atol=1e-6)


@some(lambda case: case.relational)
def test_relations_span_the_devices(case):
    """Value and gradient on 8 devices are those of one: under shard_map, and under jit on sharded arrays."""
    arrays, shared, local = over_devices(case)
    mesh = Mesh(np.array(jax.devices()[:8]), ("devices",))
    specs = tuple(P() if i in shared else P("devices") for i in range(len(arrays)))
    on_mesh = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P("devices")))
    assert_as_on_one_device(case, arrays, *on_mesh(*arrays))

    placed = [jax.device_put(x, jax.sharding.NamedSharding(mesh, s)) for x, s in zip(arrays, specs, strict=True)]
    value, grads = case.value_and_gradients(placed[:-1], placed[-1] if has("where")(case) else None)
    unshared = [g for i, g in zip(case.floating, grads, strict=True) if i not in shared]
    assert_as_on_one_device(case, arrays, value, unshared)


@some(lambda case: case.relational, variants=False)
def test_relations_span_the_devices_of_a_pmap(case):
    arrays, shared, local = over_devices(case)
    split = [x if i in shared else x.reshape(8, 2, *x.shape[1:]) for i, x in enumerate(arrays)]
    axes = tuple(None if i in shared else 0 for i in range(len(arrays)))
    assert_as_on_one_device(case, arrays, *jax.pmap(local, axis_name="devices", in_axes=axes)(*split))


@some(variants=False)
def test_bad_input_is_told(case):
    arrays = case.inputs(4, dtype=np.float32)
    integers = [np.ones(x.shape, np.int32) if i == 0 else x for i, x in enumerate(arrays)]
    with pytest.raises(ValueError, match="int32"):
        case.eager(*integers)
    if len(case.takes) > 1 and case.takes[0] == case.takes[1] and case.draw is None:
        longer = [np.concatenate([x, x], 0) if i == 1 else x for i, x in enumerate(arrays)]
        with pytest.raises(ValueError, match=r"\[4.*\[8|\[8.*\[4"):
            case.eager(*longer)
    if has("where")(case):
        with pytest.raises(ValueError, match="where"):
            case.eager(*arrays, where=np.ones((3, 9, 11, 2), bool))
        with pytest.raises(ValueError, match="where"):
            case.eager(*arrays, where=np.ones(case.mask(4).shape if case.over else 4, np.float32))
    if has("axis")(case):
        with pytest.raises(ValueError, match="axis"):
            case.eager(*arrays, axis=9)
    if "labels" in case.takes:
        i = case.takes.index("labels")
        for wrong, said in (
            (np.full(4, 10_000), "classes"),
            (np.zeros(4, np.float32), "integers"),
            (np.zeros(3, int), "3"),
        ):
            with pytest.raises(ValueError, match=said):
                case.eager(*(wrong if j == i else x for j, x in enumerate(arrays)))
