"""Flax NNX modules as networks."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from jaxkd.networks._call import Call, default_call
from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables
from jaxkd.networks._recording import Sites, Sown, entry, read, slot
from jaxkd.networks._taps import check_roles, expand, parse, select


def from_nnx(
    build: Callable[[nnx.Rngs], nnx.Module],
    call: Call | None = None,
    roles: Mapping[str, Sequence[str]] | None = None,
    head: Callable[[Any, jax.Array], PyTree] | None = None,
) -> Network:
    """Makes a network of an NNX model. The model needs no change for its inner features to be tapped.

    Variables are plain dicts by collection that nest as the model does, ``{"params": {"dense": {"kernel": ...}}}``; an
    instance's weights come from ``variables_of``. The state of random streams is no variable: every stream starts anew
    from the ``rng`` of a call. With ``train=True`` every collection but ``"params"`` comes back updated, and with
    ``train=False`` none; the model is put into that mode by its ``train()`` or ``eval()``.

    Args:
      build: makes the model, ``lambda rngs: Model(..., rngs=rngs)``: a network has to draw anew, so an instance is not
        enough.
      call: ``(model, batch, train) -> logits``. The default gives the model ``"image"``, or ``"input_ids"`` with
        ``"attention_mask"``, ``"token_type_ids"``, ``"decoder_input_ids"`` ... as far as its ``__call__`` has
        parameters of these names and the batch has them; and ``train`` if it has one for it (``train``, ``training``,
        ``is_training``, negated ``deterministic``).
      roles: tap paths by role, the model's attribute ``roles`` by default.
      head: ``(model, features) -> logits``. The default is the model's method or submodule ``head``, if it has one.

    Returns:
      A network. Its ``apply`` raises ``UnknownTapError`` for a tap there is not, as soon as it is traced, and
      ValueError if a model with random streams trains without an ``rng`` or the variables are another model's.
    """
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph, template = nnx.split(model)
    leaves = nnx.to_flat_state(template)
    streams = ["/".join(map(str, path)) for path, leaf in leaves if isinstance(leaf, nnx.RngKey)]
    run = default_call(type(model).__call__) if call is None else call
    named = check_roles(getattr(model, "roles", {}) if roles is None else roles)
    if head is None and callable(getattr(model, "head", None)):
        head = lambda model, features: model.head(features)  # noqa: E731

    def instance(variables: Variables, train: bool, rng: jax.Array | None) -> nnx.Module:
        state = [(path, leaf.replace(_value(path, leaf, variables, rng))) for path, leaf in leaves]
        # A copy, or BatchNorm would write to variables of another trace.
        merged = nnx.merge(graph, nnx.from_flat_state(state), copy=True)
        merged.train() if train else merged.eval()
        return merged

    def init(key: jax.Array, batch: Batch) -> Variables:
        return variables_of(build(nnx.Rngs(key)))

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        if train and rng is None and streams:
            raise ValueError(f"train=True without an rng, which the model's {streams} need: pass rng=key")

        def forward(wanted: set[str] | None) -> tuple[PyTree, Variables, Sown]:
            merged = instance(variables, train, rng)
            _prepare(merged, wanted)
            logits, captured = _captured(lambda merged: run(merged, batch, train), merged)
            sown = {tuple(map(str, path)): value.get_value() for path, value in nnx.to_flat_state(captured)}
            updated = {kind: values for kind, values in variables_of(merged).items() if kind != "params"}
            return logits, updated if train else {}, sown

        def everything() -> tuple[Sites, str]:
            sites = read(jax.eval_shape(lambda: forward(None)[2]))
            return sites, _note(model, sites)

        logits, updated, sown = forward({parse(expand(name, named)).site for name in taps})
        return Outputs(logits, select(taps, named, read(sown), everything) if taps else {}), updated

    def classify(variables: Variables, features: jax.Array) -> PyTree:
        assert head is not None
        return _captured(lambda merged: head(merged, features), instance(variables, train=False, rng=None))[0]

    return Network(init, apply, named, None if head is None else classify)


def variables_of(model: nnx.Module) -> Variables:
    """Returns the weights of an NNX model as the variables of its network.

    Args:
      model: an instance, of the structure that the network's ``build`` makes.

    Returns:
      ``{"params": {"dense": {"kernel": ...}}, "batch_stats": ...}``: nested dicts of arrays by kind of variable. The
      state of random streams is left out.
    """
    flat = {
        (_kind(leaf), *map(str, path)): leaf.get_value()
        for path, leaf in nnx.to_flat_state(nnx.split(model)[1])
        if not isinstance(leaf, nnx.RngState)
    }
    return {"params": {}, **traverse_util.unflatten_dict(flat)}


def _kind(variable: nnx.Variable) -> str:
    """Returns the collection a variable belongs to: NNX's name for its type, or the type's own."""
    if isinstance(variable, nnx.Param):
        return "params"
    try:
        return nnx.variable_name_from_type(type(variable))
    except ValueError:
        return type(variable).__name__.lower()


def _value(path: tuple[Any, ...], leaf: nnx.Variable, variables: Variables, rng: jax.Array | None) -> PyTree:
    """Gives the value of one of the model's variables: from the network's variables, or from the key for a stream."""
    name = "/".join(map(str, path))
    if isinstance(leaf, nnx.RngCount):
        return jnp.zeros(leaf.shape, jnp.uint32)
    if isinstance(leaf, nnx.RngKey):
        # Without a key nothing random is asked for (inference), but the model's structure wants some key.
        key = jax.random.fold_in(jax.random.key(0) if rng is None else rng, zlib.crc32(name.encode()))
        return jax.random.split(key, leaf.shape) if leaf.shape else key
    value: PyTree = variables.get(_kind(leaf))
    for part in path:
        if not isinstance(value, Mapping) or str(part) not in value:
            raise ValueError(f"the variables have no {_kind(leaf)}/{name}: they are of another model")
        value = value[str(part)]
    return value


def _captured(forward: Callable[[Any], PyTree], model: nnx.Module) -> tuple[PyTree, nnx.State]:
    """Runs a model inside a capture: outside of one, what a model sows would become a part of it."""
    return nnx.capture(forward, nnx.Intermediate)(model)


def _prepare(model: nnx.Module, wanted: set[str] | None) -> None:
    """Lets the modules of a merged copy sow the wanted sites (None: all): they get a class that does so."""
    owners = {site.rpartition("/")[0] for site in wanted or ()}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.List | nnx.Dict):
            continue
        owner = "/".join(map(str, path))
        slots = []
        for method in _methods(type(module)):
            site = owner if method == "__call__" else f"{owner}.{method}"
            for end in ("", ":in"):
                asked = wanted is None or site + end in wanted
                if asked or (end == "" and owner in owners):
                    slots.append((method, end, asked))
        if slots:
            kind: Any = type(module)
            module.__class__ = _recording_class(kind, tuple(slots))


def _methods(kind: type) -> list[str]:
    """Lists the methods that a model's author may have written or inherited from a layer."""
    names: dict[str, Any] = {}
    for base in kind.__mro__[: kind.__mro__.index(nnx.Module)]:
        names = vars(base) | names
    return [
        name
        for name, method in names.items()
        if (name == "__call__" or not name.startswith("_"))
        and callable(method)
        and hasattr(type(method), "__get__")
        and not isinstance(method, type | staticmethod | classmethod)
    ]


