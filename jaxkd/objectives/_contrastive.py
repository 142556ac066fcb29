"""Contrastive distillation: an example's features in student and teacher belong together, those of others do not."""

import functools
import math
import operator
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import losses
from jaxkd._checks import check_number, shape_of
from jaxkd.networks import PyTree, Variables
from jaxkd.objectives._blocks import linear
from jaxkd.objectives._common import Number, mean_over_examples, value_at, without_padding
from jaxkd.objectives._memory import check_index, gather, global_positions, read, valid_examples, write
from jaxkd.objectives._objective import Objective, Signals, Taps, Term
from jaxkd.objectives._parts import check_taught

Variant = Literal["memory", "queue", "in_batch"]
# The published ones, of the memory.
_NEGATIVES, _MOMENTUM = 16384, 0.5
T = TypeVar("T")


def crd(
    student: str,
    teacher: str,
    *,
    n_data: int | None = None,
    labels: np.ndarray | None = None,
    dim: int = 128,
    negatives: int = _NEGATIVES,
    temperature: Number = 0.07,
    momentum: Number = _MOMENTUM,
    variant: Variant = "memory",
) -> Objective:
    """Contrastive representation distillation (CRD): tells an example's pair of features from pairs of two examples.

    Both features are embedded: a linear map to ``dim``, then L2 normalisation; both maps are trained, neither is
    deployed. Two memories [n_data, dim] hold the last embeddings of every example, of student and teacher. The loss of
    an anchor v against the other network's memory M is

      -log(P_0 / (P_0 + K/n + 1e-7)) - sum_k log((K/n) / (P_k + K/n + 1e-7)),  P_k = exp(<v, M_k> / temperature) / Z

    with the example's own row at k = 0 and K negatives, n = n_data; it is summed over both directions (the student's
    embedding against the teacher's memory and the reverse) and its mean over the examples is the published loss. Z is
    n times the mean of exp over the first batch, one for each direction, and constant from then on. Rows are read
    before they are written: momentum * row + (1 - momentum) * embedding, normalised.

    Negatives are drawn anew for each example of each step, independently and uniformly: from all n_data rows, or with
    ``labels`` from the rows of other classes, as for the published tables (whose code draws these without replacement
    where there are enough of them: the same expectation).

    Published weight: 0.8, beside cross-entropy with 1; with soft labels (temperature 4) also 1 on those. The features
    are the pooled ones before the classifier.

    Variants without a row for every example, for large data:
      * ``"queue"``: for each network a queue of its last K embeddings, as in MoCo; the loss is
        -log softmax over (the example's own key, K keys of the queue), summed over both directions. Keys get no
        gradient: the other direction trains them.
      * ``"in_batch"``: ``losses.info_nce`` against the other network's embeddings of the global batch (of a micro-batch
        under accumulation), summed over both directions; keys get gradients too.

    The collection ``"memory"`` holds what is carried; ``"negatives"`` the order of the data by class. A jitted step
    scores an anchor against all rows at once: it takes [batch, n_data] of memory beside the two memories.

    Args:
      student: a tap of the student: [batch, features], or a map, which is flattened.
      teacher: a tap of the teacher, likewise.
      n_data: examples in the training set: ``batch["index"]`` lies in [0, n_data). A position out of range makes the
        loss NaN. For ``"memory"`` only; with ``labels`` it is known from them.
      labels: integers [n_data], the class of every example of the training set: negatives are of other classes.
      dim: of the embeddings.
      negatives: K; the length of the queue. ``"in_batch"`` has those that the batch has, and takes no number.
      temperature: above 0: a number, a schedule of the step, or a traced array.
      momentum: of the rows of ``"memory"``, which alone takes it, in [0, 1]: likewise.
      variant: see above.

    Raises:
      ValueError: for an unknown variant, numbers out of range, labels of one class; in ``init``, if the batch has no
        ``"index"`` or the features are no [batch, ...] of one batch.

    References:
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2019, https://arxiv.org/abs/1910.10699
      He, Fan, Wu, Xie, Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", 2019,
      https://arxiv.org/abs/1911.05722
    """
    if variant not in ("memory", "queue", "in_batch"):
        raise ValueError(f'variant={variant!r}: there are "memory", "queue" and "in_batch"')
    check_number("temperature", temperature, above=0)
    if variant == "in_batch" and negatives != _NEGATIVES:
        raise ValueError(f'negatives={negatives}: variant="in_batch" has those that the batch has')
    # A schedule or a traced array is no default, and cannot be compared to it.
    if variant != "memory" and not (isinstance(momentum, float) and momentum == _MOMENTUM):
        raise ValueError(f'momentum={momentum}: variant="{variant}" averages no rows, variant="memory" does')
    check_number("momentum", momentum, within=(0, 1))
    dim = _count("dim", dim)
    negatives = _count("negatives", negatives)
    n_data = None if n_data is None else _count("n_data", n_data)
    classes = None if labels is None else _by_class(np.asarray(labels))
    rows = (n_data or 0) if classes is None else len(classes["order"])
    if variant == "memory":
        if classes is not None and n_data not in (None, len(classes["order"])):
            raise ValueError(f"n_data is {n_data}, labels {shape_of(labels)}: one label for each example of the data")
        if not rows:
            raise ValueError(f'n_data is {n_data}: variant="memory" needs the number of examples in the training set')
    elif n_data is not None or labels is not None:
        raise ValueError(f'variant="{variant}" keeps no row for each example: n_data and labels are of no use to it')

    def init(key: jax.Array, signals: Signals) -> Variables:
        check_taught(signals, teacher)
        features = signals.student.taps[student], signals.teacher.taps[teacher]
        sizes = [math.prod(x.shape[1:]) for x in features]
        if min(x.ndim for x in features) < 2 or features[0].shape[0] != features[1].shape[0] or 0 in sizes:
            raise ValueError(
                f'student tap "{student}" is {shape_of(features[0])}, teacher tap "{teacher}" is '
                f"{shape_of(features[1])}: crd embeds [batch, features] of one batch: tap pooled features"
            )
        batch_size = features[0].shape[0]
        keys = jax.random.split(key, 4)
        params = _pair(*(linear(k, size, dim) for k, size in zip(keys[:2], sizes, strict=True)))
        if variant == "in_batch":
            if batch_size < 2:
                raise ValueError('crd(variant="in_batch") of one example: there is no other to tell it from')
            return {"params": params}
        if variant == "queue":
            kept = [_normalised(jax.random.normal(k, (negatives, dim))) for k in keys[2:]]
            return {"params": params, "memory": {**_pair(*kept), "next": jnp.zeros((), jnp.int32)}}
        check_index("crd", signals.batch, batch_size)
        bound = 1 / math.sqrt(dim / 3)
        kept = [jax.random.uniform(k, (rows, dim), minval=-bound, maxval=bound) for k in keys[2:]]
        memory = {**_pair(*kept), "normalizers": jnp.zeros(2)}
        carried = {} if classes is None else {"negatives": jax.tree.map(jnp.asarray, classes)}
        return {"params": params, "memory": memory, **carried}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        features = signals.student.taps[student], signals.teacher.taps[teacher]
        params = variables["params"]["student"], variables["params"]["teacher"]
        pair = [_embed(p, without_padding(x, signals.batch)) for p, x in zip(params, features, strict=True)]
        divisor = value_at(temperature, signals.step)
        if variant == "in_batch":
            return {"crd": _in_batch(pair, divisor, signals)}, {}, {}
        memory = variables["memory"]
        if variant == "queue":
            values, kept = _queued(pair, memory, divisor, signals)
        else:
            drawn = _draw(signals, negatives, rows, variables.get("negatives"))
            values, normalizers = _remembered(pair, memory, drawn, divisor, signals)
            kept = _written(pair, memory, value_at(momentum, signals.step), signals) | {"normalizers": normalizers}
        return {"crd": mean_over_examples(values, signals.batch)}, {}, {"memory": kept}

    return Objective(Taps((student,), (teacher,)), init, apply)


