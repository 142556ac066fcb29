"""Flax Linen modules as networks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
from flax import linen as nn

from jaxkd.networks._call import Call, default_call
from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables
from jaxkd.networks._recording import Sites, Sown, entry, is_slot, read, slot
from jaxkd.networks._taps import check_roles, expand, parse, select


def from_linen(
    module: nn.Module,
    call: Call | None = None,
    roles: Mapping[str, Sequence[str]] | None = None,
    head: Callable[[Any, jax.Array], PyTree] | None = None,
) -> Network:
    """Makes a network of a Linen module. The module needs no change for its inner features to be tapped.

    With ``train=True`` every collection but ``"params"`` is mutable and comes back updated; with ``train=False`` none.
    What the module sows into ``"intermediates"`` can be tapped and never comes back as a collection. One ``rng`` serves
    all streams: it is given as ``"dropout"`` and as ``"params"``, which Linen falls back on for every other name.

    Taps are recorded by intercepting methods, so they work under every JAX and Flax transformation. Where a tapped
    stack's ``nn.scan`` has no axis for ``"intermediates"``, the model runs a second time, with what is recorded put
    among its parameters; under ``jit`` the first run is dead code.

    Args:
      module: an unbound module.
      call: ``(module, batch, train) -> logits``, run with the module bound. The default gives the module ``"image"``,
        or ``"input_ids"`` with ``"attention_mask"``, ``"token_type_ids"``, ``"decoder_input_ids"`` ... as far as its
        ``__call__`` has parameters of these names and the batch has them; and ``train`` under the name it has there
        (``train``, ``training``, ``is_training``, negated ``deterministic``, or none).
      roles: tap paths by role, the module's attribute ``roles`` by default.
      head: ``(module, features) -> logits``, run with the module bound. The default is the module's method ``head``, if
        its class has one. (A submodule that ``setup`` makes is no method: ``head=lambda module, x: module.fc(x)``.)

    Returns:
      A network. Its ``apply`` raises ``UnknownTapError`` for a tap there is not, as soon as it is traced.
    """
    run = default_call(type(module).__call__) if call is None else call
    named = check_roles(getattr(module, "roles", {}) if roles is None else roles)
    if head is None and hasattr(type(module), "head"):
        head = lambda module, features: module.head(features)  # noqa: E731

    def init(key: jax.Array, batch: Batch) -> Variables:
        return module.init(key, batch, False, method=run)

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        # Linen falls back on "params" for streams it was not given, so that one key serves custom ones too.
        rngs = {} if rng is None else {"params": rng, "dropout": jax.random.fold_in(rng, 0)}

        def forward(mutable: Any) -> tuple[PyTree, Mapping[str, Any]]:
            return module.apply(variables, batch, train, rngs=rngs, mutable=mutable, method=run)

        if not taps:
            logits, updated = forward(nn.DenyList(("params", "intermediates")) if train else ())
            return Outputs(logits), dict(updated)

        def everything() -> tuple[Sites, str]:
            lost: set[str] = set()
            sown = jax.eval_shape(lambda: _record(forward, train, None, lost)[2])
            return read(sown), _note(lost)

        wanted = {parse(expand(name, named)).site for name in taps}
        logits, updated, sown = _record(forward, train, wanted, set())
        return Outputs(logits, select(taps, named, read(sown), everything)), updated

    def classify(variables: Variables, features: jax.Array) -> PyTree:
        return module.apply(variables, features, method=head)

    return Network(init, apply, named, None if head is None else classify)


def _record(
    forward: Callable[[Any], tuple[PyTree, Mapping[str, Any]]], train: bool, wanted: set[str] | None, lost: set[str]
) -> tuple[PyTree, dict[str, Any], Sown]:
    """Runs a forward pass and records the wanted sites (None: all).

    Args:
      forward: ``mutable -> (logits, updated collections)``.
      train: whether the collections are updated.
      wanted: sites, or None for all.
      lost: gets the sites that no collection could bring out of a lifted transformation at the first try.

    Returns:
      ``(logits, updated collections, what was sown by path and name)``.
    """
    with nn.intercept_methods(_recorder(wanted, lost, ("intermediates",))):
        logits, updated = forward(nn.DenyList("params") if train else ("intermediates",))
    if lost:
        # A scan hands on the collections it was told of and drops the others. "params" it does know of.
        try:
            with nn.intercept_methods(_recorder(wanted, set(), ("intermediates", "params"))):
                logits, updated = forward(True if train else ("intermediates", "params"))
        except (TypeError, ValueError, flax.errors.FlaxError):
            pass  # parameters that all layers share cannot take it in: the tap stays unknown, and the error says why
    collections = dict(updated)
    sown = flax.traverse_util.flatten_dict(collections.pop("intermediates", {}))
    parameters = flax.traverse_util.flatten_dict(collections.pop("params", {}))
    sown |= {path: value for path, value in parameters.items() if is_slot(path[-1])}
    return logits, collections, sown


def _recorder(wanted: set[str] | None, lost: set[str], collections: Sequence[str]) -> Callable[..., Any]:
    """Makes an interceptor that sows each call's output and first input.

    A method that calls its ``super()`` is intercepted twice for one call. The inner one (level 1) counts only where it
    is one layer of a stack of which the outer is the whole.
    """
    owners = {site.rpartition("/")[0] for site in wanted or ()}
    active: list[str] = []

    def record(next_method: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module, method = context.module, context.method_name
        if module.scope is None or method == "setup":
            return next_method(*args, **kwargs)
        owner = "/".join(module.path)
        site = owner if method == "__call__" else f"{owner}.{method}"
        level = active.count(site)
        active.append(site)
        try:
            output = next_method(*args, **kwargs)
        finally:
            active.pop()
        for end, value in (("", output), (":in", (*args, *kwargs.values())[:1])):
            asked = wanted is None or site + end in wanted
            # Of the owner of what may be a sown value the marker alone is kept: it tells the sown value's stack.
            if not asked and not (end == "" and owner in owners):
                continue
            collection = next((name for name in collections if module.is_mutable_collection(name)), None)
            if collection is not None:
                module.sow(collection, slot(level, method, end), entry(value, keep=asked))
            elif asked:
                lost.add(site + end)
        return output

    return record


def _note(lost: set[str]) -> str:
    """Says how to get at what is not listed, and which stacks drop what is sown in them."""
    note = 'what is no module\'s input or output has to be sown: self.sow("intermediates", name, value)'
    modules = {site.removesuffix(":in") for site in lost}
    outer = sorted(site for site in modules if not any(site.startswith(f"{other}/") for other in modules))
    if outer:
        note += f'\nwhat is sown inside {outer} its nn.scan drops: give that variable_axes={{"intermediates": 0}}'
    return note
