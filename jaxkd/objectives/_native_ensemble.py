"""ONE: branches of one network, of which a gate makes the ensemble that teaches them."""

import math

import jax
import jax.numpy as jnp

from jaxkd._checks import check_number, shape_of
from jaxkd.networks import Outputs, Variables
from jaxkd.objectives._blocks import linear, norm
from jaxkd.objectives._common import Number, value_at, without_padding
from jaxkd.objectives._logits import hard_label, soft_label
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import convolve, normalize, pooled


def native_ensemble(trunk: str, *, weight: Number = 1.0, temperature: Number = 3.0) -> Objective:
    """ONE: branches learn from labels and from their own gated ensemble, which learns from the labels too.

        L = sum_i CE(z_i) + CE(z_e) + weight sum_i T^2 KL(softmax(z_e / T) || softmax(z_i / T)),    z_e = sum_i g_i z_i

    The student's logits are [branches, batch, classes], as those of ``learners.branched``. The gate g [batch, branches]
    is trained, and not deployed: a linear map of the trunk's feature, averaged over its positions, BatchNorm
    (statistics of the valid examples of the global batch), ReLU, and a softmax over branches. As a teacher the ensemble
    gets no gradient.

    Terms: ``"hard"`` and ``"soft"``, sums over branches, and ``"ensemble"``.

    Args:
      trunk: the tap of the student that branches and gate start from, [batch, ..., features].
      weight: of the soft labels: a number, a schedule of the step (the authors' code has exp(-5 (1 - epoch / 80)^2) for
        80 epochs, and 1 from there), or a traced array.
      temperature: T > 0: likewise.

    Raises:
      ValueError: if a number is out of range; in ``init``: if the logits are not of branches, the trunk is no feature
        of the batch, or what ``hard_label`` raises.

    References:
      Lan, Zhu, Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", 2018, https://arxiv.org/abs/1806.04606
    """
    check_number("weight", weight, within=(0, math.inf))
    hard, soft = hard_label(), soft_label(temperature)

    def init(key: jax.Array, signals: Signals) -> Variables:
        logits, feature = signals.student.logits, signals.student.taps[trunk]
        if logits.ndim != 3 or feature.ndim < 2 or feature.shape[0] != logits.shape[1]:
            raise ValueError(
                f'student logits {shape_of(logits)}, student tap "{trunk}" is {shape_of(feature)}: they have to be '
                "[branches, batch, classes] and [batch, ..., features], see learners.branched"
            )
        branches, rows, classes = logits.shape
        hard.init(key, _of_one(signals, jax.ShapeDtypeStruct((rows, classes), logits.dtype)))
        gate = {"linear": linear(key, feature.shape[-1], branches), "norm": norm(branches)}
        return {"params": gate}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        gate, logits = variables["params"], signals.student.logits
        feature = pooled(without_padding(signals.student.taps[trunk], signals.batch))
        shares = jax.nn.softmax(jax.nn.relu(normalize(gate["norm"], convolve(gate["linear"], feature), signals)))
        ensemble = jnp.sum(shares.T[..., None] * logits, 0)
        taught = signals._replace(teacher=Outputs(jax.lax.stop_gradient(ensemble)))

        def of_branch(own: jax.Array) -> tuple[Term, Term]:
            return _only(hard, _of_one(signals, own)), _only(soft, _of_one(taught, own))

        of_labels, of_ensemble = (_summed(term) for term in jax.vmap(of_branch)(logits))
        scale = jnp.asarray(value_at(weight, signals.step), of_ensemble.sum.dtype)
        terms = {
            "hard": of_labels,
            "ensemble": _only(hard, _of_one(signals, ensemble)),
            "soft": of_ensemble._replace(weight=scale),
        }
        return terms, {}, {}

    return Objective(Taps((trunk,)), init, apply)


def _of_one(signals: Signals, logits: jax.Array | jax.ShapeDtypeStruct) -> Signals:
    """What one classifier shows to an objective on logits."""
    return signals._replace(student=Outputs(logits), student_variables={}, teacher_variables={})


def _only(objective: Objective, signals: Signals) -> Term:
    """The term of an objective that has one, and no variables."""
    ((term,), _, _) = (tuple(part.values()) for part in objective.apply({}, signals))
    return jax.tree.map(jnp.asarray, term)


def _summed(terms: Term) -> Term:
    """The sum over branches of means over the same examples."""
    return Term(1.0, jnp.sum(terms.sum, 0), terms.count[0])
