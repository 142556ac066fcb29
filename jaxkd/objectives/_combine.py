"""Objectives are added with weights, and the sum is again an objective."""

import jax

from jaxkd._checks import check_number
from jaxkd.networks import Variables
from jaxkd.objectives._common import Number, value_at
from jaxkd.objectives._objective import Deployment, Objective, Signals, Taps, Term


def weighted_sum(**terms: tuple[Number, Objective]) -> Objective:
    """The weighted sum of objectives: ``weighted_sum(hard=(0.1, hard_label()), soft=(0.9, soft_label(4.0)))``.

    Args:
      **terms: by the name it has in the metrics, a weight and an objective. A weight is a number, a schedule of the
        step, or a traced array. The terms of an objective that has several are named ``"name/its own name"``.

    Returns:
      The objective whose variables are ``{collection: {name: ...}}``.

    Raises:
      ValueError: of nothing, of what is no (weight, objective), of a weight that is not finite, or of two that deploy
        more than the student.
      TypeError: of a weight that is no number.
    """
    if not terms:
        raise ValueError("weighted_sum of nothing: give at least one name=(weight, objective)")
    for name, term in terms.items():
        if not (isinstance(term, tuple) and len(term) == 2 and isinstance(term[1], Objective)):
            raise ValueError(f"weighted_sum({name}=...) takes (weight, objective), and got {term!r}")
        check_number(f"the weight of {name}", term[0])
    taps = Taps(
        *(
            tuple(dict.fromkeys(tap for _, objective in terms.values() for tap in objective.taps[side]))
            for side in (0, 1)
        )
    )

    deploying = [name for name, (_, objective) in terms.items() if objective.deployment is not None]
    if len(deploying) > 1:
        raise ValueError(f"{' and '.join(deploying)} each deploy a network of their own: keep one of them")

    def init(key: jax.Array, signals: Signals) -> Variables:
        variables: dict[str, dict] = {}
        for position, (name, (_, objective)) in enumerate(terms.items()):
            for collection, value in objective.init(jax.random.fold_in(key, position), signals).items():
                variables.setdefault(collection, {})[name] = value
        return variables

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        all_terms: dict[str, Term] = {}
        all_metrics: dict[str, Term] = {}
        updated: dict[str, dict] = {}
        for name, (weight, objective) in terms.items():
            own = _own(variables, name)
            inner, metrics, new = objective.apply(own, signals)
            for key, term in inner.items():
                scaled = term._replace(weight=value_at(weight, signals.step) * term.weight)
                all_terms[name if len(inner) == 1 else f"{name}/{key}"] = scaled
            all_metrics |= {f"{name}/{key}": metric for key, metric in metrics.items()}
            for collection, value in new.items():
                updated.setdefault(collection, {})[name] = value
        return all_terms, all_metrics, updated

    deployment = None
    if deploying:
        (name,) = deploying
        inner = terms[name][1].deployment
        assert inner is not None
        deployment = Deployment(
            inner.network, lambda student, own, teacher: inner.variables(student, _own(own, name), teacher)
        )
    return Objective(taps, init, apply, deployment)


def _own(variables: Variables, name: str) -> Variables:
    return {collection: value[name] for collection, value in variables.items() if name in value}
