"""Each family on weights that were drawn, against what the published PyTorch code makes of them, and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import networks

from . import golden


@functools.cache
def computed(family):
    """The taps of an inference forward pass, and logits, statistics and a gradient of one in training: one program.

    Of MobileNetV2, which cannot be made shorter, there is no gradient: it takes longer to compile than all the others.
    """
    network = networks.from_linen(golden.MODELS[family])
    roles = {role: paths for role, paths in network.roles.items() if role != "norms"}
    taps = [f"{role}[{i}]" if len(paths) > 1 else role for role, paths in roles.items() for i in range(len(paths))]
    variables, batch = golden.variables(family), {"image": golden.image(family)}

    def trained(stem, variables, batch):
        """The gradient of the first weights alone: it has come through all of the network."""
        params = {**variables["params"], first: stem}
        outputs, updated = network.apply({**variables, "params": params}, batch, train=True)
        return jnp.sum(jnp.sin(outputs.logits)), (outputs.logits, updated)

    first = "stage0" if family == "vgg" else "stem"

    @jax.jit
    def both(variables, batch):
        outputs, _ = network.apply(variables, batch, taps=taps)
        if family == "cifar_mobilenet":
            gradient, (_, (logits, updated)) = {}, trained(variables["params"][first], variables, batch)
        else:
            gradient, (logits, updated) = jax.grad(trained, has_aux=True)(variables["params"][first], variables, batch)
        return outputs, logits, updated, gradient

    return network, variables, both(variables, batch)


@pytest.mark.parametrize("family", golden.MODELS)
def test_outputs_are_those_of_the_published_code(family):
    _, _, (outputs, logits, updated, _) = computed(family)
    expected = dict(np.load(golden.file(family)))
    found = {
        "logits": outputs.logits,
        "train_logits": logits,
        "batch_stats": golden.digest_of_statistics(updated["batch_stats"]),
        **{name: golden.digest(outputs.taps[name]) for name in expected if name in outputs.taps},
    }
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, rtol=0, atol=1e-4 * max(1, np.abs(x).max()), err_msg=name)


@pytest.mark.parametrize("family", golden.MODELS)
def test_map_pooled_and_head_give_the_logits(family):
    network, variables, (outputs, *_) = computed(family)
    pooled = outputs.taps["map_before_pool"].mean((1, 2))
    np.testing.assert_allclose(outputs.taps["penultimate"], pooled, atol=1e-5)
    np.testing.assert_allclose(network.head(variables, pooled), outputs.logits, atol=1e-4)


@pytest.mark.parametrize("family", golden.MODELS)
def test_norms_are_those_of_the_channels_before_the_relu(family):
    """A norm stands in the parameters where its role says, with one scale for each channel of its tap."""
    network, variables, (outputs, *_) = computed(family)
    for i, path in enumerate(network.roles.get("norms", ())):
        scale = functools.reduce(lambda node, name: node[name], path.split("/"), variables["params"])["scale"]
        assert scale.shape == outputs.taps[f"pre_relu[{i}]"].shape[-1:]


@pytest.mark.parametrize("family", golden.MODELS)
def test_the_first_weights_learn(family):
    for path, x in jax.tree_util.tree_leaves_with_path(computed(family)[2][3]):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(x).all(), name
        # The bias of a convolution before BatchNorm moves nothing.
        assert np.abs(x).max() > 1e-4 or ("conv" in name and "bias" in name), name


def equations(jaxpr):
    """All of them, those of inner programs among them."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("family", golden.MODELS)
def test_dtypes_and_axis_reach_every_layer(family):
    """In bfloat16 every product is of bfloat16, no parameter is; every BatchNorm averages over the axis."""
    module = golden.MODELS[family].clone(dtype=jnp.bfloat16, axis_name="devices")
    image = jax.ShapeDtypeStruct((2, *golden.image(family).shape), jnp.float32)
    variables = jax.eval_shape(functools.partial(golden.MODELS[family].init, jax.random.key(0)), golden.image(family))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}

    def train(variables, image):
        return module.apply(variables, image, train=True, mutable=["batch_stats"])[0]

    traced = jax.make_jaxpr(jax.vmap(train, (None, 0), axis_name="devices"))(variables, image)
    assert traced.out_avals[0].dtype == jnp.bfloat16
    products = [e for e in equations(traced.jaxpr) if e.primitive.name in ("conv_general_dilated", "dot_general")]
    assert {x.aval.dtype for e in products for x in e.invars} == {jnp.dtype(jnp.bfloat16)}
    norms = len(jax.tree.leaves(variables["batch_stats"])) // 2
    assert len(products) >= norms
    assert str(traced).count("psum") == norms
