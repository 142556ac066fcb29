"""Focal and global distillation of a detector's features, and the map of its objects that it takes."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxkd._checks import check_number, shape_of
from jaxkd.losses._arguments import ArrayLike, Where, at_least_float32, check_floating
from jaxkd.losses._locations import absolute, check_shares
from jaxkd.losses._maps import check_positive_scalar, check_same_maps, mask_of, selected, spatial_axes, spatial_shape
from jaxkd.losses._numerics import masked_mean


def focal_global(
    student: ArrayLike,
    teacher: ArrayLike,
    scales: ArrayLike,
    student_context: ArrayLike | None = None,
    teacher_context: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 0.5,
    foreground_weight: ArrayLike = 1e-3,
    background_weight: ArrayLike = 5e-4,
    attention_weight: ArrayLike = 1e-3,
    relation_weight: ArrayLike = 5e-6,
    axis: int = -1,
    where: Where = None,
) -> jax.Array:
    """Focal and global distillation (FGD) of one level of a feature pyramid.

    A map F has an attention over its P positions and one over its C channels, each with mean 1:
    S(F) = P softmax(mean over channels of |F| / T), A(F) = C softmax(mean over positions of |F| / T). With d = s - t,

      L = a sum_pc M_p S_p(t) A_c(t) d_pc^2                    on objects: M is ``scales``
        + b sum_pc B_p S_p(t) A_c(t) d_pc^2                    beside them: B = 1 / (how many) where M is 0, else 0
        + g (sum_p |S_p(s) - S_p(t)| + sum_c |A_c(s) - A_c(t)|)   attention
        + l sum_pc (d_pc + u_c(s) - u_c(t))^2                  relations, the global part

    with u what a global context block adds to each position of its map (GCNet). Student and teacher have one of their
    own, both trained with the student, and both start from u = 0: that is what is computed without contexts. The
    objective ``focal_global`` has the blocks.

    The mean over the batch is the published loss, which is added over the levels, beside the detector's own terms, the
    student's head starting from the teacher's where both are alike. Published weights a, b, g, l: the defaults are
    those of the authors' code. Its configs have g = 5e-4 for one stage (RetinaNet, GFL, SOLO), 5e-5, 2.5e-5, 5e-5, 5e-7
    for two stages (Faster R-CNN), 1.6e-3, 8e-4, 8e-4, 8e-6 for RepPoints, and for FCOS with T = 0.8.

    Args:
      student: features [batch, *spatial, channels], already passed through a connector (a 1x1 convolution) where
        widths differ.
      teacher: features of the same shape.
      scales: floats [batch, *spatial], M: 1 / the area of the object at a position, 0 beside objects. The map of
        boxes is ``object_scales``.
      student_context: u(s), [batch, channels].
      teacher_context: u(t), likewise.
      temperature: T > 0, a scalar.
      foreground_weight: a, a number of at least 0.
      background_weight: b, likewise.
      attention_weight: g, likewise.
      relation_weight: l, likewise.
      axis: the axis of the channels.
      where: bool, of as many axes as [batch, *spatial] and broadcastable to it: the positions that take part, in
        attention and means too.

    Returns:
      The loss of each image, [batch], at least float32, in [0, inf). 0 at equal maps and contexts, and where nothing
      takes part.

    Raises:
      ValueError: if the shapes differ, ``axis``, ``scales``, a context or ``where`` does not fit, anything is no
        float, or a number is no scalar or known and out of its range.

    References:
      Yang et al., "Focal and Global Knowledge Distillation for Detectors", 2022, https://arxiv.org/abs/2111.11837
      Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", 2019,
      https://arxiv.org/abs/1904.11492
    """
    check_positive_scalar("temperature", temperature)
    check_shares(
        foreground_weight=foreground_weight,
        background_weight=background_weight,
        attention_weight=attention_weight,
        relation_weight=relation_weight,
    )
    check_same_maps(student, teacher, axis, where)
    _check_scales(scales, student, axis)
    contexts = []
    for name, sign, context in (("student_context", 1, student_context), ("teacher_context", -1, teacher_context)):
        if context is not None:
            _check_context(name, context, student, axis)
            contexts.append((sign, context))
    student, teacher, scales = at_least_float32(student, teacher, scales)
    temperature, on_objects, off_objects, of_attention, of_relation = (
        jnp.asarray(x, student.dtype)
        for x in (temperature, foreground_weight, background_weight, attention_weight, relation_weight)
    )
    axis, positions = axis % student.ndim, spatial_axes(student, axis)
    if where is not None:
        where = jnp.broadcast_to(where, scales.shape)
    mask = mask_of(where, student, axis)
    student, teacher = selected(mask, student, teacher)
    (scales,) = selected(where, scales)
    # Without the axis of the channels, the positions are on all axes but the first.
    along = tuple(range(1, scales.ndim))
    beside = scales == 0 if where is None else (scales == 0) & where
    of_each = 1 / jnp.maximum(jnp.sum(beside, along, dtype=scales.dtype, keepdims=True), 1)

    magnitude = absolute(teacher)
    excess = absolute(student) - magnitude
    of_positions = [jnp.mean(x, axis) / temperature for x in (magnitude, excess)]
    of_channels = [masked_mean(x, mask, positions) / temperature for x in (magnitude, excess)]
    spatially, spatial = _attentions(of_positions[0], of_positions[1], where)
    by_channel, channel = _attentions(of_channels[0], of_channels[1], None)

    difference = student - teacher
    of_position = (on_objects * scales + off_objects * jnp.where(beside, of_each, 0)) * spatial
    focal = jnp.expand_dims(of_position, axis) * jnp.expand_dims(channel, positions)
    if not contexts:
        squares = jnp.square(difference) * (focal + of_relation)
    else:
        added = sum(sign * jnp.asarray(x, student.dtype) for sign, x in contexts)
        (related,) = selected(mask, difference + jnp.expand_dims(added, positions))
        squares = jnp.square(difference) * focal + of_relation * jnp.square(related)
    return jnp.sum(squares, tuple(range(1, student.ndim))) + of_attention * (spatially + by_channel)


def object_scales(boxes: ArrayLike, image_size: ArrayLike | Sequence[float], size: tuple[int, int]) -> jax.Array:
    """The map of objects that ``focal_global`` takes: 1 / the area of the smallest box over a position, 0 beside all.

    A box is scaled from the image to the map and covers the positions from floor(x1) up to and with ceil(x2), from
    floor(y1) up to and with ceil(y2); its area is how many these are, those beyond the border of the map counted too.
    That is the map of the paper's code. (Its first release took x for the rows of the map and y for its columns.)

    Args:
      boxes: floats [batch, boxes, 4], corners (x1, y1, x2, y2) in pixels of the image. A box without area is none, so
        that rows of zeros, or of -1, fill up an image with fewer of them.
      image_size: (height, width) of the image in pixels, [2], or of each image, [batch, 2]. The code takes the size
        without the padding that a batch of images has, though its maps include it; the padded size is what puts the
        boxes where the objects are.
      size: (height, width) of the map. Static.

    Returns:
      [batch, height, width], at least float32, in [0, 1].

    Raises:
      ValueError: if ``boxes`` is no array of floats [batch, boxes, 4], ``image_size`` does not fit or is known and not
        above 0, or ``size`` is not two numbers of at least 1.

    References:
      Yang et al., "Focal and Global Knowledge Distillation for Detectors", 2022, https://arxiv.org/abs/2111.11837
    """
    check_floating("boxes", boxes)
    if jnp.ndim(boxes) != 3 or jnp.shape(boxes)[-1] != 4:
        raise ValueError(f"boxes {shape_of(boxes)}: they have to be [batch, boxes, 4], (x1, y1, x2, y2) of each")
    batch, image_size = jnp.shape(boxes)[0], jnp.asarray(image_size)
    if image_size.shape not in ((2,), (batch, 2)):
        raise ValueError(
            f"image_size {shape_of(image_size)}, boxes {shape_of(boxes)}: give (height, width), or one of each image, "
            f"[{batch},2]"
        )
    check_number("image_size", image_size, above=0)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {tuple(size)}: it has to be (height, width) of the map, each at least 1")
    (boxes,) = at_least_float32(boxes)
    image_size = jnp.broadcast_to(image_size, (batch, 2)).astype(boxes.dtype)
    real = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])

    def covered(along: int) -> tuple[jax.Array, jax.Array]:
        """Of an image axis: which positions of the map each box covers, [batch, boxes, positions]; how many."""
        scaled = boxes[..., 1 - along :: 2] / image_size[:, along, None, None] * size[along]
        first, last = jnp.floor(scaled[..., 0]), jnp.ceil(scaled[..., 1])
        at = jnp.arange(size[along], dtype=boxes.dtype)
        return (at >= first[..., None]) & (at <= last[..., None]), last - first + 1

    (rows, height), (columns, width) = covered(0), covered(1)
    scale = jnp.where(real, 1 / jnp.where(real, height * width, 1), 0)
    inside = rows[..., None] & columns[..., None, :]
    return jnp.max(jnp.where(inside, scale[..., None, None], 0), 1, initial=0)


def _attentions(teacher: jax.Array, excess: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """How far two attentions are apart, [batch], and the teacher's: softmaxes of logits [batch, ...], with mean 1.

    The student's logits are the teacher's and ``excess``. Where that is 0 everywhere, the attentions are equal, but may
    come out rounded in two ways, and the absolute value of what then is left would have a gradient.
    """
    student, along = teacher + excess, tuple(range(1, teacher.ndim))
    size: ArrayLike = math.prod(teacher.shape[1:])
    if where is not None:
        size = jnp.sum(where, along, dtype=teacher.dtype, keepdims=True)
        student, teacher = (jnp.where(where, x, jnp.finfo(x.dtype).min) for x in (student, teacher))
    of_student, of_teacher = (jnp.asarray(size * jax.nn.softmax(x, along)) for x in (student, teacher))
    apart = jnp.sum(absolute(of_student - of_teacher), along)
    return jnp.where(jnp.any(excess != 0, along), apart, 0), of_teacher


def _check_scales(scales: ArrayLike, x: ArrayLike, axis: int) -> None:
    """Raises ValueError unless it is a floating-point number for each position of the map."""
    shape = (jnp.shape(x)[0], *spatial_shape(x, axis))
    dtype = jnp.result_type(scales)
    if jnp.shape(scales) != shape or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"scales {shape_of(scales)} are {dtype}, positions [{','.join(map(str, shape))}]: give 1 / the object's "
            "area for each position, 0 beside objects, as floats (object_scales makes them of boxes)"
        )


def _check_context(name: str, context: ArrayLike, x: ArrayLike, axis: int) -> None:
    """Raises ValueError unless it is a floating-point number for each channel of each image."""
    check_floating(name, context)
    shape = (jnp.shape(x)[0], jnp.shape(x)[axis])
    if jnp.shape(context) != shape:
        raise ValueError(f"{name} {shape_of(context)}, map {shape_of(x)}: give one number for each image and channel")