@functools.cache  # NNX registers every class with JAX for good: one for each use, not one for each trace
def _recording_class(kind: type, slots: tuple[tuple[str, str, bool], ...]) -> type:
    """Makes a subclass whose methods sow their outputs and first inputs, as ``(method, end, whether to keep)`` says."""

    def recording(method: str) -> Callable[..., Any]:
        original = getattr(kind, method)

        @functools.wraps(original)
        def record(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            output = original(self, *args, **kwargs)
            for name, end, keep in slots:
                if name == method:
                    value = (*args, *kwargs.values())[:1] if end else output
                    self.sow(nnx.Intermediate, slot(0, method, end), entry(value, keep=keep))
            return output

        return record

    return type(kind.__name__, (kind,), {method: recording(method) for method, _, _ in slots})


def _note(model: nnx.Module, sites: Sites) -> str:
    """Says how to get at what is not listed, and names modules of which nothing was recorded."""
    note = "what is no module's input or output has to be sown: self.sow(nnx.Intermediate, name, value)"
    callables = {"/".join(map(str, path)) for path, m in nnx.iter_modules(model) if "__call__" in _methods(type(m))}
    silent = callables - {"", *sites}
    outer = sorted(site for site in silent if not any(site.startswith(f"{other}/") for other in silent))
    if outer:
        note += f"\nnot called, or inside a transformation that drops what modules sow (not an nnx one?): {outer}"
    return note
