"""One network with several ends: a trunk that branches share, each with layers of its own from there."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import Literal

from jaxkd.learners._distill import DistillState, Prepare, distill, variables_of
from jaxkd.learners._learner import Learner
from jaxkd.networks import Batch, Network, Outputs, PyTree, Variables
from jaxkd.objectives import Objective

_TRUNK, _BRANCHES = "trunk", "branches"


def branched(
    student: Network,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    trunk: str,
    branches: int = 3,
    keep: int = 0,
    prepare: Prepare | None = None,
    accumulate: int = 1,
) -> Learner:
    """Branches of a student from one trunk: ``branched(net, native_ensemble(tap), ..., trunk=tap)``.

    All variables that the tap ``trunk`` depends on are shared; of all others each branch has its own, drawn anew. Any
    network will do whose ``apply`` is not itself compiled as a whole: what depends on what is read off its operations.
    A step computes the trunk once, in one vmapped program.

    Args:
      student: the network whose branches there are; one of them is deployed, as that network.
      objective: what all minimise, of the logits [branches, batch, classes] and of the features of the trunk:
        ``objectives.native_ensemble``. It has no teacher.
      optimizer: trains ``{"student": {"trunk": ..., "branches": ...}, "objective": ...}``.
      trunk: the tap at which branches part, [batch, ...]: ``"stages[1]"``.
      branches: how many, at least 2.
      keep: deploys this branch.
      prepare: see ``distill``; it is given the variables of all branches.
      accumulate: see ``distill``.

    Returns:
      A learner whose state is a ``DistillState`` of all branches as one network, and whose metrics are those of
      ``distill``. ``frozen`` is not looked at (pass ``{}``). It deploys the student.

    Raises:
      ValueError: for less than two branches, ``keep`` that is none of them, or an objective that deploys more than the
        student; in ``init``: if nothing is trained before or after ``trunk``.
      UnknownTapError: in ``init``, for a feature that the student does not have.

    References:
      Lan, Zhu, Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", 2018, https://arxiv.org/abs/1806.04606
    """
    if branches < 2:
        raise ValueError(f"branches is {branches}: give at least two, or train one with distill(..., None, ...)")
    if not 0 <= keep < branches:
        raise ValueError(f"keep is {keep}: the branches are 0 to {branches - 1}")
    if objective.deployment is not None:
        raise ValueError("the objective deploys more than the student: it needs a frozen teacher, see distill")
    network = _branching(student, trunk, branches)
    learner = distill(network, None, objective, optimizer, prepare=prepare, accumulate=accumulate)

    def deploy(state: DistillState, frozen: PyTree) -> Variables:
        del frozen
        return _one(variables_of(state), keep)

    return Learner(learner.init, learner.step, deploy, student)


def _branching(student: Network, trunk: str, count: int) -> Network:
    """The student with ``count`` ends, with logits [count, batch, classes] and the taps of the trunk.

    Its variables are ``{collection: {"trunk": ..., "branches": ...}}``, the latter with a leading axis [count].
    """

    def init(key: jax.Array, batch: Batch) -> Variables:
        first, *others = (student.init(own, batch) for own in jax.random.split(key, count))
        shared = _leads_to(student, trunk, first, batch)
        trained = jax.tree.leaves(shared.get("params", {}))
        if all(trained) or not any(trained):
            raise ValueError(
                f'nothing of the student is trained {"after" if all(trained) else "before"} the tap "{trunk}": '
                "branches part at a tap between two layers, such as the last stage but one"
            )
        parted = [_part(own, shared) for own in (first, *others)]
        return {
            name: {
                _TRUNK: parted[0][0].get(name, {}),
                _BRANCHES: jax.tree.map(lambda *x: jnp.stack(x), *(own.get(name, {}) for _, own in parted)),
            }
            for name in first
        }

    def apply(
        variables: Variables,
        batch: Batch,
        *,
        train: bool = False,
        rng: jax.Array | None = None,
        taps: Sequence[str] = (),
    ) -> tuple[Outputs, Variables]:
        shared = {name: parts[_TRUNK] for name, parts in variables.items()}

        def run(own: Variables) -> tuple[Outputs, Variables]:
            # One key for all: what the trunk drops is the same for all branches.
            return student.apply(_merge(shared, own), batch, train=train, rng=rng, taps=tuple(taps))

        # Of the trunk nothing is mapped, and vmap leaves it as it is: it runs once.
        outputs, updated = jax.vmap(run)({name: parts[_BRANCHES] for name, parts in variables.items()})
        updates = {}
        for name, values in updated.items():
            of_trunk, own = (_like(variables[name][part], values) for part in (_TRUNK, _BRANCHES))
            updates[name] = {_TRUNK: jax.tree.map(lambda x: x[0], of_trunk), _BRANCHES: own}
        return Outputs(outputs.logits, {tap: x[0] for tap, x in outputs.taps.items()}), updates

    return Network(init, apply, student.roles)


def _one(variables: Variables, k: int) -> Variables:
    """The student's variables, with branch ``k``."""
    return {
        name: _merge(parts[_TRUNK], jax.tree.map(lambda x: x[k], parts[_BRANCHES])) for name, parts in variables.items()
    }


def _leads_to(student: Network, tap: str, variables: Variables, batch: Batch) -> Any:
    """Which of the variables the tap is computed from: a tree of bool."""

    def feature(variables: Variables) -> jax.Array:
        return student.apply(variables, batch, train=False, taps=(tap,))[0].taps[tap]

    program = jax.make_jaxpr(feature)(variables).jaxpr
    needed = {x for x in program.outvars if not isinstance(x, Literal)}
    for equation in reversed(program.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(x for x in equation.invars if not isinstance(x, Literal))
    return jax.tree.unflatten(jax.tree.structure(variables), [x in needed for x in program.invars])


def _part(tree: Mapping[str, Any], shared: Mapping[str, Any]) -> tuple[dict, dict]:
    """Nested mappings of what is shared, and of what is not."""
    trunk: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            of_trunk, of_branch = _part(value, shared[name])
            if of_trunk or not of_branch:
                trunk[name] = of_trunk
            if of_branch:
                own[name] = of_branch
        else:
            (trunk if any(jax.tree.leaves(shared[name])) else own)[name] = value
    return trunk, own


def _merge(trunk: Mapping[str, Any], own: Mapping[str, Any]) -> dict:
    """The whole again."""
    both = {name: _merge(trunk[name], own[name]) for name in trunk if name in own}
    return {**trunk, **own, **both}


def _like(part: Mapping[str, Any], tree: Mapping[str, Any]) -> dict:
    """Of a tree what a part of it has."""
    return {
        name: _like(value, tree[name]) if isinstance(value, Mapping) else tree[name] for name, value in part.items()
    }
