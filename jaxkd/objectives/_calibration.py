"""Semantic calibration: every layer of the student learns from all of the teacher's, as much as it resembles each."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number
from jaxkd.losses._maps import pooled_alike
from jaxkd.losses._numerics import gathered, l2_normalize
from jaxkd.networks import PyTree, Variables
from jaxkd.objectives._blocks import norm
from jaxkd.objectives._common import mean_over_examples
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import (
    check_taps,
    convolve,
    draw_conv,
    normalize,
    poolable_maps,
    tap_names,
    valid_taps,
)


def semantic_calibration(student: Sequence[str], teacher: Sequence[str], *, softness: float = 1.0) -> Objective:
    """SemCKD: hints between all pairs of layers, weighted by a trained attention over the teacher's layers.

    L = mean over examples n and student layers i of sum_j a[n,i,j] mean_{h,w,c} (P_ij(s_i) - t_j)^2. Of two sizes the
    larger map is averaged to the smaller; P_ij is a 1x1 convolution to twice the teacher's channels, BN, ReLU, a 3x3
    convolution, BN, ReLU, a 1x1 convolution to the teacher's channels, without biases. The attention is
    a[n,i,:] = softmax_j(<q_i[n], k_j[n]> / softness): q_i, k_j are the rows of layers' Gram matrices F F^T over the
    batch (flattened maps, not normalized), through a network of their own each, N -> 2 (N // 4) -> N // 4 with a ReLU
    between, divided by their L2 norms; the gradient passes through the attention too.

    So N, **the size of the global batch, is built into the parameters**: the batch given to ``init`` fixes it, and any
    other is refused, with ``accumulate`` too. Several devices gather their batch, and give what one device gives.
    Padded examples count as features of 0; but a padded batch is not what a smaller batch would be, for it has rows of
    the Gram matrix fewer. Nor is the loss the same in another order of the examples. BN has the statistics of the
    global batch.

    Published weights: 400 (CIFAR-100) or 50 (ImageNet), beside a cross-entropy and soft labels at T = 4 of weight 1
    each.

    Args:
      student: taps of the student, maps [batch, height, width, channels].
      teacher: taps of the teacher, at least one.
      softness: the temperature of the attention, above 0.

    Raises:
      ValueError: if there are no taps, or ``softness`` is out of range; in ``init``: if maps do not fit or there are
        fewer than 4 examples; in ``apply``, from shapes alone: for a batch of another size than ``init`` has seen.

    References:
      Chen, Mei, Zhang, Wang, Wang, Feng, Chen, "Cross-Layer Distillation with Semantic Calibration", 2020,
      https://arxiv.org/abs/2012.03236
    """
    check_number("softness", softness, above=0)
    of_students, of_teachers = tap_names("student", student), tap_names("teacher", teacher)

    def init(key: jax.Array, signals: Signals) -> Variables:
        params: dict[str, PyTree] = {}
        size = 0
        for i, one in enumerate(of_students):
            for j, other in enumerate(of_teachers):
                of_student, of_teacher = check_taps(signals, one, other, poolable_maps)
                size = of_student[0]
                drawn = jax.random.fold_in(key, i * len(of_teachers) + j)
                params[f"project_{i}_{j}"] = _draw_projection(drawn, of_student[-1], of_teacher[-1])
        if size < 4:
            raise ValueError(
                f'student tap "{of_students[0]}" is of {size} examples: semantic_calibration needs at least 4, for its '
                "attention is a quarter as wide as the batch"
            )
        names = [f"query_{i}" for i in range(len(of_students))] + [f"key_{j}" for j in range(len(of_teachers))]
        for position, name in enumerate(names):
            first, second = jax.random.split(jax.random.fold_in(key, len(of_students) * len(of_teachers) + position))
            hidden = draw_conv(first, 1, size, 2 * (size // 4), bias=True)
            params[name] = {"hidden": hidden, "out": draw_conv(second, 1, 2 * (size // 4), size // 4, bias=True)}
        return {"params": params}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params = variables["params"]
        pairs = {(one, other): valid_taps(signals, one, other) for one in of_students for other in of_teachers}

        def embedded(name: str, x: jax.Array) -> jax.Array:
            """The layer's similarities of this device's examples with the global batch, [batch, global batch // 4]."""
            flat = x.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
            (everyone,) = gathered(signals.axis_name, flat)
            built = params[name]["hidden"]["kernel"].shape[0]
            if len(everyone) != built:
                raise ValueError(
                    f"a global batch of {len(everyone)} examples (a micro-batch), and semantic_calibration was built "
                    f"for {built}: its widths follow the batch. Keep to batches of one size, without accumulation"
                )
            hidden = jax.nn.relu(convolve(params[name]["hidden"], flat @ everyone.T))
            return l2_normalize(convolve(params[name]["out"], hidden), -1)

        keys = [embedded(f"key_{j}", pairs[of_students[0], name][1]) for j, name in enumerate(of_teachers)]
        values = jnp.zeros(())
        for i, one in enumerate(of_students):
            query = embedded(f"query_{i}", pairs[one, of_teachers[0]][0])
            resemblance = jnp.stack([jnp.sum(query * key, -1) for key in keys], -1)
            attention = jax.nn.softmax(resemblance / softness, -1)
            for j, other in enumerate(of_teachers):
                source, target = pooled_alike(*pairs[one, other], -1)
                projected = _project(params[f"project_{i}_{j}"], source, signals)
                values += attention[:, j] * losses.hint(projected, target, axis=(1, 2, 3))
        term = mean_over_examples(values / len(of_students), signals.batch)
        return {"semantic_calibration": term}, {}, {}

    return Objective(Taps(of_students, of_teachers), init, apply)


def _draw_projection(key: jax.Array, student: int, teacher: int) -> PyTree:
    middle, keys = 2 * teacher, jax.random.split(key, 3)
    return {
        "conv1": draw_conv(keys[0], 1, student, middle),
        "norm1": norm(middle),
        "conv2": draw_conv(keys[1], 3, middle, middle),
        "norm2": norm(middle),
        "conv3": draw_conv(keys[2], 1, middle, teacher),
    }


def _project(params: PyTree, x: jax.Array, signals: Signals) -> jax.Array:
    for i in (1, 2):
        x = jax.nn.relu(normalize(params[f"norm{i}"], convolve(params[f"conv{i}"], x), signals))
    return convolve(params["conv3"], x)
