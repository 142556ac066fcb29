"""Focal and global distillation of a detector's features, with the global context blocks that are trained for it."""

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import check_number, shape_of
from jaxkd.networks import Batch, PyTree, Variables
from jaxkd.objectives._blocks import norm, standardize
from jaxkd.objectives._common import Number, mean_over_examples, value_at
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import Params, check_taps, convolve, draw_conv, valid_taps


def focal_global(
    student: str,
    teacher: str,
    *,
    temperature: Number = 0.5,
    foreground_weight: Number = 1e-3,
    background_weight: Number = 5e-4,
    attention_weight: Number = 1e-3,
    relation_weight: Number = 5e-6,
) -> Objective:
    """FGD of one level of a feature pyramid: ``losses.focal_global`` with trained context blocks, mean over examples.

    A context block makes of a map F the numbers that it adds to every position, conv(ReLU(LN(conv(context)))), with the
    context sum_p F_p softmax_p(conv(F)), all convolutions 1x1: C channels to one, C to C / 2, and C / 2 to C, which
    starts at 0. Student and teacher have a block each, and the student an alignment, a 1x1 convolution, where the
    widths differ. All are trained with the student and not deployed.

    The objects are those of the batch: ``"boxes"``, floats [batch, boxes, 4], corners (x1, y1, x2, y2) in pixels, of
    which those without area fill up; and ``"image_size"``, (height, width), [batch, 2], by default that of ``"image"``.
    Give the published code's, the size without padding, for its masks (see ``losses.object_scales``).

    Published: the sum over all levels of the pyramid, beside the detector's own terms, with the weights that
    ``losses.focal_global`` lists; the defaults are those of the authors' code::

        weighted_sum(**{level: (1.0, focal_global(f"neck/{level}", f"neck/{level}")) for level in ("p3", "p4", "p5")})

    Args:
      student: a tap of the student, [batch, height, width, channels].
      teacher: a tap of the teacher of the same height and width.
      temperature: of the attention, above 0: like the weights a number, a schedule of the step, or a traced array.
      foreground_weight: of the differences on objects, at least 0.
      background_weight: of those beside them.
      attention_weight: of the difference of the attentions.
      relation_weight: of the difference of the maps with their contexts.

    Raises:
      ValueError: if a number is out of range; in ``init``: if the maps do not have one size, or the teacher has one
        channel; in ``apply``: if the batch holds no boxes, or no size of the images.

    References:
      Yang et al., "Focal and Global Knowledge Distillation for Detectors", 2022, https://arxiv.org/abs/2111.11837
    """
    check_number("temperature", temperature, above=0)
    weights = {
        "foreground_weight": foreground_weight,
        "background_weight": background_weight,
        "attention_weight": attention_weight,
        "relation_weight": relation_weight,
    }
    for name, weight in weights.items():
        check_number(name, weight, within=(0, float("inf")))

    def cure(of_student: tuple[int, ...], of_teacher: tuple[int, ...]) -> str | None:
        if len(of_student) != 4 or of_student[:-1] != of_teacher[:-1]:
            return "boxes lie on maps [batch, height, width, channels] of one size: tap layers that agree in it"
        if of_teacher[-1] < 2:
            return "a context block halves the teacher's channels: tap a layer with two or more"
        return None

    def init(key: jax.Array, signals: Signals) -> Variables:
        of_student, of_teacher = (shape[-1] for shape in check_taps(signals, student, teacher, cure))
        keys = jax.random.split(key, 3)
        params = {"student": _draw_block(keys[0], of_teacher), "teacher": _draw_block(keys[1], of_teacher)}
        if of_student != of_teacher:
            params["align"] = draw_conv(keys[2], 1, of_student, of_teacher, bias=True)
        return {"params": params}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        params, batch = variables["params"], signals.batch
        # Not in init, which has the batch as it is before ``prepare``.
        _check_boxes(batch)
        of_student, of_teacher = valid_taps(signals, student, teacher)
        if "align" in params:
            of_student = convolve(params["align"], of_student)
        _, height, width, _ = of_teacher.shape
        size = batch["image_size"] if "image_size" in batch else batch["image"].shape[1:3]
        values = losses.focal_global(
            of_student,
            of_teacher,
            losses.object_scales(batch["boxes"], size, (height, width)),
            _context(params["student"], of_student),
            _context(params["teacher"], of_teacher),
            temperature=value_at(temperature, signals.step),
            **{name: value_at(weight, signals.step) for name, weight in weights.items()},
        )
        return {"focal_global": mean_over_examples(values, batch)}, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)


def _draw_block(key: jax.Array, channels: int) -> PyTree:
    """Parameters of a context block, as the authors' code starts it: it adds 0."""
    keys = jax.random.split(key)
    half = channels // 2
    return {
        "attend": {"kernel": jax.nn.initializers.he_normal()(keys[0], (channels, 1)), "bias": jnp.zeros(1)},
        "reduce": draw_conv(keys[1], 1, channels, half, bias=True),
        "norm": norm(half),
        "expand": {"kernel": jnp.zeros((half, channels)), "bias": jnp.zeros(channels)},
    }


def _context(params: PyTree, x: jax.Array) -> jax.Array:
    """What the block adds to each position of x [batch, height, width, channels]: [batch, channels]."""
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    shares = jax.nn.softmax(convolve(params["attend"], x), 1)
    context = convolve(params["reduce"], jnp.sum(shares * x, 1))
    return convolve(params["expand"], jax.nn.relu(_layer_norm(params["norm"], context)))


def _layer_norm(params: Params, x: jax.Array) -> jax.Array:
    """Layer normalization of x [batch, channels]."""
    return standardize(params, x, jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True))


def _check_boxes(batch: Batch) -> None:
    """Raises ValueError unless the batch holds boxes of objects, and the size of the image they are in."""
    if "boxes" not in batch:
        raise ValueError(
            f'focal_global needs batch["boxes"], [batch, boxes, 4] in pixels; the batch holds {sorted(batch)}'
        )
    if len(batch["boxes"].shape) != 3 or batch["boxes"].shape[-1] != 4:
        raise ValueError(f'batch["boxes"] is {shape_of(batch["boxes"])}: it has to be [batch, boxes, 4]')
    if "image_size" not in batch and "image" not in batch:
        raise ValueError(
            'focal_global needs batch["image_size"], (height, width) of each image, [batch, 2], or batch["image"]; '
            f"the batch holds {sorted(batch)}"
        )
