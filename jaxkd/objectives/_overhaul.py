"""A comprehensive overhaul of feature distillation: margins from the teacher's BatchNorm."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import shape_of
from jaxkd.networks import Variables
from jaxkd.objectives._blocks import norm
from jaxkd.objectives._common import mean_over_examples
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps, convolve, draw_conv, normalize, tap_names, valid_taps


def overhaul(student: str | Sequence[str], teacher: str | Sequence[str], *, norms: str | Sequence[str]) -> Objective:
    """OFD: a partial L2 distance of maps before the ReLU, at several layers.

    L = sum over layers i of 2^-(layers - 1 - i) ``losses.overhaul(BN(conv(s_i)), t_i, margin_i)``, its mean over
    examples: the last layer counts whole, each one before it half as much. The connector is a 1x1 convolution without
    bias and a BatchNorm (statistics of the global batch); the margin is ``losses.batch_norm_margin`` of the teacher's
    BatchNorm before the ReLU. In a residual block whose sum is what the ReLU sees, it is the block's last BatchNorm.

    Published weights: 1e-3 (CIFAR) and 1e-4 (ImageNet) beside a cross-entropy of weight 1. Their teacher stays in
    training mode; here it is in inference mode, and numbers can differ.

    Args:
      student: taps of the student before the ReLU, from first to last: [batch, *spatial, channels].
      teacher: as many taps of the teacher before the ReLU, each of the size of the student's.
      norms: as many paths in the teacher's ``"params"``, to what holds ``"scale"`` and ``"bias"``:
        ``"stage1/block9/conv2/norm"``.

    Raises:
      ValueError: if there is not one of each; in ``init``: if maps are not of one size, or there is no such BatchNorm
        or it has other channels than the teacher's map.

    References:
      Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", 2019,
      https://arxiv.org/abs/1904.01866
    """
    of_students, of_teachers = tap_names("student", student), tap_names("teacher", teacher)
    paths = (norms,) if isinstance(norms, str) else tuple(norms)
    if not len(of_students) == len(of_teachers) == len(paths):
        raise ValueError(
            f"{len(of_students)} taps of the student, {len(of_teachers)} of the teacher, {len(paths)} norms: "
            "give one of each for a layer"
        )
    layers = tuple(zip(of_students, of_teachers, paths, strict=True))

    def cure(one: tuple[int, ...], other: tuple[int, ...]) -> str | None:
        if len(one) < 2 or one[:-1] != other[:-1]:
            return "overhaul takes maps [batch, *spatial, channels] of one size: tap layers that agree in it"
        return None

    def init(key: jax.Array, signals: Signals) -> Variables:
        params = {}
        for i, (one, other, path) in enumerate(layers):
            of_student, of_teacher = (shape[-1] for shape in check_taps(signals, one, other, cure))
            for part in _norm(signals.teacher_variables, path):
                if part.shape != (of_teacher,):
                    raise ValueError(
                        f'the norm "{path}" has parameters {shape_of(part)}, the teacher tap "{other}" is '
                        f"{shape_of(signals.teacher.taps[other])}: give the BatchNorm of its channels"
                    )
            drawn = draw_conv(jax.random.fold_in(key, i), 1, of_student, of_teacher)
            params[f"layer{i + 1}"] = {"conv": drawn, "norm": norm(of_teacher)}
        return {"params": params}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        values = jnp.zeros(())
        for i, (one, other, path) in enumerate(layers):
            params = variables["params"][f"layer{i + 1}"]
            of_student, of_teacher = valid_taps(signals, one, other)
            connected = normalize(params["norm"], convolve(params["conv"], of_student), signals)
            margin = losses.batch_norm_margin(*_norm(signals.teacher_variables, path))
            values += 2.0 ** (i + 1 - len(layers)) * losses.overhaul(connected, of_teacher, margin)
        return {"overhaul": mean_over_examples(values, signals.batch)}, {}, {}

    return Objective(Taps(of_students, of_teachers), init, apply)


def _norm(variables: Variables, path: str) -> tuple[jax.Array, jax.Array]:
    """Scale and bias of the BatchNorm at a path of the parameters."""
    node: Any = variables.get("params", {})
    known = ", ".join(f'"{found}"' for found in _norms(node)) or "none"
    for name in path.split("/"):
        # Of a list of layers NNX has integers for names.
        node = node.get(name, node.get(int(name)) if name.isdigit() else None) if isinstance(node, Mapping) else None
    if not (isinstance(node, Mapping) and {"scale", "bias"} <= set(node)):
        raise ValueError(
            f'the teacher has no norm "{path}" with "scale" and "bias" in its params; those that have both: {known}'
        )
    return node["scale"], node["bias"]


def _norms(node: Any, path: str = "") -> list[str]:
    """The paths to what has a scale and a bias."""
    if not isinstance(node, Mapping):
        return []
    if {"scale", "bias"} <= set(node):
        return [path]
    return [found for name, inner in node.items() for found in _norms(inner, f"{path}/{name}" if path else str(name))]
