"""The step every method is made of: a student learns by an objective, from a frozen teacher or from none."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxkd.learners._learner import Learner
from jaxkd.learners._mapped import average, example_positions, global_sum, identical, vary
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables
from jaxkd.objectives import Objective, Signals, Term

Prepare = Callable[[Variables, Batch, jax.Array], Batch]


class DistillState(NamedTuple):
    """All that changes while a student learns.

    Attributes:
      step: int32 scalar, the steps taken.
      params: ``{"student": ..., "objective": ...}``, what the optimizer trains.
      collections: what is carried but not trained, likewise: BatchNorm statistics, memory banks.
      opt_state: optax's.
      key: the key all randomness of the run is folded from; it never changes.
    """

    step: jax.Array
    params: dict[str, PyTree]
    collections: dict[str, Variables]
    opt_state: optax.OptState
    key: jax.Array


class _Keys(NamedTuple):
    """The keys of a micro-batch: the student's differs from device to device, the objective's is the same on all."""

    student: jax.Array
    objective: jax.Array


def distill(
    student: Network,
    teacher: Network | None,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    prepare: Prepare | None = None,
    accumulate: int = 1,
) -> Learner:
    """One student and one frozen teacher: several are one (``ensemble``), offline outputs too (``cached``), or None.

    A step: ``prepare``, the teacher's forward (inference mode, outside the differentiated function), the student's
    forward (training mode), the objective, the gradient of student and objective parameters, the optimizer. Means are
    global: over devices, micro-batches and valid examples at once.

    Args:
      student: the network that learns.
      teacher: the network whose variables are the ``frozen`` argument of ``init`` and ``step``; without one, ``frozen``
        is not looked at (pass ``{}``).
      objective: what is minimised.
      optimizer: trains the student's parameters and the objective's together.
      prepare: ``(student variables, batch, keys) -> batch``, before both forwards, so that both see its result:
        crop, flip, mixup on the device, or sampling from the student. ``keys`` [batch] has one key an example, folded
        from the run's key, the step and the example's position in the global batch: the same on 1 device and on 8.
      accumulate: micro-batches a batch is cut into, one after the other, for their memory. Terms that are means over
        examples are the same as without; a relational term sees a micro-batch at a time. Micro-batch i holds the
        examples i, i + accumulate, ...: no example changes its device.

    Returns:
      A learner whose state is a ``DistillState`` and whose metrics are ``"loss"`` and every term and metric by name.

    Raises:
      ValueError: in ``init`` and ``step``, from shapes alone, for what does not fit: see the objectives; a batch that
        ``accumulate`` does not divide; a term and a metric of one name.
      UnknownTapError: in ``init``, if the objective asks for a feature that a network does not have.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}: it has to be at least 1")

    def teach(frozen: Variables, batch: Batch) -> Outputs:
        if teacher is None:
            return Outputs(None)
        with jax.named_scope("teacher"):
            return jax.lax.stop_gradient(teacher.apply(frozen, batch, train=False, taps=objective.taps.teacher)[0])

    def signals(
        params: dict,
        collections: dict,
        frozen: Variables,
        batch: Batch,
        taught: Outputs,
        step: jax.Array,
        keys: _Keys,
        axis_name: str | None,
    ) -> tuple[Signals, Variables]:
        """The student's forward, and all an objective may look at."""
        variables = {"params": params["student"], **collections["student"]}
        with jax.named_scope("student"):
            outputs, updated = student.apply(
                variables, batch, train=True, rng=keys.student, taps=objective.taps.student
            )
        return Signals(outputs, taught, frozen, batch, step, keys.objective, axis_name, variables), updated

    def init(key: jax.Array, frozen: Variables, batch: Batch) -> DistillState:
        _check_not_empty(batch)
        variables, zero = drawn(student, key, batch), jnp.zeros((), jnp.int32)
        _, objective_key, key = jax.random.split(key, 3)
        batch = _numbers(batch)

        def seen() -> Signals:
            # Inference mode has the same shapes, and needs no mapped axis: a BatchNorm may name one.
            outputs, _ = student.apply(variables, batch, train=False, taps=objective.taps.student)
            return Signals(outputs, teach(frozen, batch), frozen, batch, zero, key, None, variables)

        shapes: Signals = jax.eval_shape(seen)
        of_student = split(variables)
        of_objective = split(objective.init(objective_key, shapes._replace(teacher_variables=frozen)))
        params, collections = ({"student": a, "objective": b} for a, b in zip(of_student, of_objective, strict=True))
        return DistillState(zero, params, collections, jax.jit(optimizer.init)(params), key)

    def step(
        state: DistillState, frozen: Variables, batch: Batch, *, axis_name: str | None = None
    ) -> tuple[DistillState, dict[str, jax.Array]]:
        _check_not_empty(batch)
        # Split before anything is folded in: positions, devices and micro-batches count from 0, all of them.
        of_prepare, of_student, of_objective = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        if axis_name is not None:
            of_student = jax.random.fold_in(of_student, jax.lax.axis_index(axis_name))
        keys = _Keys(of_student, of_objective)
        batch = prepared(prepare, variables_of(state), batch, of_prepare, axis_name)
        parts = _micro_batches(batch, accumulate)

        def contributions(params: dict, collections: dict, part: Batch, taught: Outputs, keys: _Keys) -> tuple:
            """Terms, metrics and updated collections of a micro-batch on this device."""
            seen, updated = signals(params, collections, frozen, part, taught, state.step, keys, axis_name)
            variables = {**collections["objective"]}
            if params["objective"]:
                variables["params"] = params["objective"]
            with jax.named_scope("objective"):
                terms, metrics, of_objective = objective.apply(variables, seen)
            if both := set(terms) & set(metrics) | {"loss"} & (set(terms) | set(metrics)):
                raise ValueError(f"terms and metrics are named by one mapping, and it has {sorted(both)} twice")
            new = {
                "student": {**collections["student"], **updated},
                "objective": {**collections["objective"], **identical(of_objective, axis_name)},
            }
            return dict(terms), dict(metrics), new

        def loss_and_means(
            params: dict, collections: dict, part: Batch, taught: Outputs, keys: _Keys, counts: Any
        ) -> tuple:
            """This micro-batch's share of the global loss; without ``counts`` it is the only one, and counts itself."""
            terms, metrics, new = contributions(params, collections, part, taught, keys)
            if counts is None:
                counts = _counts(terms, metrics, axis_name)
            means = {name: term.sum / jnp.maximum(counts[name], 1) for name, term in (terms | metrics).items()}
            loss = sum((term.weight * means[name] for name, term in terms.items()), jnp.zeros(()))
            return loss, ({"loss": loss, **means}, new)

        params, of_network = vary((state.params, state.collections["student"]), axis_name)
        collections = {**state.collections, "student": of_network}
        gradient = jax.grad(loss_and_means, has_aux=True)
        if accumulate == 1:
            grads, (metrics, collections) = gradient(params, collections, batch, teach(frozen, batch), keys, None)
        else:
            indexed = (jnp.arange(accumulate), parts)

            def keys_of(i: jax.Array) -> _Keys:
                return _Keys(*(jax.random.fold_in(key, i) for key in keys))

            def count(total: None, xs: tuple) -> tuple:
                # Only the counts leave this scan: the forward passes in it are dead code and never run.
                i, part = xs
                terms, metrics, _ = contributions(params, collections, part, teach(frozen, part), keys_of(i))
                return total, _counts(terms, metrics, None)

            counts: Any = jax.lax.scan(count, None, indexed)[1]
            counts = jax.tree.map(lambda n: global_sum(jnp.sum(n, 0), axis_name), counts)

            def add(carry: tuple, xs: tuple) -> tuple:
                total, collections = carry
                i, part = xs
                taught = teach(frozen, part)
                grads, (shares, collections) = gradient(params, collections, part, taught, keys_of(i), counts)
                return (jax.tree.map(jnp.add, total, grads), collections), shares

            zeros = jax.tree.map(jnp.zeros_like, params)
            shares: Any
            (grads, collections), shares = jax.lax.scan(add, (zeros, collections), indexed)
            metrics = jax.tree.map(lambda x: jnp.sum(x, 0), shares)

        grads, metrics = global_sum((grads, metrics), axis_name)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            new_params = optax.apply_updates(state.params, updates)
        collections = {**collections, "student": average(collections["student"], axis_name)}
        return DistillState(state.step + 1, new_params, collections, opt_state, state.key), metrics

    def deploy(state: DistillState, frozen: Variables) -> Variables:
        if objective.deployment is None:
            return variables_of(state)
        own = {"params": state.params["objective"], **state.collections["objective"]}
        return objective.deployment.variables(variables_of(state), own, frozen)

    deployed = student if objective.deployment is None else objective.deployment.network(student)
    return Learner(init, step, deploy, deployed)


