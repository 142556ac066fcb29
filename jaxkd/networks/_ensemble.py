"""Several networks as one."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.networks._network import Batch, Network, Outputs, Variables
from jaxkd.networks._taps import UnknownTapError


def ensemble(
    networks: Sequence[Network],
    combine: Literal["probabilities", "logits"] = "probabilities",
    weights: Sequence[float] | None = None,
) -> Network:
    """Makes one network of several: that of the mean of their predictions.

    With member k's logits z_k and weights w_k that are scaled to sum to 1, the logits are

    - ``"probabilities"``: log sum_k w_k softmax(z_k), whose softmax is the mean of the members' probabilities;
    - ``"logits"``: sum_k w_k z_k, whose softmax is their normalised geometric mean;

    computed in at least float32.

    Args:
      networks: the members. Their logits are [..., classes] with the same classes.
      combine: what the mean is taken of.
      weights: a non-negative number for each member; equal by default.

    Returns:
      A network. Its variables hold the members' by collection and number, ``{"params": {"0": ..., "1": ...}}``; its tap
      ``"1/stage2"`` is member 1's tap ``"stage2"``, and its roles are the members' under such names,
      ``"1/penultimate"``. It has no head.

    Raises:
      ValueError: if there is no member, if ``combine`` is unknown, or if the weights do not fit; on ``apply``, if
        members differ in the shape of their logits.
    """
    if not networks:
        raise ValueError("networks is empty: an ensemble needs at least one member")
    if combine not in ("probabilities", "logits"):
        raise ValueError(f'combine="{combine}": use "probabilities" or "logits"')
    shares = np.ones(len(networks)) if weights is None else np.asarray(weights, float)
    if shares.shape != (len(networks),) or not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise ValueError(f"weights {weights}: give {len(networks)} numbers, one a member, none negative and not all 0")
    shares = shares / shares.sum()

    def init(key: jax.Array, batch: Batch) -> Variables:
        keys = jax.random.split(key, len(networks))
        return _by_collection([member.init(k, batch) for member, k in zip(networks, keys, strict=True)])

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        asked = _by_member(taps, len(networks))
        outputs, updates = [], []
        for number, member in enumerate(networks):
            own = {name: members[str(number)] for name, members in variables.items() if str(number) in members}
            key = None if rng is None else jax.random.fold_in(rng, number)
            try:
                output, updated = member.apply(own, batch, train=train, rng=key, taps=asked[number])
            except UnknownTapError as error:
                raise UnknownTapError(f"member {number}: {error}") from error
            outputs.append(output)
            updates.append(updated)
        logits = _combine([output.logits for output in outputs], combine, shares)
        found = {
            f"{number}/{tap}": value for number, output in enumerate(outputs) for tap, value in output.taps.items()
        }
        return Outputs(logits, found), _by_collection(updates)

    roles = {
        f"{number}/{role}": tuple(f"{number}/{path}" for path in paths)
        for number, member in enumerate(networks)
        for role, paths in member.roles.items()
    }
    return Network(init, apply, roles)


def _by_collection(members: Sequence[Variables]) -> Variables:
    """Puts the collections outside and the members' numbers inside."""
    collections: dict[str, dict[str, object]] = {}
    for number, variables in enumerate(members):
        for name, values in variables.items():
            collections.setdefault(name, {})[str(number)] = values
    return collections


def _by_member(taps: Sequence[str], members: int) -> list[list[str]]:
    """Deals the taps out to the members they name."""
    asked: list[list[str]] = [[] for _ in range(members)]
    for tap in taps:
        number, slash, path = tap.partition("/")
        if not slash or number not in map(str, range(members)):
            raise UnknownTapError(f'tap "{tap}" names no member: write "0/..." to "{members - 1}/..."')
        asked[int(number)].append(path)
    return asked


def _combine(logits: Sequence[jax.Array], combine: str, shares: np.ndarray) -> jax.Array:
    for number, other in enumerate(logits):
        if jnp.shape(other) != jnp.shape(logits[0]):
            raise ValueError(
                f"members 0 and {number} differ in the shape of their logits, {list(jnp.shape(logits[0]))} and "
                f"{list(jnp.shape(other))}: an ensemble's members need the same classes"
            )
    stacked = jnp.stack([z.astype(jnp.promote_types(z.dtype, jnp.float32)) for z in logits])
    scale = jnp.asarray(shares, stacked.dtype).reshape(-1, *[1] * (stacked.ndim - 1))
    if combine == "logits":
        return jnp.sum(scale * stacked, axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(stacked), axis=0, b=scale)
