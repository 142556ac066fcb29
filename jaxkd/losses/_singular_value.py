"""The loss of KDSVD: how the leading singular vectors of one layer's maps relate to those of the next."""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32
from jaxkd.losses._maps import check_map, check_positions_mask, mask_of, selected, spatial_shape
from jaxkd.losses._numerics import l2_normalize


def singular_value(
    student: Sequence[ArrayLike],
    teacher: Sequence[ArrayLike],
    *,
    k: int = 1,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """The loss of KDSVD: student and teacher layers have singular vectors that relate alike to the layer before.

    Of an example's map, as a matrix [positions, channels], v_1 .. v_k are the leading right singular vectors, each of
    as many elements as there are channels. Each vector of the teacher is paired with that of the student's leading
    k + 3 that has the largest absolute cosine with it, and both are scaled with the teacher's singular value of the
    layer, those normalized to a norm of 1 over the k. For every two adjacent layers a, b

      L = sum_ijm (exp(-(v_a[i, m] - v_b[j, m])^2 / 8) of the student - the same of the teacher)^2,

    i, j the channels of the layers, m up to k; L is summed over the pairs of layers. Its mean over the batch is the
    published loss, as in RepDistiller, where it has no published weight. The authors' own code takes half the sum over
    batch and layers, times sqrt(k).

    Singular vectors have no sign of their own, so the loss gives them one, or else it would differ between machines:
    the teacher's have elements that add up to 0 or more, and the student's a cosine of 0 or more with the teacher's.
    Both other codes leave each layer the sign that its decomposition happens to end with. Where those agree (after a
    ReLU the first vector's elements are all of one sign, most often the same in every layer), so do the values.
    The gradient leaves out rotations among vectors of equal singular values, which are arbitrary.

    Args:
      student: maps of two or more layers, from the first to the last: [batch, *spatial, channels], each layer with
        its own spatial size and channels.
      teacher: maps of as many layers, of each with the same channels as the student's; spatial sizes may differ.
      k: how many singular vectors, at least 1 and at most the smaller of positions and channels of every map.
      axis: the axis of the channels (1 for channels-first).
      where: bool, of as many axes as [batch, *spatial] of every map and broadcastable to it: the positions that take
        part.

    Returns:
      The loss of each example, [batch], at least float32, in [0, inf). 0 where all is masked.

    Raises:
      ValueError: if there are fewer than two layers or not as many on both sides, shapes do not fit, all layers are of
        one channel, or ``k`` is out of range.

    References:
      Lee, Kim, Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", 2018,
      https://arxiv.org/abs/1807.06819
    """
    _check_layers(student, teacher, k, axis, where)
    pairs = [_aligned(s, t, k, axis, where) for s, t in zip(student, teacher, strict=True)]
    loss = sum(
        jnp.sum(jnp.square(_kernel(after[0], before[0]) - _kernel(after[1], before[1])), (1, 2, 3))
        for before, after in itertools.pairwise(pairs)
    )
    mask = mask_of(where, jnp.asarray(student[0]), axis)
    if mask is None:
        return jnp.asarray(loss)
    return jnp.where(jnp.any(mask, tuple(range(1, mask.ndim))), loss, 0)


def _kernel(after: jax.Array, before: jax.Array) -> jax.Array:
    """[batch, channels after, channels before, k]: how near the elements of two layers' vectors are."""
    return jnp.exp(-jnp.square(after[:, :, None] - before[:, None]) / 8)


def _aligned(student: ArrayLike, teacher: ArrayLike, k: int, axis: int, where: Where) -> tuple[jax.Array, jax.Array]:
    """The vectors [batch, channels, k] of one layer, scaled: the student's chosen to match, and the teacher's."""
    (_, candidates), (values, vectors) = (
        _singular(_matrix(x, axis, where), n)
        for x, n in zip(at_least_float32(student, teacher), (k + 3, k), strict=True)
    )
    vectors = jnp.where(jnp.sum(vectors, 1, keepdims=True) < 0, -vectors, vectors)
    cosines = jnp.einsum("bcm,bck->bmk", candidates, vectors, precision="highest")
    nearest = jnp.argmax(jnp.abs(cosines), 1)[:, None]
    chosen = jnp.take_along_axis(candidates, nearest, 2)
    chosen = jnp.where(jnp.take_along_axis(cosines, nearest, 1) < 0, -chosen, chosen)
    scale = l2_normalize(values, 1)[:, None]
    return chosen * scale, vectors * scale


def _matrix(x: jax.Array, axis: int, where: Where) -> jax.Array:
    """[batch, positions, channels], with 0 at the positions that do not take part: they change no right vector."""
    (x,) = selected(mask_of(where, x, axis), x)
    x = jnp.moveaxis(x, axis, -1)
    return x.reshape(x.shape[0], -1, x.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _singular(x: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """The n largest singular values [batch, n] of matrices, and their right vectors [batch, columns, n].

    The derivative is that of these vectors only, and is finite: where singular values are equal up to rounding, a
    rotation among their vectors has no meaning and is left out.
    """
    if x.shape[1] > x.shape[2]:
        # The triangle has the same values and right vectors, and takes no left ones of all positions.
        x = jnp.linalg.qr(x, "r")
    _, values, vectors = jnp.linalg.svd(x, full_matrices=False)
    return values[:, :n], jnp.swapaxes(vectors[:, :n], 1, 2)


@_singular.defjvp
def _singular_jvp(n: int, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (x,), (dx,) = primals, tangents
    rank = min(x.shape[1:])
    matmul = functools.partial(jnp.matmul, precision="highest")
    # The vectors are eigenvectors of G = x^T x, and turn towards all the others: those that x gives,
    all_values, all_vectors = _singular(x, rank)
    values, vectors = all_values[:, :n], all_vectors[:, :, :n]
    along, moved = matmul(x, vectors), matmul(dx, vectors)
    # dG v = (dx^T x + x^T dx) v
    turned = matmul(jnp.swapaxes(dx, 1, 2), along) + matmul(jnp.swapaxes(x, 1, 2), moved)
    squares = jnp.square(all_values)
    resolved = jnp.finfo(x.dtype).eps * max(x.shape[1:]) * squares[:, :1, None]
    components = matmul(jnp.swapaxes(all_vectors, 1, 2), turned)
    gaps = squares[:, None, :n] - squares[:, :, None]
    distinct = jnp.abs(gaps) > resolved
    rotated = matmul(all_vectors, jnp.where(distinct, components / jnp.where(distinct, gaps, 1), 0))
    if rank < x.shape[2]:
        # and the rest of the space, where the eigenvalue is 0.
        distinct = squares[:, None, :n] > resolved
        outside = turned - matmul(all_vectors, components)
        rotated += jnp.where(distinct, outside / jnp.where(distinct, squares[:, None, :n], 1), 0)
    positive = values > 0
    d_values = jnp.where(positive, jnp.sum(along * moved, 1) / jnp.where(positive, values, 1), 0)
    return (values, vectors), (d_values, rotated)


def _check_layers(student: Sequence[ArrayLike], teacher: Sequence[ArrayLike], k: int, axis: int, where: Where) -> None:
    if not all(isinstance(maps, list | tuple) for maps in (student, teacher)) or not 2 <= len(student) == len(teacher):
        raise ValueError(
            "student and teacher have to be lists or tuples of the maps of two or more layers, as many on both sides"
        )
    if k < 1:
        raise ValueError(f"k is {k}: it has to be 1 or more")
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        for what, x in ((f"student map {i}", s), (f"teacher map {i}", t)):
            check_map(what, x, axis)
            check_positions_mask(x, axis, where)
            shape, positions = jnp.shape(x), math.prod(spatial_shape(x, axis))
            if k > min(positions, shape[axis]):
                raise ValueError(
                    f"k is {k}: {what} {shape_of(x)} have {min(positions, shape[axis])} singular vectors; it has to be "
                    "at most that"
                )
        if (jnp.shape(s)[0], jnp.shape(s)[axis]) != (jnp.shape(t)[0], jnp.shape(t)[axis]):
            raise ValueError(
                f"student map {i} {shape_of(s)}, teacher map {i} {shape_of(t)}: they have to have one batch and as "
                "many channels; a 1x1 convolution brings the student's to the teacher's"
            )
        if jnp.shape(s)[0] != jnp.shape(student[0])[0]:
            raise ValueError(
                f"student map 0 {shape_of(student[0])}, student map {i} {shape_of(s)}: all layers have to be of one "
                "batch"
            )
    if all(jnp.shape(s)[axis] == 1 for s in student):
        shapes = ", ".join(map(shape_of, student))
        raise ValueError(f"student maps {shapes} have one channel each: their vectors are all the same; take others")