def _pair(student: T, teacher: T) -> dict[str, T]:
    return {"student": student, "teacher": teacher}


def _count(name: str, value: int) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"{name} is {value}: it has to be a whole number, 1 or more")
    return whole


def _by_class(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The rows in the order of their classes, each row's class, and where each class starts and ends in the order."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or np.any(labels < 0):
        raise ValueError(
            f"labels {shape_of(labels)} are {labels.dtype}: they have to be integers [n_data], none below 0 (without "
            "labels of all examples give n_data: negatives are then of any class)"
        )
    names, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"labels {shape_of(labels)} are of one class: there are no negatives of another")
    end = np.cumsum(counts)
    order = np.argsort(classes, kind="stable")
    arrays = {"order": order, "class": classes, "start": end - counts, "end": end}
    return {name: x.astype(np.int32) for name, x in arrays.items()}


def _draw(signals: Signals, count: int, rows: int, classes: PyTree | None) -> jax.Array:
    """Rows of the negatives, int32 [batch, count]: each example from a key of its own, wherever it is computed."""
    index = signals.batch["index"]
    positions = global_positions(index.shape[0], signals.axis_name)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(signals.rng, positions)
    if classes is None:
        return jax.vmap(lambda key: jax.random.randint(key, (count,), 0, rows))(keys)

    def of_others(key: jax.Array, own: jax.Array) -> jax.Array:
        start, end = classes["start"][own], classes["end"][own]
        drawn = jax.random.randint(key, (count,), 0, rows - (end - start))
        return classes["order"][jnp.where(drawn >= start, drawn + end - start, drawn)]

    return jax.vmap(of_others)(keys, classes["class"][index])


def _embed(params: PyTree, feature: jax.Array) -> jax.Array:
    """[batch, dim], of norm 1, in at least float32."""
    feature = feature.reshape(feature.shape[0], -1)
    feature = feature.astype(jnp.promote_types(feature.dtype, jnp.float32))
    return _normalised(feature @ params["kernel"] + params["bias"])


