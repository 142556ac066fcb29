"""The sum over triplets of how much cosines differ, in memory that grows with the square of the batch."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

CHUNK = 2**20
"""Elements of the largest arrays that are alive at one time, roughly: what caches hold, and an accelerator fills."""


def sum_over_triplets(student: jax.Array, teacher: jax.Array, where: jax.Array | None) -> jax.Array:
    """Computes sum_ijk huber(cos(s_j - s_i, s_k - s_i) - cos(t_j - t_i, t_k - t_i)) over rows where ``where`` holds."""
    # As 0 and 1 in the features' type: what is not differentiated with respect to has to have a tangent all the same.
    valid = None if where is None else where.astype(student.dtype)
    return _sum_over_triplets(student, teacher, valid)


@jax.custom_jvp
def _sum_over_triplets(student: jax.Array, teacher: jax.Array, valid: jax.Array | None) -> jax.Array:
    return _value_and_gradients(student, teacher, valid, ())[0]


def _jvp(primals: tuple[Any, Any, Any], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    wanted = [i for i in (0, 1) if not isinstance(tangents[i], jax.custom_derivatives.SymbolicZero)]
    student, teacher, valid = primals
    value, gradients = _value_and_gradients(student, teacher, valid, tuple(wanted))
    parts = [jnp.sum(gradient * tangents[i]) for i, gradient in zip(wanted, gradients, strict=True)]
    return value, sum(parts, jnp.zeros_like(value))


_sum_over_triplets.defjvp(_jvp, symbolic_zeros=True)


def _value_and_gradients(
    student: jax.Array, teacher: jax.Array, valid: jax.Array | None, wanted: tuple[int, ...]
) -> tuple[jax.Array, list[jax.Array]]:
    """The sum, and its gradients with respect to those ``wanted`` of student (0) and teacher (1).

    A step takes some anchors i. With d_j = x_j - x_i, a_j = 1 / |d_j| and C_jk = a_j a_k d_j.d_k, and g_jk the huber's
    derivative, which is symmetric, the gradient with respect to d_j is

        sum_k H_jk d_k, H_jk = 2 a_j g_jk a_k - (j = k) 2 a_j^2 sum_k g_jk C_jk.

    As d_k = x_k - x_i, only the sum of all anchors' H, and for each anchor the sums r of its rows, are needed, and the
    products with features wait until the end: with R the matrix of all r, the gradient is

        (sum_i H) x - R x - R^T x + (the sums of the rows of R) x,

    so that forward and backward take the products of the forward alone.
    """
    batch = len(student)
    features = (student, teacher)
    size = max(1, min(batch, CHUNK // (batch * max(batch, *(x.shape[1] for x in features)))))
    steps = -(-batch // size)
    # Anchors beyond the batch repeat the last one, and count for nothing.
    anchors = jnp.arange(steps * size).reshape(steps, size)

    def step(carry: tuple, anchors: jax.Array) -> tuple[tuple, tuple]:
        total, hs = carry
        counted = (anchors < batch).astype(student.dtype)
        rows = jnp.minimum(anchors, batch - 1)
        if valid is not None:
            counted = counted * valid[rows]
        cosines, inverses = zip(*(_cosines(x, x[rows], valid) for x in features), strict=True)
        difference = cosines[0] - cosines[1]
        total += jnp.sum(counted * jnp.sum(optax.losses.huber_loss(difference, delta=1.0), (1, 2)))
        g = 2 * counted[:, None, None] * jnp.clip(difference, -1, 1)
        new_hs, rs = [], []
        for h, i in zip(hs, wanted, strict=True):
            a, sign = inverses[i], 1 - 2 * i
            own = a * a * jnp.sum(g * cosines[i], 2)
            h = h + sign * jnp.sum(a[:, :, None] * g * a[:, None, :], 0)
            new_hs.append(h - jnp.diag(sign * jnp.sum(own, 0)))
            rs.append(sign * (a * jnp.sum(g * a[:, None, :], 2) - own))
        return (total, new_hs), tuple(rs)

    # Zeros made of the features, so that inside of a shard_map they vary over the same mesh axes as what is added.
    zero = 0 * (jnp.sum(student[:1, :1]) + jnp.sum(teacher[:1, :1]))
    start = zero, [jnp.full((batch, batch), zero) for _ in wanted]
    (total, hs), rs = jax.lax.scan(step, start, anchors)
    gradients = []
    for i, h, r in zip(wanted, hs, rs, strict=True):
        r = r.reshape(-1, batch)[:batch]
        weights = h - r - r.T + jnp.diag(jnp.sum(r, 1))
        gradients.append(jnp.matmul(weights, features[i], precision="highest"))
    return total, gradients


def _cosines(x: jax.Array, anchors: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Of every anchor: the cosines of the angles between all differences from it, and one over their lengths.

    [anchors, batch, batch] and [anchors, batch], 0 where a difference is a zero vector.
    """
    differences = x[None] - anchors[:, None]
    squares = jnp.sum(jnp.square(differences), 2)
    apart = squares > 1e-24
    inverses = jnp.where(apart, jax.lax.rsqrt(jnp.where(apart, squares, 1)), 0)
    if valid is not None:
        inverses *= valid[None]
    units = differences * inverses[:, :, None]
    return jnp.matmul(units, units.swapaxes(1, 2), precision="highest"), inverses
