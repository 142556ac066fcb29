"""Knowledge review: each stage of the teacher teaches what the student's deeper stages say of it, fused."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.networks import PyTree, Variables
from jaxkd.objectives._blocks import norm
from jaxkd.objectives._common import mean_over_examples
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taps, convolve, draw_conv, normalize, tap_names, valid_taps


def review(student: Sequence[str], teacher: Sequence[str], *, width: int | None = None) -> Objective:
    """ReviewKD: the student's maps, fused from the last stage to the first, are compared with the teacher's.

    From the last layer to the first: x = BN(conv1x1(s_i)), without ReLU, of ``width`` channels; but for the last layer,
    with y the map that is handed down from the layer after, resized to the size of x: x z_1 + y z_2, with
    z = sigmoid(conv1x1([x, y])), two numbers for each position (attention-based fusion); resized to the size of t_i it
    is what is handed down, and f_i = BN(conv3x3(x)), of the teacher's width. Resizing takes nearest neighbours.
    L = sum over layers of ``losses.hierarchical_context(f_i, t_i)``, its mean over examples. BN has the statistics of
    the global batch; the convolutions before it have no bias.

    Published weights, beside a cross-entropy of weight 1: 5, raised linearly over the first 20 epochs, for most pairs
    (CIFAR-100, mdistiller); 1 for ResNet-34 to ResNet-18, 8 for ResNet-50 to MobileNet, raised over the first epoch
    (ImageNet). The authors also take the averaged features before the classifier as one more, last layer.

    Args:
      student: taps of the student, from first to last: maps [batch, height, width, channels], or averaged features
        [batch, channels], which count as maps of one position.
      teacher: as many taps of the teacher, likewise. Sizes and widths may differ.
      width: of the fused maps; by default the last student layer's channels, at most 512.

    Raises:
      ValueError: if there are not as many taps of both, or ``width`` is below 1; in ``init``: if a tap is no map or
        batches differ.

    References:
      Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", 2021, https://arxiv.org/abs/2104.09044
    """
    of_students, of_teachers = tap_names("student", student), tap_names("teacher", teacher)
    if len(of_students) != len(of_teachers):
        raise ValueError(
            f"{len(of_students)} taps of the student, {len(of_teachers)} of the teacher: give one of each for a layer"
        )
    if width is not None and width < 1:
        raise ValueError(f"width is {width}: it has to be at least 1")
    last = len(of_students) - 1

    def cure(one: tuple[int, ...], other: tuple[int, ...]) -> str | None:
        if not ({len(one), len(other)} <= {2, 4} and one[0] == other[0]):
            return "tap maps [batch, height, width, channels] or averaged features [batch, channels], of the same batch"
        return None

    def init(key: jax.Array, signals: Signals) -> Variables:
        shapes = [check_taps(signals, *taps, cure) for taps in zip(of_students, of_teachers, strict=True)]
        middle = min(512, shapes[-1][0][-1]) if width is None else width
        params = {}
        for i, (of_student, of_teacher) in enumerate(shapes):
            keys = jax.random.split(jax.random.fold_in(key, i), 3)
            params[f"layer{i + 1}"] = {
                "conv1": draw_conv(keys[0], 1, of_student[-1], middle),
                "norm1": norm(middle),
                "conv2": draw_conv(keys[1], 3, middle, of_teacher[-1]),
                "norm2": norm(of_teacher[-1]),
            }
            if i < last:
                params[f"layer{i + 1}"]["fuse"] = draw_conv(keys[2], 1, 2 * middle, 2, bias=True)
        return {"params": params}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        values, handed = jnp.zeros(()), None
        for i in range(last, -1, -1):
            params: PyTree = variables["params"][f"layer{i + 1}"]
            of_student, of_teacher = map(_as_map, valid_taps(signals, of_students[i], of_teachers[i]))
            x = normalize(params["norm1"], convolve(params["conv1"], of_student), signals)
            if handed is not None:
                y = _nearest(handed, x.shape[1:3])
                gates = jax.nn.sigmoid(convolve(params["fuse"], jnp.concatenate([x, y], -1)))
                x = x * gates[..., :1] + y * gates[..., 1:]
            handed = _nearest(x, of_teacher.shape[1:3])
            fused = normalize(params["norm2"], convolve(params["conv2"], handed), signals)
            values += losses.hierarchical_context(fused, of_teacher)
        return {"review": mean_over_examples(values, signals.batch)}, {}, {}

    return Objective(Taps(of_students, of_teachers), init, apply)


def _as_map(x: jax.Array) -> jax.Array:
    return x[:, None, None, :] if x.ndim == 2 else x


def _nearest(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """[batch, height, width, channels] resized to the nearest neighbours, those that the authors' code takes."""
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        if new != old:
            x = jnp.take(x, jnp.array([i * old // new for i in range(new)]), axis)
    return x
