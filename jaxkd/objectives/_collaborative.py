"""Collaborative learning: the one teacher that is made of what all peers say of an example, and of its label."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.networks import Batch
from jaxkd.objectives._common import without_padding

# Halvings of an interval of weights: to the last bit of float32. Sweeps over all pairs: of two peers one is exact.
_HALVINGS, _SWEEPS = 24, 8


def collaborative_target(
    variant: Literal["naive", "linear", "min_logit"] = "min_logit",
) -> Callable[[jax.Array, Batch], jax.Array]:
    """KDCL's teacher for ``learners.mutual(..., target=...)``: logits made of those of all peers, example by example.

    With z_k the logits of peer k, and c the label of an example, by variant:

      * ``"naive"``: those of the peer that is right most: z_k of the least cross-entropy CE(z_k, c);
      * ``"linear"``: sum_k a_k z_k with the weights, none negative and of sum 1, of which CE(sum_k a_k z_k, c) is the
        least: of all such mixtures the best. The problem is convex; it is solved by exact searches along pairs of
        weights, of two peers by one;
      * ``"min_logit"``: min_k (z_kj - z_kc) of each class j: the odds against the label that the surest peer gives. Its
        cross-entropy is no larger than that of any peer.

    An example without a label has the mean of the peers' logits. (The paper's fourth variant, "general", looks at
    held-out examples instead: ``learners.collaborative``.)

    Args:
      variant: see above.

    Returns:
      ``(logits [peers, batch, classes], batch) -> logits [batch, classes]``, at least float32. It raises ValueError
      unless ``batch["label"]`` is integers [batch], below 0 for unlabelled.

    Raises:
      ValueError: for an unknown variant.

    References:
      Guo, Wang, Wu, Yu, Liang, Hu, Luo, "Online Knowledge Distillation via Collaborative Learning", CVPR 2020
    """
    if variant not in ("naive", "linear", "min_logit"):
        raise ValueError(f'variant={variant!r}: there are "naive", "linear" and "min_logit"')

    def target(logits: jax.Array, batch: Batch) -> jax.Array:
        label, rows = batch.get("label"), logits.shape[1:-1]
        if label is None or label.shape != rows or not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(
                f'the peers\' target needs integers {list(rows)} as batch["label"]'
                + ("" if label is None else f", and got {label.dtype} {shape_of(label)}: leave mixup and the like out")
            )
        label = jnp.where(batch.get("where", True), label, -1)
        z = jax.vmap(lambda own: without_padding(own, batch))(logits)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        relative = z - jnp.take_along_axis(z, jnp.maximum(label, 0)[None, :, None], -1)
        if variant == "min_logit":
            made = jnp.min(relative, 0)
        elif variant == "naive":
            # The cross-entropy of the label, whose own logit is 0 here.
            best = jnp.argmin(jax.nn.logsumexp(relative, -1), 0)
            made = jnp.take_along_axis(z, best[None, :, None], 0)[0]
        else:
            made = jnp.sum(_best_mixture(relative)[..., None] * z, 0)
        return jnp.where(label[:, None] >= 0, made, jnp.mean(z, 0))

    return target


def _best_mixture(z: jax.Array) -> jax.Array:
    """The weights [peers, batch], none negative and of sum 1, of which logsumexp(sum_k a_k z_k) is the least."""
    peers = z.shape[0]
    pairs = jnp.array([(i, j) for j in range(peers) for i in range(j)])

    def search(a: jax.Array, pair: jax.Array) -> tuple[jax.Array, None]:
        """Moves weight from one peer to another, as far as it helps: the slope along it only grows."""
        to, of = pair
        mixed, along = jnp.sum(a[..., None] * z, 0), z[to] - z[of]

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) / 2
            slope = jnp.sum(jax.nn.softmax(mixed + middle[:, None] * along) * along, -1)
            return jnp.where(slope > 0, low, middle), jnp.where(slope > 0, middle, high)

        low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (-a[to], a[of]))
        moved = (low + high) / 2
        return a.at[to].add(moved).at[of].add(-moved), None

    # Made of z, that it varies over devices as z does.
    start = jnp.zeros_like(z[..., 0]) + 1 / peers
    sweeps = jnp.tile(pairs, (1 if peers == 2 else _SWEEPS, 1))
    return jax.lax.scan(search, start, sweeps)[0]
