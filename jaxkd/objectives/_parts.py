"""What trained parts of objectives are made of: convolutions, batch normalization, pooling, keys of examples."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of
from jaxkd._convolution import conv_by_matmul
from jaxkd.objectives._blocks import batch_norm
from jaxkd.objectives._common import without_padding
from jaxkd.objectives._memory import global_positions
from jaxkd.objectives._objective import Signals

Params = Mapping[str, jax.Array]
Shape = tuple[int, ...]

# So few numbers in the patches of all positions cost little memory, and XLA's convolutions of small maps are slow on a
# CPU, the more so under vmap.
_FEW_NUMBERS = 2**21

# He et al. 2015, by fan-out: what the literature's code draws convolutions from.
_draw = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def draw_conv(key: jax.Array, size: int, inputs: int, outputs: int, bias: bool = False) -> Params:
    """Parameters of a convolution of size x size positions: a kernel [inputs, outputs] for size 1."""
    shape = (inputs, outputs) if size == 1 else (size, size, inputs, outputs)
    return {"kernel": _draw(key, shape)} | ({"bias": jnp.zeros(outputs)} if bias else {})


def convolve(params: Params, x: jax.Array) -> jax.Array:
    """The convolution, its output as large as its input; of size 1 of anything [..., channels]."""
    kernel = params["kernel"]
    x = x.astype(jnp.promote_types(x.dtype, kernel.dtype))
    if kernel.ndim == 2:
        y = x @ kernel
    elif x.size * kernel.shape[0] * kernel.shape[1] <= _FEW_NUMBERS:
        padding = [((size - 1) // 2, size // 2) for size in kernel.shape[:2]]
        y = conv_by_matmul(x, kernel.astype(x.dtype), (1, 1), padding)
    else:
        y = jax.lax.conv_general_dilated(
            x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    return y + params["bias"] if "bias" in params else y


def normalize(params: Params, x: jax.Array, signals: Signals) -> jax.Array:
    """Batch normalization of x [batch, ..., channels], by the statistics of the valid examples of the global batch."""
    return batch_norm(params, x, signals.batch, signals.axis_name)


def pooled(x: jax.Array) -> jax.Array:
    """The average over positions of x [batch, ..., channels], [batch, channels], at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.mean(x, tuple(range(1, x.ndim - 1)))


def example_keys(signals: Signals, size: int) -> jax.Array:
    """A key for each of the ``size`` examples of this device, by its position in the global batch, [size]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(signals.rng, global_positions(size, signals.axis_name))


def tap_names(side: str, names: str | Sequence[str]) -> tuple[str, ...]:
    """The taps of a side as a tuple, one name by itself too; raises ValueError for none, or one twice."""
    if isinstance(names, str):
        names = (names,)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{side}={names!r}: give at least one tap, each once")
    return tuple(names)


def valid_taps(signals: Signals, student: str, teacher: str) -> tuple[jax.Array, jax.Array]:
    """The features of both, 0 for padded examples."""
    batch = signals.batch
    return without_padding(signals.student.taps[student], batch), without_padding(signals.teacher.taps[teacher], batch)


def check_taught(signals: Signals, tap: str) -> None:
    """Raises ValueError if there is no teacher to tap."""
    if signals.teacher.logits is None and tap not in signals.teacher.taps:
        raise ValueError("this objective needs a teacher, and the learner has none: distill(student, teacher, ...)")


def check_taps(
    signals: Signals, student: str, teacher: str, cure: Callable[[Shape, Shape], str | None]
) -> tuple[Shape, Shape]:
    """The shapes of both features; raises ValueError, with both in it, if ``cure`` says of them what is to be done."""
    if signals.teacher.logits is None:
        raise ValueError("this objective needs a teacher, and the learner has none: distill(student, teacher, ...)")
    of_student, of_teacher = signals.student.taps[student], signals.teacher.taps[teacher]
    said = cure(of_student.shape, of_teacher.shape)
    if said is not None:
        raise ValueError(
            f'student tap "{student}" is {shape_of(of_student)}, teacher tap "{teacher}" is {shape_of(of_teacher)}: '
            + said
        )
    return of_student.shape, of_teacher.shape


def poolable(student: Shape, teacher: Shape) -> str | None:
    """What is wrong with two maps of which the larger is to be averaged to the other's size; else None."""
    if len(student) != len(teacher) or len(student) < 2 or student[0] != teacher[0]:
        return "tap features of one kind on both sides, [batch, *spatial, channels] of the same examples"
    smaller = tuple(map(min, student[1:-1], teacher[1:-1]))
    if smaller not in (student[1:-1], teacher[1:-1]):
        return "neither is the larger one on all spatial axes: tap another layer of one of them"
    return None


def poolable_maps(student: Shape, teacher: Shape) -> str | None:
    """The same for what 3x3 convolutions are to see."""
    if len(student) != 4:
        return "3x3 convolutions take maps [batch, height, width, channels]: tap maps on both sides"
    return poolable(student, teacher)
