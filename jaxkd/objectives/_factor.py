"""Factor transfer: what a paraphraser makes of the teacher's map, the student's translator has to say too."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number, shape_of
from jaxkd.networks import PyTree, Variables
from jaxkd.objectives._blocks import norm
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import (
    Shape,
    check_taps,
    check_taught,
    convolve,
    draw_conv,
    normalize,
    poolable_maps,
    valid_taps,
)


def factor_transfer(
    student: str,
    teacher: str,
    *,
    rate: float = 0.5,
    weight: Number = 1.0,
    trained: str | None = None,
    variant: Literal["code", "repdistiller"] = "code",
) -> Objective:
    """FT: the factors of the student's translator have to be those of the teacher's paraphraser.

    The paraphraser is an autoencoder of the teacher's map, with factors of ``rate`` times its channels; the translator
    makes as many factors of the student's map. Its terms are

      * ``"factor"``, of weight ``weight``: ``losses.factor_transfer(translator(s), factors(t))``, the mean over
        examples. Its gradient trains student and translator, and not the paraphraser;
      * ``"reconstruction"``, of weight 1: the term of ``paraphraser``, which is trained beside the student, so that
        early factors are those of an unfinished one. The paper's code trains it first: with ``trained`` there is no
        such term.

    Translator: three 3x3 convolutions, the last two at the factors' width, each with LeakyReLU(0.1); paraphraser: see
    there. By variant:

      * ``"code"`` (the authors'): the translator's convolutions have a bias;
      * ``"repdistiller"``: each has a BatchNorm (statistics of the global batch) before its LeakyReLU.

    Published weights: 500 for ``variant="code"`` (CIFAR-10, rate 0.5), 200 for ``"repdistiller"`` (CIFAR-100), beside a
    cross-entropy of weight 1.

    Args:
      student: a tap of the student, [batch, height, width, channels].
      teacher: a tap of the teacher, likewise; of another size the larger factors are averaged to the smaller.
      rate: factors per channel of the teacher, above 0.
      weight: of the factors' term: a number, a schedule of the step, or a traced array. It is not one of the whole, as
        in ``weighted_sum``, for what trains the paraphraser does not depend on what the student is to learn of it.
      trained: the collection of the teacher's variables that holds the parameters of a paraphraser trained before.
      variant: of ``losses.factor_transfer``, and see above.

    Raises:
      ValueError: if ``rate``, ``weight`` or ``variant`` is out of range; in ``init``: if neither map can be averaged to
        the size of the other, there is no factor left, the teacher has no such collection or another paraphraser in it,
        or (``"repdistiller"``) a map has one position.

    References:
      Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      https://arxiv.org/abs/1802.04977
    """
    _check(rate, variant)
    check_number("weight", weight, within=(0, math.inf))

    def cure(of_student: Shape, of_teacher: Shape) -> str | None:
        smallest = min(of_student[1] * of_student[2], of_teacher[1] * of_teacher[2]) if len(of_student) == 4 else 0
        said = poolable_maps(of_student, of_teacher) or _no_factor(rate, of_teacher)
        if said is None and variant == "repdistiller" and smallest < 2:
            said = "nothing is left of a map of one position once it is normalized: tap an earlier layer"
        return said

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_student, of_teacher = (shape[-1] for shape in check_taps(signals, student, teacher, cure))
        factors = int(of_teacher * rate)
        widths = of_student, of_student, factors, factors
        translator = _draw(jax.random.fold_in(key, 2), widths, normalized=variant == "repdistiller")
        if trained is None:
            return {"params": {**_draw_paraphraser(key, of_teacher, factors), "translator": translator}}
        _check_trained(signals, trained, teacher, factors)
        return {"params": {"translator": translator}}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params = variables["params"]
        of_student, of_teacher = valid_taps(signals, student, teacher)
        of_paraphraser = params if trained is None else signals.teacher_variables[trained]
        factors = _run(of_paraphraser["encoder"], of_teacher, signals)
        translated = _run(params["translator"], of_student, signals)
        values = losses.factor_transfer(translated, jax.lax.stop_gradient(factors), variant=variant)
        scale = jnp.asarray(value_at(weight, signals.step), values.dtype)
        terms = {"factor": mean_over_examples(values, signals.batch)._replace(weight=scale)}
        if trained is None:
            terms["reconstruction"] = _reconstruction(params["decoder"], factors, of_teacher, signals, variant)
        return terms, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)


def paraphraser(teacher: str, *, rate: float = 0.5, variant: Literal["code", "repdistiller"] = "code") -> Objective:
    """The paraphraser of ``factor_transfer`` by itself: an autoencoder of the teacher's map, trained without labels.

    Three 3x3 convolutions to the factors, the last two at the factors' width, and three back, each with a bias and
    LeakyReLU(0.1). Its term ``"reconstruction"`` is the error of what it makes of its factors, the mean over examples,
    positions and channels: absolute (``variant="code"``) or squared (``"repdistiller"``). Nothing trains the student.

    Args:
      teacher: a tap of the teacher, [batch, height, width, channels].
      rate: factors per channel, above 0.
      variant: see above.

    Raises:
      ValueError: if ``rate`` or ``variant`` is out of range; in ``init``: if the tap is no map, or no factor is left.

    References:
      Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      https://arxiv.org/abs/1802.04977
    """
    _check(rate, variant)

    def init(key: jax.Array, signals: Signals) -> Variables:
        check_taught(signals, teacher)
        shape = signals.teacher.taps[teacher].shape
        said = "3x3 convolutions take maps [batch, height, width, channels]: tap one" if len(shape) != 4 else None
        if (said := said or _no_factor(rate, shape)) is not None:
            raise ValueError(f'teacher tap "{teacher}" is {shape_of(signals.teacher.taps[teacher])}: {said}')
        return {"params": _draw_paraphraser(key, shape[-1], int(shape[-1] * rate))}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params, of_teacher = variables["params"], without_padding(signals.teacher.taps[teacher], signals.batch)
        factors = _run(params["encoder"], of_teacher, signals)
        term = _reconstruction(params["decoder"], factors, of_teacher, signals, variant)
        return {"reconstruction": term}, {}, {}

    return Objective(Taps((), (teacher,)), init, apply)


def _check(rate: float, variant: str) -> None:
    check_number("rate", rate, above=0)
    if variant not in ("code", "repdistiller"):
        raise ValueError(f'variant={variant!r}: there are "code" and "repdistiller"')


def _no_factor(rate: float, of_teacher: Shape) -> str | None:
    if int(of_teacher[-1] * rate) < 1:
        return f"rate={rate} of the teacher's {of_teacher[-1]} channels leaves no factor: raise it"
    return None


def _check_trained(signals: Signals, collection: str, teacher: str, factors: int) -> None:
    """Raises ValueError unless the teacher's variables hold a paraphraser of this map with as many factors."""
    width = signals.teacher.taps[teacher].shape[-1]
    held = signals.teacher_variables.get(collection, {})
    first, last = (held.get("encoder", {}).get(f"conv{i}", {}).get("kernel") for i in (1, 3))
    if first is None or last is None:
        raise ValueError(
            f'the teacher has no paraphraser in "{collection}": train one first, see objectives.paraphraser'
        )
    if (first.shape[2], last.shape[3]) != (width, factors):
        raise ValueError(
            f'the paraphraser in "{collection}" makes {last.shape[3]} factors of {first.shape[2]} channels, teacher '
            f'tap "{teacher}" has {width} channels and {factors} factors: train one of this tap, with this rate'
        )


def _draw_paraphraser(key: jax.Array, width: int, factors: int) -> dict:
    return {
        "encoder": _draw(jax.random.fold_in(key, 0), (width, width, factors, factors)),
        "decoder": _draw(jax.random.fold_in(key, 1), (factors, factors, width, width)),
    }


def _draw(key: jax.Array, widths: Sequence[int], *, normalized: bool = False) -> dict:
    """Three 3x3 convolutions: no bias before BatchNorm, which would take it away."""
    params: dict[str, Any] = {}
    for i, one in enumerate(jax.random.split(key, 3)):
        params[f"conv{i + 1}"] = draw_conv(one, 3, widths[i], widths[i + 1], bias=not normalized)
        if normalized:
            params[f"norm{i + 1}"] = norm(widths[i + 1])
    return params


def _run(params: PyTree, x: jax.Array, signals: Signals) -> jax.Array:
    for i in (1, 2, 3):
        x = convolve(params[f"conv{i}"], x)
        if f"norm{i}" in params:
            x = normalize(params[f"norm{i}"], x, signals)
        x = jax.nn.leaky_relu(x, 0.1)
    return x


def _reconstruction(decoder: PyTree, factors: jax.Array, of_teacher: jax.Array, signals: Signals, variant: str) -> Term:
    """The error of what the decoder makes of the factors."""
    error = _run(decoder, factors, signals) - of_teacher
    values = jnp.mean(jnp.abs(error) if variant == "code" else jnp.square(error), (1, 2, 3))
    return mean_over_examples(values, signals.batch)
