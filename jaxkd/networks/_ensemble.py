"""Several networks as one."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.networks._network import Batch, Network, Outputs, Variables
from jaxkd.networks._side_by_side import side_by_side


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

    members = side_by_side({str(number): network for number, network in enumerate(networks)})

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        outputs, updated = members.apply(variables, batch, train=train, rng=rng, taps=taps)
        return outputs._replace(logits=_combine(list(outputs.logits.values()), combine, shares)), updated

    return members._replace(apply=apply)


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
