"""One model in Linen (with and without an "intermediates" axis in its scan) and in NNX, tapped in every way."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxkd.networks import UnknownTapError, from_linen, from_nnx

ROLES = {"stages": ("rem", "layers[1]"), "penultimate": ("layers[-1]",)}


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Dense(4, name="dense")(x)
        self.sow("intermediates", "pre", h)
        return nn.relu(h)

    def double(self, x):
        return 2 * x


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.Dense(4, name="dense")(x)
        self.sow("intermediates", "pre", h)
        return nn.relu(h), None  # a scan's body returns a tuple, of which the carry is the tap


class LinenNet(nn.Module):
    axis: bool
    roles = ROLES

    def setup(self):
        axes = {"params": 0, "intermediates": 0} if self.axis else {"params": 0}
        self.shared = nn.Dense(4)
        self.block = LinenBlock()
        self.rem = nn.remat(LinenBlock)()
        self.layers = nn.scan(nn.remat(LinenLayer), variable_axes=axes, split_rngs={"params": True}, length=3)()
        self.out = nn.Dense(3)

    def features(self, x):
        return self.block.double(self.block(x))

    def head(self, features):
        return self.out(features)

    def __call__(self, x):
        x = self.features(self.shared(self.shared(x)))
        x, _ = self.layers(self.rem(x), None)
        return self.head(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        h = self.dense(x)
        self.sow(nnx.Intermediate, "pre", h)
        return nnx.relu(h)

    def double(self, x):
        return 2 * x


class NnxInherits(NnxBlock):
    """A block whose methods are all inherited."""


class NnxNet(nnx.Module):
    roles = ROLES

    def __init__(self, rngs):
        self.shared = nnx.Linear(4, 4, rngs=rngs)
        self.block = NnxInherits(rngs)
        self.rem = NnxBlock(rngs)
        self.layers = nnx.split_rngs(splits=3)(nnx.vmap(NnxBlock))(rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def features(self, x):
        return self.block.double(self.block(x))

    def head(self, features):
        return self.out(features)

    def __call__(self, x):
        x = self.features(self.shared(self.shared(x)))
        x = nnx.remat(lambda block, x: block(x))(self.rem, x)
        layer = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.head(layer(self.layers, x))


def expected(params, x):
    """The same network by hand, on NumPy or JAX arrays: its logits and every tap."""

    def dense(p, x):
        return x @ p["kernel"] + p["bias"]

    def relu(h):
        return h * (h > 0)

    taps = {":in": x, "shared#0:in": x}
    taps["shared#0"] = taps["shared#1:in"] = dense(params["shared"], x)
    taps["shared#1"] = taps["block:in"] = dense(params["shared"], taps["shared#0"])
    taps["block/dense"] = taps["block/pre"] = dense(params["block"]["dense"], taps["shared#1"])
    taps["block"] = taps["block.double:in"] = relu(taps["block/pre"])
    taps[".features"] = taps["block.double"] = taps["rem:in"] = taps["rem/dense:in"] = 2 * taps["block"]
    taps["rem/dense"] = taps["rem/pre"] = dense(params["rem"]["dense"], taps["rem:in"])
    taps["rem"] = taps["stages[0]"] = taps["stages[-2]"] = h = relu(taps["rem/pre"])
    for i in range(3):
        taps[f"layers[{i}]:in"] = taps[f"layers[{i - 3}]/dense:in"] = h
        taps[f"layers[{i}]/dense"] = taps[f"layers[{i}]/pre"] = h = dense(
            {k: v[i] for k, v in params["layers"]["dense"].items()}, h
        )
        taps[f"layers[{i}]"] = taps[f"layers[{i - 3}]"] = h = relu(h)
    taps["stages[1]"], taps["penultimate"], taps["out:in"] = taps["layers[1]"], h, h
    taps["out"] = taps[".head"] = taps[""] = logits = dense(params["out"], h)
    return logits, taps


def weights(network, batch):
    """Draws variables of the shapes that the network has, biases not zero, without compiling its init."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), batch)
    return jax.tree.map(lambda x: random.normal(size=x.shape, scale=0.6).astype(x.dtype), shapes)


@pytest.fixture(scope="module", params=["linen", "linen without axis", "nnx"])
def case(request):
    kind = request.param
    network = from_nnx(NnxNet) if kind == "nnx" else from_linen(LinenNet(axis=kind == "linen"))
    batch = {"image": jax.random.normal(jax.random.key(1), (8, 4))}
    variables = weights(network, batch)
    double = jax.tree.map(lambda x: np.asarray(x, np.float64), (variables["params"], batch["image"]))
    logits, taps = expected(*double)
    if kind == "linen without axis":
        taps = {tap: value for tap, value in taps.items() if not (tap.startswith("layers") and tap.endswith("pre"))}
    return SimpleNamespace(
        kind=kind, network=network, batch=batch, variables=variables, logits=logits, taps=taps, names=tuple(taps)
    )