def drawn(student: Network, key: jax.Array, batch: Batch) -> Variables:
    """The fresh student that ``init`` draws from this key."""
    # Compiled, for run eagerly every layer's initialiser would be a program of its own.
    return jax.jit(student.init)(jax.random.split(key, 3)[0], _numbers(batch))


def variables_of(state: DistillState) -> Variables:
    """The student's variables."""
    return {"params": state.params["student"], **state.collections["student"]}


def prepared(
    prepare: Prepare | None, variables: Variables, batch: Batch, key: jax.Array, axis_name: str | None
) -> Batch:
    """The batch that ``prepare`` makes, with a key for each example."""
    if prepare is None:
        return batch
    of_examples = jax.vmap(jax.random.fold_in, (None, 0))(key, example_positions(batch, axis_name))
    return jax.lax.stop_gradient(prepare(variables, batch, of_examples))


def split(variables: Variables) -> tuple[PyTree, Variables]:
    """Variables as what is trained and what is carried."""
    return variables.get("params", {}), {name: value for name, value in variables.items() if name != "params"}


def _numbers(batch: Batch) -> Batch:
    """The batch, with zeros for what is a shape alone."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x, batch)


def _check_not_empty(batch: Batch) -> None:
    if any(x.shape[:1] == (0,) for x in jax.tree.leaves(batch)):
        shapes = {name: list(x.shape) for name, x in batch.items() if hasattr(x, "shape")}
        raise ValueError(f"the batch is empty, {shapes}: a step needs an example at least")


def _counts(terms: Mapping[str, Term], metrics: Mapping[str, Term], axis_name: str | None) -> dict[str, jax.Array]:
    counts = {name: jnp.asarray(term.count, jnp.float32) for name, term in (terms | metrics).items()}  # type: ignore[operator]
    return jax.lax.stop_gradient(global_sum(counts, axis_name))


def _micro_batches(batch: Batch, count: int) -> Batch:
    """[batch, ...] as [count, batch / count, ...], micro-batch i holding the examples i, i + count, ..."""
    if count == 1:
        return batch

    def cut(x: jax.Array) -> jax.Array:
        if x.shape[0] % count:
            raise ValueError(
                f"accumulate={count} micro-batches do not divide a batch of {x.shape[0]} examples (a device)"
            )
        return jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)

    return jax.tree.map(cut, batch)
