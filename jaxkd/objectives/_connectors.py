"""Connectors bring a student's feature to the teacher's shape, where both differ in width or size."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.networks import PyTree

Kind = Literal["auto", "identity", "dense", "conv"]


class Connector(NamedTuple):
    """``init(key) -> params`` and ``apply(params, feature of the student) -> feature of the teacher's shape``."""

    init: Callable[[jax.Array], PyTree]
    apply: Callable[[PyTree, jax.Array], jax.Array]


def make_connector(kind: Kind, student: tuple[int, ...], teacher: tuple[int, ...], names: tuple[str, str]) -> Connector:
    """A connector between two shapes, batch included.

    Args:
      kind: ``"identity"``: none, the shapes have to be equal. ``"dense"``: a linear map with bias of the last axis.
        ``"conv"``: the same at every position of a [batch, height, width, channels] map (a 1x1 convolution), after
        bilinear resizing (antialiased where it shrinks) of the student's map if height or width differ. ``"auto"``: the
        least of these that does it.
      student: the student's shape.
      teacher: the teacher's shape.
      names: the taps of student and teacher, for the error.

    Raises:
      ValueError: if this kind cannot bring one to the other.
    """
    if kind == "auto":
        kind = "identity" if student == teacher else "conv" if len(student) == 4 else "dense"
    if kind not in ("identity", "dense", "conv"):
        raise ValueError(f'connector={kind!r}: there are "auto", "identity", "dense" and "conv"')
    cure = None
    if len(student) != len(teacher):
        cure = "they differ in rank: tap features of one kind on both sides"
    elif student[0] != teacher[0]:
        cure = "they differ in examples: both networks have to see one batch"
    elif kind == "identity" and student != teacher:
        cure = f'add a connector (hint(..., connector="{"conv" if len(student) == 4 else "dense"}"))'
    elif kind == "dense" and student[:-1] != teacher[:-1]:
        cure = "a dense connector maps the last axis only" + (
            ': take connector="conv", which resizes the map' if len(student) == 4 else ": all others have to agree"
        )
    elif kind == "conv" and len(student) != 4:
        cure = "a convolution connects maps [batch, height, width, channels]"
    if cure is not None:
        sides = (
            f'tap "{name}" is [{",".join(map(str, shape))}]'
            for name, shape in zip(names, (student, teacher), strict=True)
        )
        raise ValueError("student {}, teacher {}: {}".format(*sides, cure))
    if kind == "identity":
        return Connector(lambda key: {}, lambda params, feature: feature)

    def init(key: jax.Array) -> PyTree:
        kernel = jax.nn.initializers.lecun_normal()(key, (student[-1], teacher[-1]))
        return {"kernel": kernel, "bias": jnp.zeros(teacher[-1])}

    def apply(params: PyTree, feature: jax.Array) -> jax.Array:
        size = (*feature.shape[:1], *teacher[1:-1], feature.shape[-1])
        if feature.shape != size:
            feature = jax.image.resize(feature, size, "bilinear")
        return feature @ params["kernel"] + params["bias"]

    return Connector(init, apply)