def forward(case, variables, batch, taps=None):
    outputs, updated = case.network.apply(variables, batch, taps=case.names if taps is None else taps)
    assert updated == {}
    return outputs


def check(case, outputs):
    assert set(outputs.taps) == set(case.taps)
    np.testing.assert_allclose(outputs.logits, case.logits, rtol=1e-4, atol=1e-5)
    for tap, value in case.taps.items():
        np.testing.assert_allclose(outputs.taps[tap], value, rtol=1e-4, atol=1e-5, err_msg=tap)


def test_every_form_of_tap_is_the_value_computed_by_hand(case):
    outputs = jax.jit(lambda v, b: forward(case, v, b))(case.variables, case.batch)
    check(case, outputs)
    logits = jax.jit(lambda v, b: forward(case, v, b, taps=()).logits)(case.variables, case.batch)
    np.testing.assert_array_equal(outputs.logits, logits)


def test_taps_that_are_asked_for_and_not_used_cost_nothing(case):
    def cost(taps):
        logits = jax.jit(lambda v, b: forward(case, v, b, taps).logits)
        return logits.lower(case.variables, case.batch).compile().cost_analysis()

    without, with_taps = cost(()), cost(case.names)
    assert with_taps["flops"] == without["flops"]
    assert with_taps["bytes accessed"] == without["bytes accessed"]


def test_taps_under_grad_and_gradients_through_them(case):
    def mixed(xp, taps):
        return sum(xp.sum(xp.sin(i + taps[name])) for i, name in enumerate(case.names))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def by_network(params, batch):
        outputs = forward(case, {**case.variables, "params": params}, batch)
        return mixed(jnp, outputs.taps), outputs

    gradient, outputs = by_network(case.variables["params"], case.batch)
    check(case, outputs)
    # The slope along a random direction for each parameter, by finite differences in float64.
    flat, structure = jax.tree.flatten(jax.tree.map(lambda x: np.asarray(x, np.float64), case.variables["params"]))
    image = np.asarray(case.batch["image"], np.float64)
    random = np.random.default_rng(0)
    for number, slope in enumerate(jax.tree.leaves(gradient)):
        direction = random.normal(size=slope.shape)

        def along(step, number=number, direction=direction):
            moved = [x + step * direction if n == number else x for n, x in enumerate(flat)]
            return mixed(np, expected(jax.tree.unflatten(structure, moved), image)[1])

        expected_slope = (along(1e-6) - along(-1e-6)) / 2e-6
        np.testing.assert_allclose(np.sum(slope * direction), expected_slope, rtol=1e-3, atol=1e-3)


def test_taps_under_vmap(case):
    single = jax.tree.map(lambda x: x[:, None], case.batch)
    outputs = jax.jit(jax.vmap(lambda v, b: forward(case, v, b), in_axes=(None, 0)))(case.variables, single)
    check(case, jax.tree.map(lambda x: x[:, 0], outputs))


def test_taps_inside_a_scan(case):
    halves = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), case.batch)
    run = jax.jit(lambda v, batches: jax.lax.scan(lambda v, b: (v, forward(case, v, b)), v, batches)[1])
    check(case, jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), run(case.variables, halves)))


def test_taps_under_shard_map(case):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.P("data"), jax.P()
    run = jax.shard_map(lambda v, b: forward(case, v, b), mesh=mesh, in_specs=(whole, split), out_specs=split)
    check(case, jax.jit(run)(case.variables, case.batch))


def test_taps_under_pmap(case):
    single = jax.tree.map(lambda x: x[:, None], case.batch)
    outputs = jax.pmap(lambda v, b: forward(case, v, b), in_axes=(None, 0))(case.variables, single)
    check(case, jax.tree.map(lambda x: x[:, 0], outputs))


def test_roles_and_head_come_from_the_model(case):
    assert dict(case.network.roles) == ROLES
    logits = jax.jit(case.network.head)(case.variables, case.taps["penultimate"].astype(np.float32))
    np.testing.assert_allclose(logits, case.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tap", "says"),
    [
        ("blok/dense", ['"blok/dense" is unknown', "block/dense: [8, 4]", "layers[0..2]/dense: [8, 4]", "be sown"]),
        ("layers[0]/dens", ['close to it: "layers[0..2]/dense"']),
        ("pre", ['"block/pre"', "block/pre: [8, 4]", 'roles: "stages[0]" = "rem"']),
        ("shared", ["called 2 times", '"shared#0" ... "shared#1"']),
        ("shared:in", ["called 2 times", '"shared#0:in"']),
        ("shared#2", ["called 2 times", "last call is #1"]),
        ("layers/dense", ["say which layer", "layers[0..2]/dense: [8, 4]"]),
        ("layers[3]/dense", ["layer 3 of a stack of 3 layers"]),
        ("layers[-4]", ["layer -4 of a stack of 3 layers"]),
        ("rem[1]", ['is not in a stack: ask for "rem"']),
        ("block.triple", ['"block.triple" is unknown', "block.double: [8, 4]"]),
        ("stages", ["has 2 paths", '"stages[1]" = "layers[1]"']),
        ("stages[2]", ["has 2 paths"]),
    ],
)
def test_a_wrong_tap_fails_before_compilation_and_says_what_there_is(case, tap, says):
    with pytest.raises(UnknownTapError) as error:
        jax.eval_shape(lambda v: forward(case, v, case.batch, taps=(tap,)), case.variables)
    assert isinstance(error.value, KeyError)
    for text in says:
        assert text in str(error.value)
    assert "tap|" not in str(error.value)


