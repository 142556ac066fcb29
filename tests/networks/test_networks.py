"""Collections, dropout, calls and heads of Flax models; functions, ensembles, cached outputs, mixed precision."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import linen as nn
from flax import nnx

from jaxkd.networks import (
    Outputs,
    UnknownTapError,
    cached,
    ensemble,
    from_function,
    from_linen,
    from_nnx,
    mixed_precision,
    variables_of,
)

BATCH = {"image": jax.random.normal(jax.random.key(1), (8, 4)) * 2 + 1, "label": jnp.arange(8) % 3}


class LinenTrained(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        if train:
            x = x + jax.random.normal(self.make_rng("noise"), x.shape)
        x = nn.Dropout(0.5, deterministic=not train, name="drop")(x)
        self.sow("intermediates", "dropped", x)
        return nn.Dense(3, name="out")(x)


class NnxTrained(nnx.Module):
    def __init__(self, rngs, dtype=None):
        self.norm = nnx.BatchNorm(4, momentum=0.9, dtype=dtype, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x, train):
        x = self.norm(x)
        if train:
            x = x + jax.random.normal(self.rngs.noise(), x.shape)
        x = self.drop(x)
        self.sow(nnx.Intermediate, "dropped", x)
        return self.out(x)


@pytest.fixture(scope="module", params=["linen", "nnx"])
def trained(request):
    """A network with BatchNorm, dropout and noise from a stream of its own; its variables; both modes, compiled."""
    network = from_linen(LinenTrained()) if request.param == "linen" else from_nnx(NnxTrained)
    variables = jax.jit(network.init)(jax.random.key(0), BATCH)
    train = jax.jit(lambda v, key: network.apply(v, BATCH, train=True, rng=key, taps=("norm", "drop:in", "dropped")))
    infer = jax.jit(lambda v, key: network.apply(v, BATCH, rng=key, taps=("norm", "drop:in", "dropped")))
    return network, variables, train, infer


def test_variables_are_named_dicts_of_arrays(trained):
    _, variables, _, _ = trained
    assert jax.tree.map(jnp.shape, dict(variables)) == {
        "params": {"norm": {"scale": (4,), "bias": (4,)}, "out": {"kernel": (4, 3), "bias": (3,)}},
        "batch_stats": {"norm": {"mean": (4,), "var": (4,)}},
    }


def test_statistics_are_updated_in_training_only(trained):
    _, variables, train, infer = trained
    outputs, updated = train(variables, jax.random.key(2))
    x = np.asarray(BATCH["image"], np.float64)
    assert set(updated) == {"batch_stats"}  # nothing that was sown, no parameters, no random state
    statistics = updated["batch_stats"]["norm"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * x.var(0), rtol=1e-5)
    np.testing.assert_allclose(outputs.taps["norm"], (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-4, atol=1e-5)

    after = {**variables, **updated}
    outputs, updated = infer(after, None)
    assert updated == {}
    mean, var = np.asarray(statistics["mean"], np.float64), np.asarray(statistics["var"], np.float64)
    np.testing.assert_allclose(outputs.taps["norm"], (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)


def test_one_key_serves_dropout_and_other_streams_in_training_only(trained):
    _, variables, train, infer = trained
    one, again, other = (train(variables, jax.random.key(seed))[0].taps for seed in (2, 2, 3))
    np.testing.assert_array_equal(one["dropped"], again["dropped"])
    assert not np.array_equal(one["dropped"] == 0, other["dropped"] == 0)
    noise, other_noise = one["drop:in"] - one["norm"], other["drop:in"] - other["norm"]
    assert np.abs(noise - other_noise).min() > 0
    kept = one["dropped"] != 0
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(one["dropped"][kept], 2 * one["drop:in"][kept], rtol=1e-6)

    taps = infer(variables, jax.random.key(2))[0].taps
    np.testing.assert_array_equal(taps["dropped"], taps["norm"])
    np.testing.assert_array_equal(taps["norm"], infer(variables, None)[0].taps["norm"])


def test_training_without_a_key_is_an_error(trained):
    network, variables, _, _ = trained
    with pytest.raises((ValueError, nn.module.errors.InvalidRngError), match=r"rng|PRNG"):
        jax.eval_shape(lambda v: network.apply(v, BATCH, train=True), variables)


def test_the_same_key_draws_the_same_model_and_another_key_another(trained):
    network, variables, _, _ = trained
    init = jax.jit(network.init)
    for seed, same in ((0, True), (5, False)):
        kernel = init(jax.random.key(seed), BATCH)["params"]["out"]["kernel"]
        assert np.array_equal(kernel, variables["params"]["out"]["kernel"]) == same


def test_weights_of_an_nnx_instance_give_its_outputs():
    model = NnxTrained(nnx.Rngs(7))
    variables = variables_of(model)
    network = from_nnx(NnxTrained)
    model.eval()
    expected, _ = nnx.capture(lambda m: m(BATCH["image"], train=False), nnx.Intermediate)(model)
    np.testing.assert_allclose(network.apply(variables, BATCH)[0].logits, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="no params/norm/bias"):
        network.apply({**variables, "params": {}}, BATCH)


@pytest.mark.parametrize("name", ["train", "training", "is_training", "deterministic", None])
@pytest.mark.parametrize("make", [from_linen, from_nnx])
def test_the_mode_is_passed_under_the_name_the_module_has(make, name):
    seen = []

    def call(self, x, mode=None):
        seen.append(mode)
        return x

    # The parameter's name is the case, so it is put in place of the one written above.
    parameters = list(inspect.signature(call).parameters.values())
    if name is None:
        call.__signature__ = inspect.Signature(parameters[:2])
    else:
        call.__code__ = call.__code__.replace(co_varnames=("self", "x", name))
    base = nn.Module if make is from_linen else nnx.Module
    kind = type("Net", (base,), {"__call__": call, "__module__": __name__})
    network = make(kind()) if make is from_linen else make(lambda rngs: kind())
    for train in (True, False):
        network.apply({"params": {}}, BATCH, train=train)
    assert seen == ([None, None] if name is None else [False, True] if name == "deterministic" else [True, False])


def called(make, parameters, batch):
    """What a module whose ``__call__`` has these parameters (a name with ``=``: optional) is called with."""
    seen = {}

    def call(self, *args, **kwargs):
        seen.update(zip(names, args, strict=False), **kwargs)
        return jnp.zeros((2, 1))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [name.removesuffix("=") for name in parameters]
    defaults = [None if name.endswith("=") else inspect.Parameter.empty for name in parameters]
    made = [inspect.Parameter(name, kind, default=one) for name, one in zip(names, defaults, strict=True)]
    call.__signature__ = inspect.Signature([inspect.Parameter("self", kind), *made])
    base = nn.Module if make is from_linen else nnx.Module
    module = type("Net", (base,), {"__call__": call, "__module__": __name__})
    network = make(module()) if make is from_linen else make(lambda rngs: module())
    network.apply({"params": {}}, batch)
    return seen


WORDS = {name: jnp.full((2, 4), i) for i, name in enumerate(("input_ids", "attention_mask", "token_type_ids", "label"))}


@pytest.mark.parametrize("make", [from_linen, from_nnx])
@pytest.mark.parametrize(
    ("parameters", "given"),
    [
        (["input_ids", "attention_mask=", "train="], {"input_ids", "attention_mask", "train"}),
        (["input_ids", "decoder_input_ids=", "token_type_ids="], {"input_ids", "token_type_ids"}),
        (["attention_mask", "input_ids"], {"input_ids", "attention_mask"}),
        (["image=", "input_ids="], {"input_ids"}),
    ],
)
def test_words_are_passed_by_name_as_far_as_the_module_takes_them(make, parameters, given):
    seen = called(make, parameters, WORDS)
    assert set(seen) == given
    assert all(seen[name] is WORDS[name] for name in given - {"train"})


@pytest.mark.parametrize("make", [from_linen, from_nnx])
def test_words_are_the_first_argument_of_a_module_that_names_none(make):
    seen = called(make, ["x", "attention_mask="], WORDS)
    assert seen["x"] is WORDS["input_ids"]
    assert seen["attention_mask"] is WORDS["attention_mask"]
    # A batch with both is one of images.
    image = jnp.ones((2, 3))
    assert called(make, ["x"], WORDS | {"image": image})["x"] is image
    assert set(called(make, ["image", "input_ids"], WORDS | {"image": image})) == {"image", "input_ids"}


@pytest.mark.parametrize("make", [from_linen, from_nnx])
def test_a_batch_without_what_the_module_takes_needs_a_call(make):
    with pytest.raises(ValueError, match=r'no "image" nor "input_ids" but \[\'tokens\'\].*call=lambda'):
        called(make, ["x"], {"tokens": jnp.ones(2)})
    with pytest.raises(ValueError, match=r'no "decoder_input_ids" but \[\'attention_mask\', \'input_ids\', .*call='):
        called(make, ["input_ids", "decoder_input_ids", "attention_mask="], WORDS)
    for parameter in ("input_ids", "input_ids="):
        with pytest.raises(ValueError, match=r'no "input_ids" but \[\'image\'\]'):
            called(make, [parameter], {"image": jnp.ones(2)})


def test_a_call_of_ones_own():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    network = from_linen(Net(), call=lambda module, batch, train: module(batch["tokens"]))
    shapes = jax.eval_shape(network.init, jax.random.key(0), {"tokens": jnp.ones((2, 4))})
    assert shapes["params"]["Dense_0"]["kernel"].shape == (4, 2)
    assert network.head is None


# Functions as Haiku and Equinox give them: parameters and state apart, or one pytree of a model.


def haiku_like():
    def init(key, batch):
        params = {"linear": {"w": jax.random.normal(key, (4, 3)), "b": jnp.zeros(3)}}
        return {"params": params, "state": {"count": jnp.zeros((), jnp.int32)}}

    def apply(variables, batch, train, rng):
        params = variables["params"]["linear"]
        hidden = jnp.tanh(batch["image"])
        if train:
            hidden = hidden * jax.random.bernoulli(rng, 0.5, hidden.shape)
        outputs = Outputs(hidden @ params["w"] + params["b"], {"hidden": hidden, "unused": hidden[:, :1]})
        return outputs, {"state": {"count": variables["state"]["count"] + 1}}

    return from_function(init, apply, roles={"penultimate": ("hidden",)})


def test_a_function_with_state_and_taps():
    network = haiku_like()
    variables = network.init(jax.random.key(0), BATCH)
    outputs, updated = jax.jit(lambda v: network.apply(v, BATCH, taps=("penultimate",)))(variables)
    w, x = np.asarray(variables["params"]["linear"]["w"], np.float64), np.asarray(BATCH["image"], np.float64)
    np.testing.assert_allclose(outputs.logits, np.tanh(x) @ w, rtol=1e-4, atol=1e-5)
    assert set(outputs.taps) == {"penultimate"}
    np.testing.assert_allclose(outputs.taps["penultimate"], np.tanh(x), rtol=1e-5)
    assert updated == {}
    outputs, updated = network.apply(variables, BATCH, train=True, rng=jax.random.key(0))
    assert updated["state"]["count"] == 1
    assert outputs.taps == {}
    with pytest.raises(UnknownTapError, match=r"(?s)hiden.*close to it: \"hidden\".*hidden: \[8, 4\].*Outputs carries"):
        jax.eval_shape(lambda v: network.apply(v, BATCH, taps=("hiden",)), variables)


class Module:
    """A model that is a pytree, as Equinox's are."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, x):
        return self.weight @ x