def _normalised(x: jax.Array) -> jax.Array:
    squares = jnp.sum(jnp.square(x), -1, keepdims=True)
    positive = squares > 0
    return x * jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squares, 1)), 0)


def _remembered(
    pair: list[jax.Array], memory: PyTree, drawn: jax.Array, temperature: jax.Array, signals: Signals
) -> tuple[jax.Array, jax.Array]:
    """The loss [batch] of both embeddings against the memories, and the normalizers of both directions."""
    batch = signals.batch

    def scores(anchor: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """<anchor, row> of the own row [batch, 1] and of the drawn rows [batch, K]."""
        own = without_padding(read(rows, batch["index"]), batch)
        # Of all rows, as one matmul: a copy of the drawn rows for each example would be K * dim instead of n_data.
        of_all = jnp.matmul(anchor, rows.T, precision="highest")
        return jnp.sum(anchor * own, -1, keepdims=True), jnp.take_along_axis(of_all, drawn, axis=1)

    of_student, of_teacher = scores(pair[0], memory["teacher"]), scores(pair[1], memory["student"])
    normalizers = _normalizers(memory, (of_student, of_teacher), temperature, signals)
    z = jnp.where(normalizers > 0, normalizers, 1)  # a first batch of padding only has none
    # The loss looks at products of embeddings: those of 1 with the scores are the scores.
    one = jnp.ones_like(of_student[0])
    values = losses.contrastive_representation(
        one,
        one,
        of_teacher[1][..., None],
        of_student[1][..., None],
        student_normalizer=z[0],
        teacher_normalizer=z[1],
        population=memory["student"].shape[0],
        temperature=temperature,
        student_positive=of_teacher[0],
        teacher_positive=of_student[0],
    )
    return values, normalizers


def _normalizers(
    memory: PyTree, scores: tuple[tuple[jax.Array, jax.Array], ...], temperature: jax.Array, signals: Signals
) -> jax.Array:
    """Z of both directions, [2]: those carried; 0 means not set, and they are then those of this global batch."""
    sums = [jax.nn.logsumexp(jax.lax.stop_gradient(jnp.concatenate(both, 1)) / temperature, axis=1) for both in scores]
    width = 1 + scores[0][1].shape[1]
    *sums, valid = gather(signals.axis_name, *sums, valid_examples(signals.batch, sums[0].shape[0]))
    total = jnp.stack([jnp.sum(jnp.where(valid, jnp.exp(x), 0)) for x in sums])
    of_batch = memory["student"].shape[0] * total / (width * jnp.maximum(jnp.sum(valid), 1))
    return jnp.where(memory["normalizers"] > 0, memory["normalizers"], of_batch)


def _written(pair: list[jax.Array], memory: PyTree, momentum: jax.Array, signals: Signals) -> dict[str, jax.Array]:
    """Both memories with the embeddings of the global batch."""
    valid = valid_examples(signals.batch, pair[0].shape[0])
    *embedded, index, valid = gather(signals.axis_name, *pair, signals.batch["index"], valid)

    def new(rows: jax.Array, embedding: jax.Array) -> jax.Array:
        return write(rows, index, _normalised(momentum * read(rows, index) + (1 - momentum) * embedding), valid)

    return _pair(new(memory["student"], embedded[0]), new(memory["teacher"], embedded[1]))


def _queued(
    pair: list[jax.Array], queue: PyTree, temperature: jax.Array, signals: Signals
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss [batch] against own key and queue, and the queues with the global batch in place of the oldest keys."""
    keys = jax.lax.stop_gradient(pair[::-1])
    values = jnp.zeros(pair[0].shape[0])
    for anchor, key, other in zip(pair, keys, ("teacher", "student"), strict=True):
        own = jnp.sum(anchor * key, -1, keepdims=True)
        negative = jnp.matmul(anchor, queue[other].T, precision="highest")
        values += -jax.nn.log_softmax(jnp.concatenate([own, negative], 1) / temperature)[:, 0]
    *embedded, valid = gather(signals.axis_name, *pair, valid_examples(signals.batch, values.shape[0]))
    length = queue["student"].shape[0]
    count, rank = jnp.sum(valid, dtype=jnp.int32), jnp.cumsum(valid, dtype=jnp.int32) - 1
    # Of a batch longer than the queue the last ones stay.
    slot = jnp.where(valid & (rank >= count - length), (queue["next"] + rank) % length, length)
    kept = {
        side: queue[side].at[slot].set(jax.lax.stop_gradient(v), mode="drop")
        for side, v in zip(("student", "teacher"), embedded, strict=True)
    }
    return values, kept | {"next": (queue["next"] + count) % length}


def _in_batch(pair: list[jax.Array], temperature: jax.Array, signals: Signals) -> Term:
    """InfoNCE of the global batch, both directions: one value."""
    info_nce = functools.partial(
        losses.info_nce, temperature=temperature, where=signals.batch.get("where"), axis_name=signals.axis_name
    )
    student, teacher = pair
    value = info_nce(student, teacher) + info_nce(teacher, student)
    return Term(1.0, value, jnp.ones_like(value))