def test_a_value_sown_in_a_scan_without_axis_names_the_cure():
    network = from_linen(LinenNet(axis=False))
    batch = {"image": jnp.ones((2, 4))}
    variables = jax.eval_shape(network.init, jax.random.key(0), batch)
    with pytest.raises(UnknownTapError, match=r"inside \['layers'\].*variable_axes=\{\"intermediates\": 0\}"):
        jax.eval_shape(lambda v: network.apply(v, batch, taps=("layers[0]/pre",)), variables)


def test_layers_that_share_their_parameters_name_the_cure():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(LinenLayer, variable_broadcast="params", split_rngs={"params": False}, length=3)
            return scan(name="layers")(x, None)[0]

    network, batch = from_linen(Shared()), {"image": jnp.ones((2, 4))}
    variables = jax.eval_shape(network.init, jax.random.key(0), batch)
    with pytest.raises(UnknownTapError, match=r"variable_axes=\{\"intermediates\": 0\}"):
        jax.eval_shape(lambda v: network.apply(v, batch, taps=("layers[0]",)), variables)


def test_stacks_within_stacks_and_layers_on_another_axis():
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            axes = {"params": 0, "intermediates": 1}
            return nn.scan(LinenLayer, axes, split_rngs={"params": True}, length=2)(name="inner")(x, None)

    class Nested(nn.Module):
        @nn.compact
        def __call__(self, x):
            axes = {"params": 0, "intermediates": 0}
            return nn.scan(Outer, axes, split_rngs={"params": True}, length=3)(name="outer")(x, None)[0]

    network, batch = from_linen(Nested()), {"image": jax.random.normal(jax.random.key(1), (5, 4))}
    variables = weights(network, batch)
    names = [f"outer[{i}]/inner[{j}]" for i in range(3) for j in range(2)]
    taps = jax.jit(lambda v: network.apply(v, batch, taps=[*names, "outer[1]/inner[0]/pre"])[0].taps)(variables)
    h = np.asarray(batch["image"], np.float64)
    for number, name in enumerate(names):
        p = jax.tree.map(lambda x, n=number: np.asarray(x[n // 2, n % 2]), variables["params"]["outer"]["inner"])
        before = h @ p["dense"]["kernel"] + p["dense"]["bias"]
        h = np.maximum(before, 0)
        np.testing.assert_allclose(taps[name], h, rtol=1e-4, atol=1e-6)
        if number == 2:
            np.testing.assert_allclose(taps["outer[1]/inner[0]/pre"], before, rtol=1e-4, atol=1e-6)
    with pytest.raises(UnknownTapError, match=r"outer\[0..2\]/inner\[0..1\]/dense: \[5, 4\]"):
        jax.eval_shape(lambda v: network.apply(v, batch, taps=["outer[0]/inner"]), variables)


def test_a_super_call_is_no_second_call():
    class Loud(LinenBlock):
        @nn.compact
        def __call__(self, x):
            return 3 * super().__call__(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Loud(name="loud")(x)

    network, batch = from_linen(Net()), {"image": jnp.ones((2, 4))}
    outputs, _ = jax.jit(lambda v: network.apply(v, batch, taps=("loud",)))(weights(network, batch))
    np.testing.assert_array_equal(outputs.taps["loud"], outputs.logits)


def test_a_module_inside_a_transformation_that_hands_nothing_on_is_named():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.block = NnxBlock(rngs)
            self.stack = nnx.vmap(NnxBlock)(rngs.split(2))

        def __call__(self, x):
            graph, layers = nnx.split(self.stack)
            x, _ = jax.lax.scan(lambda x, layer: (x + nnx.merge(graph, layer).dense(x), None), self.block(x), layers)
            return x

    network, batch = from_nnx(Net), {"image": jnp.ones((2, 4))}
    variables = jax.eval_shape(network.init, jax.random.key(0), batch)
    with pytest.raises(UnknownTapError, match=r"drops what modules sow.*\['stack'\]"):
        jax.eval_shape(lambda v: network.apply(v, batch, taps=("stack[0]/dense",)), variables)


def test_a_role_that_is_a_string_is_refused():
    with pytest.raises(TypeError, match=r'role "penultimate" is the string "out": write \("out",\)'):
        from_linen(LinenNet(axis=True), roles={"penultimate": "out"})