jax.tree_util.register_pytree_node(Module, lambda m: ((m.weight,), None), lambda _, leaves: Module(*leaves))


def test_a_model_that_is_a_pytree_returns_bare_logits():
    network = from_function(
        lambda key, batch: {"params": Module(jax.random.normal(key, (3, 4)))},
        lambda variables, batch, train, rng: jax.vmap(variables["params"])(batch["image"]),
    )
    variables = network.init(jax.random.key(0), BATCH)
    gradient = jax.grad(lambda v: network.apply(v, BATCH, train=True)[0].logits.sum())(variables)
    np.testing.assert_allclose(gradient["params"].weight, np.tile(BATCH["image"].sum(0), (3, 1)), rtol=1e-5)
    assert network.apply(variables, BATCH)[1] == {}


# Ensembles.


def linear(scale):
    return from_function(
        lambda key, batch: {"params": scale * jax.random.normal(key, (4, 3)), "seen": jnp.zeros(())},
        lambda v, batch, train, rng: (
            Outputs(batch["image"] @ v["params"], {"in": batch["image"]}),
            {"seen": v["seen"] + 1},
        ),
        roles={"features": ("in",)},
    )


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.0)])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_an_ensemble_is_the_mean_of_its_members(weights, scale):
    members = [linear(scale), linear(2.0), linear(0.5)]
    mean, geometric = (ensemble(members, combine, weights) for combine in ("probabilities", "logits"))
    variables = mean.init(jax.random.key(0), BATCH)
    assert set(variables) == {"params", "seen"}
    assert set(variables["params"]) == {"0", "1", "2"}
    z = [np.asarray(BATCH["image"] @ variables["params"][k], np.float64) for k in "012"]
    share = np.full(3, 1 / 3) if weights is None else np.asarray(weights) / 4
    logs = np.stack([scipy.special.log_softmax(each, -1) for each in z])
    with np.errstate(divide="ignore"):
        expected = scipy.special.logsumexp(logs + np.log(share)[:, None, None], axis=0)
    outputs, updated = mean.apply(variables, BATCH, taps=("1/in", "0/features"))
    np.testing.assert_allclose(outputs.logits, expected, rtol=1e-4, atol=1e-4)
    assert set(outputs.taps) == {"1/in", "0/features"}
    assert updated == {}
    assert mean.roles["2/features"] == ("2/in",)
    logits, updated = geometric.apply(variables, BATCH, train=True)
    np.testing.assert_allclose(logits.logits, np.tensordot(share, np.stack(z), 1), rtol=1e-4, atol=1e-3)
    assert updated == {"seen": {"0": 1, "1": 1, "2": 1}}


