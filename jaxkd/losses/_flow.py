"""The flow of the solution procedure: how one layer's channels go with those of a later one."""

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_variant
from jaxkd.losses._maps import (
    check_map,
    check_poolable,
    check_positions_mask,
    flattened,
    mask_of,
    pooled_alike,
    products,
    selected,
)


def fsp(
    student_first: ArrayLike,
    student_second: ArrayLike,
    teacher_first: ArrayLike,
    teacher_second: ArrayLike,
    *,
    variant: str = "code",
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The FSP loss: the squared difference of student's and teacher's products of two layers' channels.

    G_ij = mean over positions of F_i F'_j, for the channels i of the first and j of the second map of a network,

      * ``variant="code"``: the mean over i and j of (G_s - G_t)^2; the mean over the batch is the loss of RepDistiller
        (which trains with it, and nothing else, in a stage of its own before the one with labels; its nominal
        weight is 50);
      * ``variant="paper"``: the sum over i and j, as printed, where all pairs of layers have one weight.

    Where the two maps of one network differ in size, the larger is averaged to the smaller size, by torch's adaptive
    average pooling (others take maxima). The sizes of student and teacher are their own; the channels have to agree.

    Args:
      student_first: a map [batch, *spatial, channels] of the student.
      student_second: a later map of the student: the same batch, a size and channels of its own.
      teacher_first: the teacher's map in place of ``student_first``, of as many channels.
      teacher_second: the teacher's map in place of ``student_second``, of as many channels.
      variant: see above.
      axis: the axis of the channels, in all four.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part; for four
        maps of one size only. An example without any gives 0.

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf).

    Raises:
      ValueError: if batches, channels or numbers of spatial axes do not fit, a network's maps are each the larger one
        somewhere, the maps are no floats, or the rest does not fit.

    References:
      Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
      Learning", 2017, https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
    """
    check_variant(variant, ("code", "paper"))
    maps = {
        "student's first map": student_first,
        "student's second map": student_second,
        "teacher's first map": teacher_first,
        "teacher's second map": teacher_second,
    }
    for what, x in maps.items():
        check_map(what, x, axis)
    (first, student_first), (second, student_second), (third, teacher_first), (fourth, teacher_second) = maps.items()
    check_poolable(first, student_first, second, student_second, axis, where)
    check_poolable(third, teacher_first, fourth, teacher_second, axis, where)
    for (one, x), (other, y) in (
        ((first, student_first), (third, teacher_first)),
        ((second, student_second), (fourth, teacher_second)),
    ):
        if where is not None:
            check_poolable(one, x, other, y, axis, where)
        if jnp.shape(x)[0] != jnp.shape(y)[0] or jnp.shape(x)[axis] != jnp.shape(y)[axis]:
            raise ValueError(
                f"{one} {shape_of(x)}, {other} {shape_of(y)}: batch and channels have to agree, add a connector"
            )
    check_positions_mask(student_first, axis, where)
    arrays = at_least_float32(*maps.values())
    mask = mask_of(where, arrays[0], axis)
    count = None
    if mask is not None:
        count = jnp.maximum(jnp.sum(mask, tuple(range(1, mask.ndim)), dtype=jnp.result_type(*arrays)), 1)
    arrays = selected(mask, *arrays)
    difference = _flow(arrays[0], arrays[1], axis, count) - _flow(arrays[2], arrays[3], axis, count)
    return (jnp.mean if variant == "code" else jnp.sum)(jnp.square(difference), (1, 2))


def _flow(first: jax.Array, second: jax.Array, axis: int, count: jax.Array | None) -> jax.Array:
    (x, positions), (y, _) = (flattened(z, axis) for z in pooled_alike(first, second, axis))
    return products(x, y, positions) / (x.shape[positions] if count is None else count[:, None, None])
