"""Students in int8 after training, through qwix."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx, traverse_util

from jaxkd import networks
from jaxkd.networks import Network, Outputs, Variables

_SCALES = "scales"
_WEIGHTS = ("kernel", "embedding")


def quantize_weights(network: Network, variables: Variables) -> tuple[Network, Variables]:
    """Keeps a network's weights in int8, and computes in float: weights-only quantisation, of any network.

    A kernel or an embedding, whose last axis is that of its output channels, becomes ``round(w / s)`` with one scale a
    channel, ``s = max |w| / 127.5`` over all its other axes. ``apply`` scales it back where the network runs. Biases,
    norms and whatever else stays as it is.

    Args:
      network: any.
      variables: the network's, floating.

    Returns:
      A network for inference, and its variables: the int8 weights in ``"params"``, their scales in ``"scales"``.

    Raises:
      ImportError: without qwix, which the extra ``quantize`` brings.
      ValueError: there is no ``kernel`` or ``embedding`` of two axes or more in ``"params"``.
    """
    qwix = _qwix()
    params, scales = {}, {}
    for path, leaf in traverse_util.flatten_dict(dict(variables.get("params", {}))).items():
        params[path] = leaf
        if path[-1] in _WEIGHTS and jnp.ndim(leaf) >= 2:
            quantized = qwix.quantize(jnp.asarray(leaf), jnp.int8, channelwise_axes=[jnp.ndim(leaf) - 1])
            params[path], scales[path] = quantized.qvalue, quantized.scale
    _check(scales, params)

    def widened(variables: Variables) -> Variables:
        flat = traverse_util.flatten_dict(dict(variables["params"]))
        for path, scale in traverse_util.flatten_dict(dict(variables[_SCALES])).items():
            flat[path] = flat[path].astype(scale.dtype) * scale
        return {**_without_scales(variables), "params": traverse_util.unflatten_dict(flat)}

    def apply(variables: Variables, batch: Any, *, train: bool = False, **options: Any) -> tuple[Outputs, Variables]:
        _check_inference(train)
        return network.apply(widened(variables), batch, train=False, **options)

    made = Network(_no_init, apply, network.roles)
    return made, {**variables, **_collections(params, scales)}


def quantize_dynamic(
    model: nn.Module | Callable[[nnx.Rngs], nnx.Module], variables: Variables, image: jax.Array
) -> tuple[Network, Variables]:
    """Computes a Flax model's convolutions and matrix products in int8: dynamic-range quantisation.

    Weights become int8 as in `quantize_weights`, once; what a layer takes is quantised where the model runs, with the
    scale of its largest value, and the product is one of integers, scaled back. What qwix does not recognise as a
    product with a parameter stays float: the convolutions of the ``cnn_...`` models, for one, which are products with
    patches. A CPU has no fast int8 convolution in XLA: there it saves memory and costs time.

    Args:
      model: a Linen module, or ``lambda rngs: Model(..., rngs=rngs)`` of an NNX one.
      variables: its variables, floating.
      image: the one input that the model takes, or its shape and dtype; [n, ...].

    Returns:
      A network for inference, and its variables: the int8 weights in ``"params"``, their scales in ``"scales"``.

    Raises:
      ImportError: without qwix, which the extra ``quantize`` brings.
      ValueError: nothing in the model can be quantised.
    """
    qwix = _qwix()
    provider = qwix.PtqProvider([qwix.QuantizationRule(weight_qtype=jnp.int8, act_qtype=jnp.int8)])
    one = jnp.zeros((1, *image.shape[1:]), image.dtype)
    floating = jax.tree.map(jnp.asarray, dict(variables["params"]))
    if isinstance(model, nn.Module):
        module = qwix.quantize_model(model, provider)
        inner = networks.from_linen(module)
        abstract = jax.eval_shape(lambda: inner.init(jax.random.key(0), {"image": one}))["params"]
        quantized = qwix.quantize_params(floating, abstract)
    else:

        def build(rngs: nnx.Rngs) -> nnx.Module:
            made = _with_params(model(rngs), floating)
            made.eval()
            quantized: nnx.Module = qwix.quantize_model(made, provider, one)
            return quantized

        inner = networks.from_nnx(build)
        quantized = networks.variables_of(build(nnx.Rngs(0)))["params"]
    # qwix nests a weight as .array.qvalue and .array.scale: here they are plain arrays by collection, as others are.
    leaves, structure = jax.tree_util.tree_flatten_with_path(quantized)
    places = [_place(path) for path, _ in leaves]
    flat: dict[str, dict[tuple[str, ...], jax.Array]] = {"params": {}, _SCALES: {}}
    for (collection, path), (_, leaf) in zip(places, leaves, strict=True):
        flat[collection][path] = leaf
    _check(flat[_SCALES], flat["params"])

    def apply(variables: Variables, batch: Any, *, train: bool = False, **options: Any) -> tuple[Outputs, Variables]:
        _check_inference(train)
        given = {name: traverse_util.flatten_dict(dict(variables[name])) for name in ("params", _SCALES)}
        nested = jax.tree.unflatten(structure, [given[collection][path] for collection, path in places])
        return inner.apply({**_without_scales(variables), "params": nested}, batch, train=False, **options)

    made = Network(_no_init, apply, inner.roles)
    return made, {**variables, **_collections(flat["params"], flat[_SCALES])}


def check_int8() -> None:
    """Raises ImportError, naming the extra, where qwix is not installed."""
    _qwix()


def _qwix() -> Any:
    try:
        return importlib.import_module("qwix")
    except ModuleNotFoundError as error:
        if error.name != "qwix":
            raise
        raise ImportError('int8 needs qwix: pip install "jaxkd[quantize]"') from None


def _place(path: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    """Where a leaf of qwix's tree goes: the collection, and the path there."""
    names = tuple(str(getattr(key, "name", getattr(key, "key", key))) for key in path)
    if names[-2:] == ("array", "qvalue"):
        return "params", names[:-2]
    if names[-2:] == ("array", "scale"):
        return _SCALES, names[:-2]
    return "params", names


def _with_params(model: nnx.Module, params: Mapping[str, Any]) -> nnx.Module:
    """An NNX model with these parameters, as ``networks.variables_of`` names them."""
    given = traverse_util.flatten_dict(dict(params))
    leaves = nnx.to_flat_state(nnx.state(model, nnx.Param))
    nnx.update(
        model, nnx.from_flat_state([(path, leaf.replace(given[tuple(map(str, path))])) for path, leaf in leaves])
    )
    return model


def _collections(params: Mapping[Any, Any], scales: Mapping[Any, Any]) -> dict[str, Any]:
    return {"params": traverse_util.unflatten_dict(params), _SCALES: traverse_util.unflatten_dict(scales)}


def _without_scales(variables: Variables) -> dict[str, Any]:
    return {name: collection for name, collection in variables.items() if name != _SCALES}


def _check(scales: Mapping[Any, Any], params: Mapping[Any, Any]) -> None:
    if not scales:
        names = ", ".join("/".join(path) for path in params) or "none"
        raise ValueError(f"nothing of the model can be quantised to int8: its parameters are {names}")


def _check_inference(train: bool) -> None:
    if train:
        raise ValueError("train=True, and a quantised network is for inference: train the float one")


def _no_init(*_: Any) -> Variables:
    raise ValueError("a quantised network has the weights of the float one: there is nothing to draw")