def test_an_ensemble_in_low_precision_is_averaged_in_float32():
    low = linear(1.0)._replace(apply=lambda v, b, **_: (Outputs((b["image"] @ v["params"]).astype(jnp.bfloat16)), {}))
    network = ensemble([low, low])
    assert network.apply(network.init(jax.random.key(0), BATCH), BATCH)[0].logits.dtype == jnp.float32


def test_an_ensemble_refuses_what_does_not_fit():
    wide = from_function(lambda key, batch: {"params": jnp.ones((4, 5))}, lambda v, b, *_: b["image"] @ v["params"])
    network = ensemble([linear(1.0), wide])
    variables = network.init(jax.random.key(0), BATCH)
    with pytest.raises(ValueError, match=r"members 0 and 1 .* \[8, 3\] and \[8, 5\]"):
        jax.eval_shape(lambda v: network.apply(v, BATCH), variables)
    for tap, says in (("in", 'write "0/..." to "1/..."'), ("2/in", "names no member"), ("0/inn", "member 0: .*in: ")):
        with pytest.raises(UnknownTapError, match=f"(?s){says}"):
            network.apply(variables, BATCH, taps=(tap,))
    with pytest.raises(ValueError, match="at least one member"):
        ensemble([])
    with pytest.raises(ValueError, match="give 2 numbers"):
        ensemble([linear(1.0), linear(1.0)], weights=(1.0, -1.0))
    with pytest.raises(ValueError, match='combine="votes"'):
        ensemble([linear(1.0)], combine="votes")


