"""Peers as one network with one state: equal ones stacked, others side by side; and what each of them sees."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkd._checks import shape_of
from jaxkd.learners._distill import DistillState, Prepare, split, variables_of
from jaxkd.learners._stacked import stacked
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables, member_of, side_by_side
from jaxkd.networks._side_by_side import by_collection

_VIEWS = "views of peers"
"""What peers see of their own in a batch, [batch, peers, ...] by name."""


class Together(NamedTuple):
    """Peers as one network.

    Attributes:
      network: gives logits [peers, batch, classes].
      optimizer: trains each peer by itself.
      take: the state of all as the states of each.
      join: ``(state before, states of each) -> state of all``, a step later.
    """

    network: Network
    optimizer: optax.GradientTransformation
    take: Callable[[DistillState], list[DistillState]]
    join: Callable[[DistillState, list[DistillState]], DistillState]


def stack(peer: Network, optimizer: optax.GradientTransformation, count: int, chunk: int | None) -> Together:
    """Equal peers, with a leading axis."""

    def take(state: DistillState) -> list[DistillState]:
        each = (jax.tree.map(lambda x, k=k: x[k], _trees(state)) for k in range(count))
        return [state._replace(**trees) for trees in each]

    def join(state: DistillState, states: list[DistillState]) -> DistillState:
        trees = jax.tree.map(lambda *x: jnp.stack(x), *map(_trees, states))
        return state._replace(step=state.step + 1, **trees)

    of_one, of_each = (stacked(peer, count, chunk=chunk, data=data) for data in ("same", "own"))

    def apply(variables: Variables, batch: Batch, **options: Any) -> tuple[Outputs, Variables]:
        if _VIEWS in batch:
            return of_each.apply(variables, _all_views(batch, count), **options)
        return of_one.apply(variables, batch, **options)

    each = optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))
    return Together(of_one._replace(apply=apply), each, take, join)


def _trees(state: DistillState) -> dict[str, PyTree]:
    """What each peer has of its own."""
    return {"params": state.params, "collections": state.collections, "opt_state": state.opt_state}


def line_up(peers: Sequence[Network], optimizers: Sequence[optax.GradientTransformation]) -> Together:
    """Any peers, by number."""
    names = [str(k) for k in range(len(peers))]
    members = side_by_side({name: _seeing(peer, k) for k, (name, peer) in enumerate(zip(names, peers, strict=True))})

    def apply(variables: Variables, batch: Batch, **options: Any) -> tuple[Outputs, Variables]:
        outputs, updated = members.apply(variables, batch, **options)
        logits = [outputs.logits[name] for name in names]
        for k, own in enumerate(logits):
            if own.shape != logits[0].shape:
                raise ValueError(
                    f"peer 0 has logits {shape_of(logits[0])} and peer {k} {shape_of(own)}: give them the same classes"
                )
        return outputs._replace(logits=jnp.stack(logits)), updated

    def params_of(trees: PyTree, name: str) -> PyTree:
        """Parameters, or their gradients, as a learner of one peer has them."""
        return {"student": trees["student"][name], "objective": {}}

    def init(params: PyTree) -> tuple:
        return tuple(own.init(params_of(params, name)) for own, name in zip(optimizers, names, strict=True))

    def update(grads: PyTree, states: tuple, params: PyTree) -> tuple[PyTree, tuple]:
        each = [
            own.update(params_of(grads, name), state, params_of(params, name))
            for own, name, state in zip(optimizers, names, states, strict=True)
        ]
        updates = {name: update["student"] for name, (update, _) in zip(names, each, strict=True)}
        return {"student": updates, "objective": {}}, tuple(state for _, state in each)

    def take(state: DistillState) -> list[DistillState]:
        return [
            DistillState(
                state.step,
                params_of(state.params, name),
                {"student": member_of(state.collections["student"], name), "objective": {}},
                opt_state,
                state.key,
            )
            for name, opt_state in zip(names, state.opt_state, strict=True)
        ]

    def join(state: DistillState, states: list[DistillState]) -> DistillState:
        variables = by_collection({name: variables_of(each) for name, each in zip(names, states, strict=True)})
        params, collections = split(variables)
        return DistillState(
            state.step + 1,
            {"student": params, "objective": {}},
            {"student": collections, "objective": {}},
            tuple(each.opt_state for each in states),
            state.key,
        )

    each = optax.GradientTransformation(init, update)
    return Together(members._replace(apply=apply), each, take, join)


def own_views(prepare: Prepare, count: int) -> Prepare:
    """Prepares a batch for each peer, with keys of its own; what is no network's to see is the first one's."""

    def prepare_each(variables: Variables, batch: Batch, keys: jax.Array) -> Batch:
        each = [prepare(variables, batch, jax.vmap(jax.random.fold_in, (0, None))(keys, k)) for k in range(count)]
        # What is left as it is comes back as the same array.
        changed = [name for name, x in each[0].items() if x is not batch.get(name)]
        if "label" in changed:
            raise ValueError(
                'views="own" has peers teach each other one label, and prepare makes new ones: leave mixup and the '
                'like out of it, or let all peers see one view (views="same")'
            )
        return {**each[0], _VIEWS: {name: jnp.stack([own[name] for own in each], 1) for name in changed}}

    return prepare_each


def _view(batch: Batch, k: int) -> Batch:
    """What peer ``k`` sees."""
    own = batch.get(_VIEWS, {})
    return {name: x for name, x in batch.items() if name != _VIEWS} | {name: x[:, k] for name, x in own.items()}


def _all_views(batch: Batch, count: int) -> Batch:
    """What all peers see, with a leading axis [peers]."""
    own = batch.get(_VIEWS, {})
    shared = {name: jnp.broadcast_to(x, (count, *x.shape)) for name, x in batch.items() if name not in (_VIEWS, *own)}
    return shared | {name: jnp.moveaxis(x, 1, 0) for name, x in own.items()}


def _seeing(peer: Network, k: int) -> Network:
    """Peer ``k``, which sees its own."""

    def apply(variables: Variables, batch: Batch, **options: Any) -> tuple[Outputs, Variables]:
        return peer.apply(variables, _view(batch, k), **options)

    return peer._replace(apply=apply)
