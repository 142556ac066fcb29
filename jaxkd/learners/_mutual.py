"""Deep mutual learning: peers that teach each other while they learn."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd._checks import shape_of
from jaxkd.learners._distill import DistillState, Prepare, distill, prepared, split, variables_of
from jaxkd.learners._learner import Learner
from jaxkd.learners._stacked import stacked
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables, member_of, side_by_side
from jaxkd.networks._side_by_side import by_collection
from jaxkd.objectives import Objective, Signals, Taps, Term


def mutual(
    peers: Sequence[Network],
    objective: Objective,
    optimizer: optax.GradientTransformation | Sequence[optax.GradientTransformation],
    *,
    order: Literal["simultaneous", "sequential"] = "simultaneous",
    keep: int | None = None,
    chunk: int | None = None,
    prepare: Prepare | None = None,
    accumulate: int = 1,
) -> Learner:
    """K peers that learn from labels and from each other: ``mutual([network] * 4, peer_labels(), optax.adam(1e-3))``.

    Peer k minimises the mean over the other peers l of ``objective``, with k as the student and l as the teacher:

        L_k = CE(z_k) + 1 / (K - 1) sum_{l != k} T^2 KL(softmax(z_l / T) || softmax(z_k / T))

    with ``peer_labels(T)``. What a peer teaches gets no gradient, so that the gradient of sum_k L_k is each peer's own.

    Peers that are one network, given several times with one optimizer, are stacked: every leaf of the state has a
    leading axis [K], which may be sharded over devices, and one vmapped program trains them all. Others live side by
    side in one program, by number; networks made by two calls are two, be they alike.

    Orders:
      * ``"simultaneous"``: a forward pass of every peer, then all updates.
      * ``"sequential"``: the paper's: peer after peer is updated, and learns from what the others, those before it
        already updated, now say of the batch: K times the forward passes. Only its own update changes a peer's
        BatchNorm statistics. (The authors' code is sequential, with a new batch for each peer, and does not divide by
        K - 1, which of two peers is the same.)

    Args:
      peers: at least two networks of the same classes; they always run in training mode.
      objective: what a peer learns from another one, of logits alone: without taps and without variables. A term's
        mean is over examples and over the other peers alike.
      optimizer: one for all, which keeps a state for each, or one for each.
      order: see above.
      keep: deploys this peer alone. By default all of them are: which is best is for a validation split to say, and
        what is not deployed is lost to later phases.
      chunk: how many stacked peers run their forward and backward passes at a time; by default all. 1 keeps a
        convolution from becoming a grouped one, see ``seeds``.
      prepare: see ``distill``; it is given the variables of all peers, and all see its batch.
      accumulate: see ``distill``.

    Returns:
      A learner whose state is a ``DistillState`` of the peers as one network, and whose metrics are ``"loss"``, the sum
      over peers, and the objective's terms and metrics by name and peer, ``"soft/0"``. ``frozen`` is not looked at
      (pass ``{}``). Its network gives logits [K, batch, classes], from the deployed variables of all peers: those of
      stacked peers are what ``evaluation.Participant(..., peer, variables, seeds=K)`` takes, with each peer a seed, and
      ``jax.tree.map(lambda x: x[k], variables)`` is one of them; of others it is ``member_of(variables, str(k))``.

    Raises:
      ValueError: for less than two peers, optimizers that are not as many, an objective with taps, an unknown order,
        ``keep`` that is none of them, or ``chunk`` for peers that are not stacked; in ``init``, from shapes alone: if
        classes differ, for an objective with variables, and what the objective raises.

    References:
      Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2017, https://arxiv.org/abs/1706.00384
    """
    peers, count = tuple(peers), len(peers)
    optimizers = tuple(optimizer) if not isinstance(optimizer, optax.GradientTransformation) else (optimizer,) * count
    if count < 2:
        raise ValueError(f"peers has {count} network(s): give at least two, or train one with distill(..., None, ...)")
    if len(optimizers) != count:
        raise ValueError(f"optimizer has {len(optimizers)} for {count} peers: give one for all, or one for each")
    if any(objective.taps) or objective.deployment is not None:
        raise ValueError("peers learn from each other's logits: give an objective without taps that deploys no more")
    if order not in ("simultaneous", "sequential"):
        raise ValueError(f'order={order!r}: there are "simultaneous" and "sequential"')
    if keep is not None and not 0 <= keep < count:
        raise ValueError(f"keep is {keep}: the peers are 0 to {count - 1}, or None to keep all")
    equal = all(pair == (peers[0], optimizers[0]) for pair in zip(peers, optimizers, strict=True))
    if chunk is not None and not equal:
        raise ValueError(
            f"chunk is {chunk}, and the peers are not stacked: give one network several times, or no chunk"
        )
    together = _stack(peers[0], optimizers[0], count, chunk) if equal else _line_up(peers, optimizers)
    simultaneous = distill(
        together.network,
        None,
        _from_each_other(objective, count),
        together.optimizer,
        prepare=prepare,
        accumulate=accumulate,
    )
    one_by_one = [
        distill(peer, _in_training(_without(peers, k)), _from_others(objective, k), own, accumulate=accumulate)
        for k, (peer, own) in enumerate(zip(peers, optimizers, strict=True))
    ]

    def sequential(
        state: DistillState, frozen: PyTree, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[DistillState, dict[str, jax.Array]]:
        del frozen
        # Split like the keys of any step; all that is drawn below is folded from the second of them.
        of_prepare, of_peers, _ = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        batch = prepared(prepare, variables_of(state), batch, of_prepare, axis_name)
        states = together.take(state)
        metrics = {"loss": jnp.zeros(())}
        for k, learner in enumerate(one_by_one):
            own_key, others_key = (jax.random.fold_in(of_peers, 2 * k + i) for i in (0, 1))
            if axis_name is not None:
                others_key = jax.random.fold_in(others_key, jax.lax.axis_index(axis_name))
            others = [variables_of(other) for other in _without(states, k)]
            states[k], own = learner.step(
                states[k]._replace(key=own_key), (others, others_key), batch, axis_name=axis_name
            )
            metrics |= {**own, "loss": metrics["loss"] + own["loss"]}
        return together.join(state, states), metrics

    def deploy(state: DistillState, frozen: PyTree) -> Variables:
        del frozen
        return variables_of(state if keep is None else together.take(state)[keep])

    step: Callable = simultaneous.step if order == "simultaneous" else sequential
    return Learner(simultaneous.init, step, deploy, together.network if keep is None else peers[keep])


def _from_each_other(objective: Objective, count: int) -> Objective:
    """The sum over peers of what each learns from the others; the student's logits are [peers, batch, classes]."""
    others = np.array([_without(range(count), k) for k in range(count)])

    def init(key: jax.Array, signals: Signals) -> Variables:
        peer = Outputs(jax.eval_shape(lambda logits: logits[0], signals.student.logits))
        if jax.tree.leaves(objective.init(key, _of_pair(signals, peer, peer))):
            raise ValueError("peers learn from each other's logits: give an objective without variables of its own")
        return {}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        logits = signals.student.logits
        taught = jax.lax.stop_gradient(logits)[others]
        both = jax.vmap(lambda own, taught: _taught_by(objective, signals, own, taught))(logits, taught)
        terms, metrics = (
            {
                f"{name}/{k}": jax.tree.map(lambda x, k=k: x[k], term)
                for name, term in named.items()
                for k in range(count)
            }
            for named in both
        )
        return terms, metrics, {}

    return Objective(Taps(), init, apply)


