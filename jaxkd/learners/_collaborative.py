"""Peers that learn from their own mixture, weighed by what they get wrong on examples that none of them learns from."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkd._checks import shape_of
from jaxkd.learners._distill import DistillState, Prepare
from jaxkd.learners._learner import Learner
from jaxkd.learners._mutual import mutual
from jaxkd.networks import Batch, Network, PyTree, Variables
from jaxkd.objectives import Objective

_WEIGHTS = "weights of peers"
"""What a batch says of the mixture, [batch, peers], every row alike: as a part of it, it reaches the target."""
# Of the mean error, added to each peer's own: equal peers have no weights of the least error, but many.
_RIDGE = 1e-3


class CollaborativeState(NamedTuple):
    """Peers, and how they are mixed.

    Attributes:
      learner: the state of all peers, as that of ``mutual``.
      weights: of each, [peers], of sum 1.
    """

    learner: DistillState
    weights: jax.Array


def collaborative(
    peers: Sequence[Network],
    objective: Objective,
    optimizer: optax.GradientTransformation | Sequence[optax.GradientTransformation],
    *,
    every: int,
    views: Literal["same", "own"] = "same",
    keep: int | None = None,
    chunk: int | None = None,
    prepare: Prepare | None = None,
    accumulate: int = 1,
) -> Learner:
    """KDCL's "general": K peers learn from labels and from their mixture of the least error on held-out examples.

        t = sum_k w_k z_k,    w_k = sum_j (C^-1)_kj / sum_ij (C^-1)_ij,    C_ij = mean_n <p_i - y, p_j - y>

    with p_i the softmax of peer i and y the label, one-hot, of the held-out examples: these are the weights of sum 1 of
    which the squared error of sum_k w_k p_k is the least; one may be negative. They are taken anew before the first of
    each ``every`` steps, an epoch's in the paper. All else is ``mutual`` with this t as its ``target``.

    The diagonal of C is raised by 1e-3 of its mean, for peers that are all but one.

    Args:
      peers: see ``mutual``, as is all that is not here.
      objective: likewise.
      optimizer: likewise.
      every: how many steps the weights stay.
      views: likewise.
      keep: likewise.
      chunk: likewise.
      prepare: likewise.
      accumulate: likewise.

    Returns:
      A learner whose state is a ``CollaborativeState``, and whose metrics are those of ``mutual`` and the weights by
      peer, ``"weight/0"``. What is ``frozen`` is the held-out examples, a batch with integer labels [n], below 0 for
      those that do not count; it is the same for all devices, and no one learns from it. (Under ``seeds`` without
      ``chunk=1`` it is run through at each step.)

    Raises:
      ValueError: for ``every`` below 1, and what ``mutual`` raises; in ``init`` and ``step``, from shapes alone, for
        held-out examples without such labels.

    References:
      Guo, Wang, Wu, Yu, Liang, Hu, Luo, "Online Knowledge Distillation via Collaborative Learning", CVPR 2020
    """
    count = len(peers)
    if every < 1:
        raise ValueError(f"every is {every}: it is how many steps the weights stay, 1 at least")
    options: dict[str, Any] = {"views": views, "chunk": chunk, "prepare": prepare, "accumulate": accumulate}
    together, deployed = (mutual(peers, objective, optimizer, target=_mixture, keep=k, **options) for k in (None, keep))

    def weighed(batch: Batch, weights: jax.Array) -> Batch:
        rows = jax.tree.leaves(batch)[0].shape[0]
        return {**batch, _WEIGHTS: jnp.broadcast_to(weights, (rows, count))}

    def init(key: jax.Array, frozen: Batch, batch: Batch) -> CollaborativeState:
        _check_held_out(frozen)
        equal = jnp.full(count, 1 / count, jnp.float32)
        return CollaborativeState(together.init(key, {}, weighed(batch, equal)), equal)

    def measured(state: CollaborativeState, frozen: Batch) -> jax.Array:
        variables = together.deploy(state.learner, {})
        logits = together.network.apply(variables, frozen, train=False)[0].logits
        return _least_error_weights(logits, frozen)

    def step(
        state: CollaborativeState, frozen: Batch, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[CollaborativeState, dict[str, jax.Array]]:
        _check_held_out(frozen)
        weights = jax.lax.cond(
            state.learner.step % every == 0, measured, lambda state, frozen: state.weights, state, frozen
        )
        inner, metrics = together.step(state.learner, {}, weighed(batch, weights), axis_name=axis_name)
        of_peers = {f"weight/{k}": weights[k] for k in range(count)}
        return CollaborativeState(inner, weights), {**metrics, **of_peers}

    def deploy(state: CollaborativeState, frozen: PyTree) -> Variables:
        del frozen
        return deployed.deploy(state.learner, {})

    return Learner(init, step, deploy, deployed.network)


def _mixture(logits: jax.Array, batch: Batch) -> jax.Array:
    return jnp.tensordot(batch[_WEIGHTS][0], logits, 1)


def _least_error_weights(logits: jax.Array, held_out: Batch) -> jax.Array:
    """The weights of sum 1 of which the squared error of the mixed predictions is the least; of [peers, n, classes]."""
    label = jnp.where(held_out.get("where", True), held_out["label"], -1)
    counts = (label >= 0)[:, None]
    p = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    errors = jnp.where(counts, p - jax.nn.one_hot(label, p.shape[-1]), 0)
    products = jnp.einsum("inc,jnc->ij", errors, errors, precision="highest") / jnp.maximum(jnp.sum(counts), 1)
    # Where no peer is wrong all are alike.
    ridge = _RIDGE * jnp.trace(products) / len(products) + jnp.finfo(products.dtype).tiny
    weights = jnp.linalg.solve(products / ridge + jnp.eye(len(products)), jnp.ones(len(products)))
    return weights / jnp.sum(weights)


def _check_held_out(batch: Any) -> None:
    """Raises ValueError unless it is a batch with an integer for a label of each example."""
    label = batch.get("label") if isinstance(batch, Mapping) else None
    rows = {jnp.shape(x)[0] for x in jax.tree.leaves(batch)}
    if label is None or label.ndim != 1 or not jnp.issubdtype(label.dtype, jnp.integer) or len(rows) != 1:
        raise ValueError(
            'what is frozen has to be the held-out examples, a batch with integers [n] as "label"'
            + ("" if label is None else f", and its labels are {label.dtype} {shape_of(label)}")
        )
