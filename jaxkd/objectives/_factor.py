"""Factor transfer: what a paraphraser makes of the teacher's map, the student's translator has to say too."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number
from jaxkd.networks import PyTree, Variables
from jaxkd.objectives._blocks import norm
from jaxkd.objectives._common import Number, mean_over_examples, value_at
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import (
    check_taps,
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
    reconstruction: Number = 1.0,
    variant: Literal["code", "repdistiller"] = "code",
) -> Objective:
    """FT: the factors of the student's translator have to be those of the teacher's paraphraser.

    The paraphraser is an autoencoder of the teacher's map, with factors of ``rate`` times its channels; the translator
    makes as many factors of the student's map. Its terms are

      * ``"factor"``: ``losses.factor_transfer(translator(s), factors(t))``, the mean over examples. Its gradient
        trains student and translator, and not the paraphraser;
      * ``"reconstruction"``, of weight ``reconstruction``: the error of what the paraphraser makes of its factors, its
        mean over examples, positions and channels. Its gradient trains the paraphraser alone.

    Paraphraser: three 3x3 convolutions to the factors, the last two at the factors' width, and three back. Translator:
    three 3x3 convolutions, the last two at the factors' width. All have a bias and LeakyReLU(0.1). By variant:

      * ``"code"`` (the authors'): the reconstruction's error is absolute;
      * ``"repdistiller"``: it is squared, and each convolution of the translator has a BatchNorm (statistics of the
        global batch) before its LeakyReLU.

    The papers' code trains the paraphraser first, then the rest; here both are trained side by side by one optimizer,
    so that early factors are those of an unfinished paraphraser. A weight given to the whole multiplies both terms:
    ``weighted_sum(ft=(500.0, factor_transfer(..., reconstruction=1 / 500)))`` keeps the paraphraser at 1.

    Published weights: 500 for ``variant="code"`` (CIFAR-10, rate 0.5), 200 for ``"repdistiller"`` (CIFAR-100), beside a
    cross-entropy of weight 1.

    Args:
      student: a tap of the student, [batch, height, width, channels].
      teacher: a tap of the teacher, likewise; of another size the larger factors are averaged to the smaller.
      rate: factors per channel of the teacher, above 0.
      reconstruction: the weight of the paraphraser's own loss: a number, a schedule of the step, or a traced array.
      variant: of ``losses.factor_transfer``, and see above.

    Raises:
      ValueError: if ``rate`` or ``variant`` is out of range; in ``init``: if neither map can be averaged to the size
        of the other, there is no factor left, or (``"repdistiller"``) a map has one position.

    References:
      Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018,
      https://arxiv.org/abs/1802.04977
    """
    check_number("rate", rate, above=0)
    if variant not in ("code", "repdistiller"):
        raise ValueError(f'variant={variant!r}: there are "code" and "repdistiller"')

    def cure(of_student: tuple[int, ...], of_teacher: tuple[int, ...]) -> str | None:
        said = poolable_maps(of_student, of_teacher)
        if said is None and int(of_teacher[-1] * rate) < 1:
            said = f"rate={rate} of the teacher's {of_teacher[-1]} channels leaves no factor: raise it"
        if (
            said is None
            and variant == "repdistiller"
            and min(of_student[1] * of_student[2], of_teacher[1] * of_teacher[2]) < 2
        ):
            said = "nothing is left of a map of one position once it is normalized: tap an earlier layer"
        return said

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_student, of_teacher = (shape[-1] for shape in check_taps(signals, student, teacher, cure))
        factors = int(of_teacher * rate)
        widths = {
            "encoder": (of_teacher, of_teacher, factors, factors),
            "decoder": (factors, factors, of_teacher, of_teacher),
            "translator": (of_student, of_student, factors, factors),
        }
        params: dict[str, dict] = {name: {} for name in widths}
        for position, (name, sizes) in enumerate(widths.items()):
            for i, one in enumerate(jax.random.split(jax.random.fold_in(key, position), 3)):
                normalized = name == "translator" and variant == "repdistiller"
                # No bias before BatchNorm, which would take it away.
                params[name][f"conv{i + 1}"] = draw_conv(one, 3, sizes[i], sizes[i + 1], bias=not normalized)
                if normalized:
                    params[name][f"norm{i + 1}"] = norm(sizes[i + 1])
        return {"params": params}

    def run(params: PyTree, x: jax.Array, signals: Signals) -> jax.Array:
        for i in (1, 2, 3):
            x = convolve(params[f"conv{i}"], x)
            if f"norm{i}" in params:
                x = normalize(params[f"norm{i}"], x, signals)
            x = jax.nn.leaky_relu(x, 0.1)
        return x

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params, batch = variables["params"], signals.batch
        of_student, of_teacher = valid_taps(signals, student, teacher)
        factors = run(params["encoder"], of_teacher, signals)
        error = run(params["decoder"], factors, signals) - of_teacher
        rebuilt = jnp.mean(jnp.abs(error) if variant == "code" else jnp.square(error), (1, 2, 3))
        translated = run(params["translator"], of_student, signals)
        values = losses.factor_transfer(translated, jax.lax.stop_gradient(factors), variant=variant)
        weight = jnp.asarray(value_at(reconstruction, signals.step), values.dtype)
        terms = {
            "factor": mean_over_examples(values, batch),
            "reconstruction": mean_over_examples(rebuilt, batch)._replace(weight=weight),
        }
        return terms, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)
