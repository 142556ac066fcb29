"""Be your own teacher: classifiers on the student's own stages, taught by its deepest one."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number, shape_of
from jaxkd.networks import Outputs, PyTree, Variables
from jaxkd.objectives._blocks import batch_norm, linear, norm
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding
from jaxkd.objectives._logits import hard_label
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import convolve


def be_your_own_teacher(
    stages: Sequence[str],
    deepest: str,
    *,
    alpha: Number = 0.3,
    temperature: Number = 3.0,
    hint: Number | Sequence[Number] = 0.03,
    variant: Literal["norm", "squared"] = "norm",
) -> Objective:
    """Be your own teacher (BYOT): each shallow stage has a classifier, which learns from labels and the deepest one.

    L = CE(deepest) + sum_i [ (1 - alpha) CE(i) + alpha KL(p || q_i) + hint_i |W_i F_i + b_i - F| ]

    with p and q_i the softmax at ``temperature`` of the student's logits and the classifier's, F_i the classifier's
    feature, F the deepest stage's, both averaged over the map, and W_i, b_i a trained linear map. p and F get no
    gradient; the classifiers' gradient flows on into the stages. The mean of the KL is over the examples, as that of
    the cross-entropy, and it is not multiplied by T^2; the norm is over the whole (global) batch, so that a hint grows
    with the root of the batch size, and is not the same under accumulation.

    A classifier is a bottleneck (1x1 convolution to a quarter of the deepest channels, one of kernel and stride equal
    to the ratio of the maps, 1x1 to the deepest channels; each with BatchNorm and ReLU), the average over the map and a
    linear map. BatchNorm has the statistics of the valid examples of the global batch. The classifiers are trained
    with the student by the same optimizer and are not deployed. It needs no teacher and is the whole loss.

    Variants:
      * ``"norm"``: the above, reductions and linear maps of the authors' code (whose classifiers, of a later paper, are
        separable convolutions with attention). Published weights are the defaults (ResNets on CIFAR-100, batch 128),
        with no hint on the stage next to the deepest: ``hint=(0.03, 0.03, 0.0)`` of three stages.
      * ``"squared"``: as in the paper the hint is |F_i - F|^2, without a linear map; it is summed over the batch, the
        KL is multiplied by T^2 and CE(deepest) by 1 - alpha, as in luanyunteng/pytorch-be-your-own-teacher, whose
        bottlenecks these are. Its weights: ``alpha=0.1, hint=1e-6``, T = 3 (CIFAR-100, batch 128); its deepest map is
        one after a ReLU.

    The terms are ``"hard"`` (the deepest) and, by the position i = 0, 1, ... of the stage, ``"hard_i"``, ``"soft_i"``,
    ``"hint_i"``.

    Args:
      stages: taps of the student, maps [batch, height, width, channels] before the deepest.
      deepest: a tap of the student: the map before it is averaged for the classifier. Heights and widths of ``stages``
        are multiples of its own.
      alpha: in [0, 1]: a number, a schedule of the step, or a traced array.
      temperature: T > 0: likewise.
      hint: the weight of the distance of features: likewise, one for all stages or one for each.
      variant: see above.

    Raises:
      ValueError: if there is no stage, the variant is unknown, numbers are out of range, or ``hint`` does not have
        one for each; in ``init``, if a map does not fit the deepest, or for what ``hard_label`` raises.

    References:
      Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self
      Distillation", 2019, https://arxiv.org/abs/1905.08094
    """
    if isinstance(stages, str) or not stages:
        raise ValueError(f"stages is {stages!r}: it has to be a tuple of taps, at least one")
    if variant not in ("norm", "squared"):
        raise ValueError(f'variant={variant!r}: there are "norm" and "squared"')
    stages = tuple(stages)
    hints = tuple(hint) if isinstance(hint, Sequence) else (hint,) * len(stages)
    if len(hints) != len(stages):
        raise ValueError(f"hint has {len(hints)} weights, and there are {len(stages)} stages: one for each, or for all")
    check_number("alpha", alpha, within=(0, 1))
    check_number("temperature", temperature, above=0)
    of_labels = hard_label()

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_labels.init(key, signals)
        logits, target = signals.student.logits, signals.student.taps[deepest]
        classifiers = {}
        for i, stage in enumerate(stages):
            _check_maps(stage, signals.student.taps[stage], deepest, target)
            own = jax.random.fold_in(key, i)
            classifiers[f"stage_{i}"] = _classifier(own, signals.student.taps[stage], target, logits.shape[-1])
            if variant == "norm":
                wide = target.shape[-1]
                classifiers[f"stage_{i}"]["adapt"] = linear(jax.random.fold_in(own, 4), wide, wide)
        return {"params": classifiers}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        batch, step = signals.batch, signals.step
        maps = {tap: without_padding(x, batch) for tap, x in signals.student.taps.items() if tap in (*stages, deepest)}
        logits = jax.lax.stop_gradient(without_padding(signals.student.logits, batch))
        target = jax.lax.stop_gradient(maps[deepest]).mean((1, 2))
        share, divisor = value_at(alpha, step), value_at(temperature, step)
        squared = variant == "squared"
        terms = {"hard": _hard(of_labels, signals)._replace(weight=1 - share if squared else 1.0)}
        for i, stage in enumerate(stages):
            params = variables["params"][f"stage_{i}"]
            own, feature = _classify(params, maps[stage], maps[deepest].shape, signals)
            soft = mean_over_examples(losses.soft_label_kl(own, logits, divisor), batch)
            hard = _hard(of_labels, signals._replace(student=Outputs(own)))
            terms[f"hard_{i}"] = hard._replace(weight=1 - share)
            # soft_label_kl has the T^2 in it.
            terms[f"soft_{i}"] = soft._replace(weight=share if squared else share / jnp.square(divisor))
            adapted = feature if squared else convolve(params["adapt"], feature)
            distance = _squares(without_padding(adapted - target, batch), signals.axis_name)
            distance = distance if squared else _root(distance)
            terms[f"hint_{i}"] = Term(value_at(hints[i], step), distance, jnp.ones_like(distance))
        return terms, {}, {}

    return Objective(Taps((*stages, deepest)), init, apply)


def _hard(of_labels: Objective, signals: Signals) -> Term:
    return of_labels.apply({}, signals)[0]["hard_label"]


def _check_maps(stage: str, shape: jax.Array, deepest: str, target: jax.Array) -> None:
    sides = f'student tap "{stage}" is {shape_of(shape)}, student tap "{deepest}" is {shape_of(target)}'
    if shape.ndim != 4 or target.ndim != 4:
        raise ValueError(f"{sides}: both have to be maps [batch, height, width, channels], before they are averaged")
    if any(a < b or a % b for a, b in zip(shape.shape[1:3], target.shape[1:3], strict=True)):
        raise ValueError(
            f"{sides}: height and width of the first have to be multiples of the second's: tap an earlier stage"
        )


def _classifier(key: jax.Array, feature: jax.Array, target: jax.Array, classes: int) -> PyTree:
    """Parameters of a bottleneck and a linear map."""
    channels, wide = feature.shape[-1], target.shape[-1]
    narrow = max(wide // 4, 1)
    ratio = _ratio(feature.shape, target.shape)
    he = jax.nn.initializers.he_normal()
    keys = jax.random.split(key, 4)
    shapes = {"reduce": (1, 1, channels, narrow), "shrink": (*ratio, narrow, narrow), "expand": (1, 1, narrow, wide)}
    params: dict[str, PyTree] = {
        name: {"kernel": he(k, shape), **norm(shape[-1])}
        for k, (name, shape) in zip(keys, shapes.items(), strict=False)
    }
    return params | {"classifier": linear(keys[3], wide, classes)}


def _classify(params: PyTree, x: jax.Array, target: tuple[int, ...], signals: Signals) -> tuple[jax.Array, jax.Array]:
    """Logits [batch, classes] and the averaged feature [batch, channels of the deepest]."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    ratio = _ratio(x.shape, target)
    for name in ("reduce", "shrink", "expand"):
        layer = params[name]
        strides = ratio if name == "shrink" else (1, 1)
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(batch_norm(layer, x, signals.batch, signals.axis_name))
    feature = without_padding(x.mean((1, 2)), signals.batch)
    return convolve(params["classifier"], feature), feature


def _ratio(shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, int]:
    return shape[1] // target[1], shape[2] // target[2]


def _squares(difference: jax.Array, axis_name: str | None) -> jax.Array:
    """Their sum over the global batch."""
    squares = jnp.sum(jnp.square(difference))
    return squares if axis_name is None else jax.lax.psum(squares, axis_name)


def _root(squares: jax.Array) -> jax.Array:
    """The square root, with gradient 0 where it is 0."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