def _from_others(objective: Objective, k: int) -> Objective:
    """What peer ``k`` learns; the teacher's logits are those of the others, [others, batch, classes]."""

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        both = _taught_by(objective, signals, signals.student.logits, signals.teacher.logits)
        terms, metrics = ({f"{name}/{k}": term for name, term in named.items()} for named in both)
        return terms, metrics, {}

    return Objective(Taps(), lambda key, signals: {}, apply)


def _taught_by(
    objective: Objective, signals: Signals, own: jax.Array, others: jax.Array
) -> tuple[dict[str, Term], dict[str, Term]]:
    """Terms and metrics of the objective with each of ``others`` [others, ...] as the teacher, their mean."""

    def by(other: jax.Array) -> tuple[dict[str, Term], dict[str, Term]]:
        terms, metrics, _ = objective.apply({}, _of_pair(signals, Outputs(own), Outputs(other)))
        return jax.tree.map(jnp.asarray, (dict(terms), dict(metrics)))

    return jax.tree.map(lambda x: jnp.mean(x, 0), jax.vmap(by)(others))


def _of_pair(signals: Signals, own: Outputs, other: Outputs) -> Signals:
    return signals._replace(student=own, teacher=other, student_variables={}, teacher_variables={})


def _in_training(peers: Sequence[Network]) -> Network:
    """The peers as a teacher [peers, batch, classes] that is itself in training.

    Its variables are (a list of the peers' own, a key).
    """

    def apply(frozen: Any, batch: Batch, **_: Any) -> tuple[Outputs, Variables]:
        logits = [
            peer.apply(variables, batch, train=True, rng=jax.random.fold_in(frozen[1], i))[0].logits
            for i, (peer, variables) in enumerate(zip(peers, frozen[0], strict=True))
        ]
        return Outputs(jnp.stack(logits)), {}

    return Network(lambda key, batch: {}, apply)


class _Together(NamedTuple):
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


def _stack(peer: Network, optimizer: optax.GradientTransformation, count: int, chunk: int | None) -> _Together:
    """Equal peers, with a leading axis."""

    def take(state: DistillState) -> list[DistillState]:
        each = (jax.tree.map(lambda x, k=k: x[k], _trees(state)) for k in range(count))
        return [state._replace(**trees) for trees in each]

    def join(state: DistillState, states: list[DistillState]) -> DistillState:
        trees = jax.tree.map(lambda *x: jnp.stack(x), *map(_trees, states))
        return state._replace(step=state.step + 1, **trees)

    each = optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))
    return _Together(stacked(peer, count, chunk=chunk), each, take, join)


def _trees(state: DistillState) -> dict[str, PyTree]:
    """What each peer has of its own."""
    return {"params": state.params, "collections": state.collections, "opt_state": state.opt_state}


def _line_up(peers: Sequence[Network], optimizers: Sequence[optax.GradientTransformation]) -> _Together:
    """Any peers, by number."""
    names = [str(k) for k in range(len(peers))]
    members = side_by_side(dict(zip(names, peers, strict=True)))

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
    return _Together(members._replace(apply=apply), each, take, join)


def _without(items: Sequence, k: int) -> list:
    return [item for i, item in enumerate(items) if i != k]
