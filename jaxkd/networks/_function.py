"""Any pure function as a network: Haiku, Equinox, plain JAX."""

from collections.abc import Callable, Mapping, Sequence

import jax

from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables
from jaxkd.networks._recording import Record, Sites
from jaxkd.networks._taps import check_roles, select


def from_function(
    init: Callable[[jax.Array, Batch], Variables],
    apply: Callable[[Variables, Batch, bool, jax.Array | None], PyTree],
    roles: Mapping[str, Sequence[str]] | None = None,
    head: Callable[[Variables, jax.Array], PyTree] | None = None,
) -> Network:
    """Makes a network of two pure functions.

    A Haiku model, for one, is ``from_function(lambda key, batch: {"params": model.init(key, batch["image"])},
    lambda variables, batch, train, rng: model.apply(variables["params"], rng, batch["image"]))``.

    Args:
      init: ``(key, batch) -> variables``: what is trained under ``"params"``, other state in collections beside it.
      apply: ``(variables, batch, train, rng)``, which returns logits, or an ``Outputs`` that carries taps, or one of
        them in a tuple with the collections it has updated. A dict of heads counts as logits.
      roles: tap names by role.
      head: ``(variables, features) -> logits``, or None.

    Returns:
      A network. Its taps are those that the ``Outputs`` carries; asking for another raises ``UnknownTapError``. With
      ``train=False`` no updated collections come back, whatever the function returns.
    """
    named = check_roles(roles or {})

    def network_apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        result = apply(variables, batch, train, rng)
        # An Outputs is a tuple too, but not one of a result and collections.
        result, updated = result if isinstance(result, tuple) and not isinstance(result, Outputs) else (result, {})
        outputs = result if isinstance(result, Outputs) else Outputs(result)
        sites: Sites = {path: {0: (Record(value),)} for path, value in outputs.taps.items()}
        found = select(taps, named, sites, lambda: (sites, "a function's taps are those that its Outputs carries"))
        return Outputs(outputs.logits, found), dict(updated) if train else {}

    return Network(init, network_apply, named, head)