# Cached outputs.


def test_cached_outputs_come_from_the_batch():
    batch = {**BATCH, "teacher_logits": jnp.ones((8, 3)), "teacher/hidden": jnp.zeros((8, 2)), "kept": jnp.ones((8, 1))}
    network = cached(taps={"pooled": "kept"})
    assert network.init(jax.random.key(0), batch) == {}
    outputs, updated = network.apply({}, batch, train=False, rng=None, taps=("hidden", "pooled"))
    assert outputs.logits is batch["teacher_logits"]
    assert outputs.taps["hidden"] is batch["teacher/hidden"]
    assert outputs.taps["pooled"] is batch["kept"]
    assert updated == {}
    with pytest.raises(ValueError, match=r"no \"teacher_logits\" but \['image', 'label'\]"):
        network.apply({}, BATCH)
    with pytest.raises(ValueError, match=r"no \"teacher/other\""):
        network.apply({}, batch, taps=("other",))


# Mixed precision.


def test_mixed_precision_computes_low_and_keeps_high(trained, request):
    network, variables, train, _ = trained
    # NNX's BatchNorm has to be told, or it returns what its float32 statistics promote to.
    low = mixed_precision(
        from_nnx(lambda rngs: NnxTrained(rngs, jnp.bfloat16)) if "nnx" in request.node.name else network
    )
    batch = {**BATCH, "label": jax.nn.one_hot(BATCH["label"], 3) / 3}

    def loss(params):
        v = {**variables, "params": params}
        outputs, updated = low.apply(v, batch, train=True, rng=jax.random.key(2), taps=("norm", "dropped"))
        return outputs.logits.sum(), (outputs, updated)

    gradient, (outputs, updated) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert {x.dtype for x in jax.tree.leaves((gradient, outputs, updated))} == {jnp.dtype("float32")}
    exact, exact_updated = train(variables, jax.random.key(2))
    # A bfloat16 number has 8 bits: it is what its own rounding gives, and near the exact value, but not there.
    np.testing.assert_array_equal(outputs.taps["norm"], outputs.taps["norm"].astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(outputs.taps["norm"], exact.taps["norm"], rtol=0.02, atol=0.02)
    assert not np.array_equal(outputs.taps["norm"], exact.taps["norm"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02), updated, exact_updated)


def test_mixed_precision_casts_inputs_and_params_and_nothing_else():
    seen = {}

    def apply(variables, batch, train, rng):
        seen.update(jax.tree.map(lambda x: str(x.dtype), {**variables, **batch}))
        return Outputs(batch["image"] @ variables["params"], {"ids": batch["index"]}), {
            "stats": variables["stats"].astype(jnp.bfloat16)
        }

    network = mixed_precision(
        from_function(
            lambda key, batch: {"params": jnp.ones((4, 3)), "stats": jnp.ones(3)},
            apply,
            head=lambda variables, features: features @ variables["params"],
        ),
        jnp.float16,
    )
    batch = {**BATCH, "label": jnp.ones((8, 3)), "index": jnp.arange(8), "where": jnp.ones(8, bool)}
    variables = network.init(jax.random.key(0), batch)
    outputs, updated = network.apply(variables, batch, train=True, taps=("ids",))
    assert seen == {
        "params": "float16",
        "stats": "float32",
        "image": "float16",
        "label": "float32",
        "index": "int32",
        "where": "bool",
    }
    assert outputs.logits.dtype == updated["stats"].dtype == jnp.float32
    assert outputs.taps["ids"].dtype == jnp.int32
    assert network.head(variables, jnp.ones((2, 4))).dtype == jnp.float32
    with pytest.raises(TypeError, match="not floating"):
        mixed_precision(network, jnp.int8)
