"""Several networks that see the same batch, as one that keeps what each of them says apart."""

from collections.abc import Mapping, Sequence

import jax

from jaxkd.networks._network import Batch, Network, Outputs, PyTree, Variables
from jaxkd.networks._taps import UnknownTapError


def side_by_side(networks: Mapping[str, Network]) -> Network:
    """Makes one network of several, by name: they share a batch and nothing else.

    Args:
      networks: the members by name, which has no ``"/"``.

    Returns:
      A network whose logits are the members' by name. Its variables hold the members' by collection and name,
      ``{"params": {"small": ..., "large": ...}}`` (see ``member_of``); its tap ``"small/stage2"`` is the member's tap
      ``"stage2"``, and its roles are the members' under such names, ``"small/penultimate"``. It has no head.

    Raises:
      ValueError: if there is no member, or a name has a ``"/"``.
    """
    if not networks or any("/" in name for name in networks):
        raise ValueError(f'networks has {list(networks)}: give at least one, by a name without a "/"')

    def init(key: jax.Array, batch: Batch) -> Variables:
        keys = jax.random.split(key, len(networks))
        return by_collection(
            {name: network.init(own, batch) for own, (name, network) in zip(keys, networks.items(), strict=True)}
        )

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        asked = _by_member(taps, tuple(networks))
        logits: dict[str, PyTree] = {}
        found: dict[str, jax.Array] = {}
        updates: dict[str, Variables] = {}
        for number, (name, network) in enumerate(networks.items()):
            key = None if rng is None else jax.random.fold_in(rng, number)
            try:
                outputs, updates[name] = network.apply(
                    member_of(variables, name), batch, train=train, rng=key, taps=asked[name]
                )
            except UnknownTapError as error:
                raise UnknownTapError(f"member {name}: {error}") from error
            logits[name] = outputs.logits
            found |= {f"{name}/{tap}": value for tap, value in outputs.taps.items()}
        return Outputs(logits, found), by_collection(updates)

    roles = {
        f"{name}/{role}": tuple(f"{name}/{path}" for path in paths)
        for name, network in networks.items()
        for role, paths in network.roles.items()
    }
    return Network(init, apply, roles)


def member_of(variables: Variables, name: str) -> Variables:
    """One member's variables, out of those of ``side_by_side``."""
    return {collection: members[name] for collection, members in variables.items() if name in members}


def by_collection(members: Mapping[str, Variables]) -> Variables:
    """The variables of ``side_by_side``, from the members' by name."""
    collections: dict[str, dict[str, PyTree]] = {}
    for name, variables in members.items():
        for collection, values in variables.items():
            collections.setdefault(collection, {})[name] = values
    return collections


def _by_member(taps: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Deals the taps out to the members they name."""
    asked: dict[str, list[str]] = {name: [] for name in names}
    for tap in taps:
        name, slash, path = tap.partition("/")
        if not slash or name not in asked:
            raise UnknownTapError(f'tap "{tap}" names no member: write "{names[0]}/..." to "{names[-1]}/..."')
        asked[name].append(path)
    return asked
