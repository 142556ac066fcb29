"""Peers that teach each other while they learn: deep mutual learning, and collaborative learning from an ensemble."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd.learners._distill import DistillState, Prepare, distill, prepared, variables_of
from jaxkd.learners._learner import Learner
from jaxkd.learners._peers import line_up, own_views, stack
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables
from jaxkd.objectives import Objective, Signals, Taps, Term

Target = Callable[[jax.Array, Batch], jax.Array]


def mutual(
    peers: Sequence[Network],
    objective: Objective,
    optimizer: optax.GradientTransformation | Sequence[optax.GradientTransformation],
    *,
    order: Literal["simultaneous", "sequential"] = "simultaneous",
    target: Target | None = None,
    views: Literal["same", "own"] = "same",
    keep: int | None = None,
    chunk: int | None = None,
    prepare: Prepare | None = None,
    accumulate: int = 1,
) -> Learner:
    """K peers that learn from labels and from each other: ``mutual([network] * 4, peer_labels(), optax.adam(1e-3))``.

    Peer k minimises the mean over the other peers l of ``objective``, with k as the student and l as the teacher:

        L_k = CE(z_k) + 1 / (K - 1) sum_{l != k} T^2 KL(softmax(z_l / T) || softmax(z_k / T))

    with ``peer_labels(T)``. What a peer teaches gets no gradient, so that the gradient of sum_k L_k is each peer's own.
    With a ``target`` all learn from that one teacher, made of what all of them say of the batch:

        L_k = CE(z_k) + T^2 KL(softmax(t / T) || softmax(z_k / T)),    t = target([z_0, ..., z_{K - 1}], batch)

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
      target: ``(logits [K, batch, classes], batch) -> logits [batch, classes]``, see ``collaborative_target``; in the
        simultaneous order.
      views: ``"same"``: all peers see the batch that ``prepare`` makes. ``"own"``: it makes one for each, of the same
        examples, with keys of its own (another crop, another flip); in the simultaneous order.
      keep: deploys this peer alone. By default all of them are: which is best is for a validation split to say, and
        what is not deployed is lost to later phases.
      chunk: how many stacked peers run their forward and backward passes at a time; by default all. 1 keeps a
        convolution from becoming a grouped one, see ``seeds``.
      prepare: see ``distill``; it is given the variables of all peers.
      accumulate: see ``distill``.

    Returns:
      A learner whose state is a ``DistillState`` of the peers as one network, and whose metrics are ``"loss"``, the sum
      over peers, and the objective's terms and metrics by name and peer, ``"soft/0"``. ``frozen`` is not looked at
      (pass ``{}``). Its network gives logits [K, batch, classes], from the deployed variables of all peers: those of
      stacked peers are what ``evaluation.Participant(..., peer, variables, seeds=K)`` takes, with each peer a seed, and
      ``jax.tree.map(lambda x: x[k], variables)`` is one of them; of others it is ``member_of(variables, str(k))``.

    Raises:
      ValueError: for less than two peers, optimizers that are not as many, an objective with taps, an unknown order or
        kind of views, what only the simultaneous order has, ``keep`` that is none of them, or ``chunk`` for peers that
        are not stacked; in ``init``, from shapes alone: if classes differ, for an objective with variables, and what
        objective and target raise; in ``step``: for own views of which ``prepare`` makes new labels.

    References:
      Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2017, https://arxiv.org/abs/1706.00384;
      Guo, Wang, Wu, Yu, Liang, Hu, Luo, "Online Knowledge Distillation via Collaborative Learning", CVPR 2020
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
    if views not in ("same", "own"):
        raise ValueError(f'views={views!r}: there are "same" and "own"')
    if order == "sequential" and (target is not None or views == "own"):
        raise ValueError('order="sequential" has no target and no views="own": both are of order="simultaneous"')
    if keep is not None and not 0 <= keep < count:
        raise ValueError(f"keep is {keep}: the peers are 0 to {count - 1}, or None to keep all")
    equal = all(pair == (peers[0], optimizers[0]) for pair in zip(peers, optimizers, strict=True))
    if chunk is not None and not equal:
        raise ValueError(
            f"chunk is {chunk}, and the peers are not stacked: give one network several times, or no chunk"
        )
    together = stack(peers[0], optimizers[0], count, chunk) if equal else line_up(peers, optimizers)
    simultaneous = distill(
        together.network,
        None,
        _from_each_other(objective, count, target),
        together.optimizer,
        prepare=own_views(prepare, count) if views == "own" and prepare is not None else prepare,
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


def _from_each_other(objective: Objective, count: int, target: Target | None) -> Objective:
    """The sum over peers of what each learns from the others; the student's logits are [peers, batch, classes]."""
    others = np.array([_without(range(count), k) for k in range(count)])

    def teachers(logits: jax.Array, batch: Batch) -> jax.Array:
        """Those of each peer, [peers, teachers, batch, classes]."""
        if target is None:
            return logits[others]
        one = target(logits, batch)
        return jnp.broadcast_to(jax.lax.stop_gradient(one), (count, 1, *one.shape))

    def init(key: jax.Array, signals: Signals) -> Variables:
        peer = Outputs(jax.eval_shape(lambda logits: logits[0], signals.student.logits))
        if jax.tree.leaves(objective.init(key, _of_pair(signals, peer, peer))):
            raise ValueError("peers learn from each other's logits: give an objective without variables of its own")
        jax.eval_shape(teachers, signals.student.logits, signals.batch)
        return {}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        logits = signals.student.logits
        taught = teachers(jax.lax.stop_gradient(logits), signals.batch)
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


def _without(items: Sequence, k: int) -> list:
    return [item for i, item in enumerate(items) if i != k]
