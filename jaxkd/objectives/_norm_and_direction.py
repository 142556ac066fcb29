"""The norm-and-direction loss of KD++, and the centres of the classes that it takes."""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd._checks import shape_of
from jaxkd.networks import Batch, Network, PyTree, Variables
from jaxkd.objectives._blocks import batch_norm, linear, norm
from jaxkd.objectives._common import mean_over_examples, without_padding
from jaxkd.objectives._memory import global_positions
from jaxkd.objectives._objective import Objective, Signals, Taps
from jaxkd.objectives._parts import check_taught


def norm_and_direction(
    student: str, teacher: str, centers: jax.Array | Callable[[Variables], jax.Array], *, dropout: float = 0.5
) -> Objective:
    """KD++'s ND loss: a student's embedding, long and in the direction of the teacher's centre of its class.

    L = 1 - <s, c / |c|> / max(|s|, |t|), the mean over labelled examples (``losses.norm_and_direction``), where s is
    the student's embedding, c the centre of the example's class. It is not 0 where student and teacher are equal.

    Where widths differ, s is the student's embedding through the paper's connector: BatchNorm (statistics of the valid
    examples of the global batch), dropout, a linear map to the teacher's width. It is trained with the student by the
    same optimizer and is not deployed. The centres are carried in the collection ``"centers"``, and never change.

    Published weights: beside cross-entropy with 1 and ``soft_label(4.0)`` with a min(1, epoch / 20), b for this, on
    CIFAR-100 (a, b): ResNet-56/20 (1, 2), ResNet-32x4/8x4 (3.5, 2), WRN-40-2/40-1 (1, 1.5), ResNet-50/MobileNetV2
    (3, 0.5), ResNet-32x4/ShuffleNetV1 (2.5, 1.5), ResNet-32x4/ShuffleNetV2 (4, 0.5).

    Args:
      student: a tap of the student: the embedding before its classifier, [batch, features].
      teacher: a tap of the teacher, likewise [batch, dim].
      centers: [classes, dim], the mean of the teacher's embeddings over all training examples of each class: see
        ``class_centers``. Or a function that gives them of the teacher's variables, for a teacher that is yet to be
        trained: it is run in ``init``.
      dropout: the connector's, the probability in [0, 1) of an embedding's element to be dropped.

    Raises:
      ValueError: if ``dropout`` is out of range; in ``init``, if the embeddings are no [batch, features], the centres
        not of the teacher's width, or the batch has no integer labels [batch].

    References:
      Wang et al., "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", 2023,
      https://arxiv.org/abs/2305.17007
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}: it has to lie in [0, 1)")

    def init(key: jax.Array, signals: Signals) -> Variables:
        check_taught(signals, teacher)
        of_student, of_teacher = signals.student.taps[student], signals.teacher.taps[teacher]
        sides = f'student tap "{student}" is {shape_of(of_student)}, teacher tap "{teacher}" is {shape_of(of_teacher)}'
        if of_student.ndim != 2 or of_teacher.ndim != 2:
            raise ValueError(f"{sides}: norm_and_direction takes [batch, features]: tap what the classifiers are given")
        points = centers(signals.teacher_variables) if callable(centers) else centers
        if jnp.ndim(points) != 2 or points.shape[1] != of_teacher.shape[1]:
            raise ValueError(
                f"{sides}, and centers are {shape_of(points)}: they have to be [classes, {of_teacher.shape[1]}], "
                "from class_centers of this teacher and this tap"
            )
        label = signals.batch.get("label")
        if label is None or label.shape != of_student.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
            raise ValueError(f'norm_and_direction needs integers [{of_student.shape[0]}] as batch["label"]')
        carried = {"centers": {"of_teacher": jnp.asarray(points)}}
        if of_student.shape == of_teacher.shape:
            return carried
        width, target = of_student.shape[1], of_teacher.shape[1]
        return {"params": {"norm": norm(width), "linear": linear(key, width, target)}, **carried}

    def apply(variables: Variables, signals: Signals) -> tuple[dict, dict, Variables]:
        embedding = without_padding(signals.student.taps[student], signals.batch)
        of_teacher = without_padding(signals.teacher.taps[teacher], signals.batch)
        if "params" in variables:
            embedding = without_padding(_connected(variables["params"], embedding, signals, dropout), signals.batch)
        label = signals.batch["label"]
        values = losses.norm_and_direction(embedding, of_teacher, label, variables["centers"]["of_teacher"])
        return {"norm_and_direction": mean_over_examples(values, signals.batch, label >= 0)}, {}, {}

    return Objective(Taps((student,), (teacher,)), init, apply)


def _connected(params: PyTree, x: jax.Array, signals: Signals, dropout: float) -> jax.Array:
    """BatchNorm, dropout, linear."""
    x = batch_norm(params["norm"], x, signals.batch, signals.axis_name)
    if dropout:
        positions = global_positions(x.shape[0], signals.axis_name)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(signals.rng, positions)
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - dropout, x.shape[1:]))(keys)
        x = jnp.where(kept, x / (1 - dropout), 0)
    return x @ params["linear"]["kernel"] + params["linear"]["bias"]


class Split(Protocol):
    """Every example of a split once, in batches of one size: what ``jaxkd.data.padded_batches`` gives."""

    @property
    def source(self) -> PyTree:
        """What sits on the device for all batches."""

    @property
    def steps(self) -> int:
        """How many batches there are."""

    def chunk(self, start: int, length: int) -> PyTree:
        """What ``length`` batches need beyond the source, stacked on a leading axis."""

    def fetch(self, source: PyTree, x: PyTree) -> Batch:
        """One batch, of one element of a chunk; pure jnp."""


def class_centers(network: Network, variables: Variables, batches: Split, tap: str, classes: int) -> jax.Array:
    """The centre of each class: the mean of a tap over all labelled examples of a split, in inference mode.

    ``norm_and_direction(..., centers=class_centers(teacher, frozen, padded_batches(train, 256), "penultimate", 100))``

    Args:
      network: whose tap it is: the teacher.
      variables: the network's.
      batches: every example once, without augmentation, as ``jaxkd.data.padded_batches`` gives them; with ``"label"``.
      tap: of shape [batch, dim].
      classes: how many there are. Labels below 0, and at or above ``classes``, belong to none.

    Returns:
      [classes, dim], at least float32; zeros for a class without examples.

    Raises:
      ValueError: if the tap is not [batch, dim], the batches have no labels, or there are none.
      UnknownTapError: if the network has no such tap.
    """
    source = jax.device_put(batches.source)
    totals: Any = None
    for step in range(batches.steps):
        of_batch = _sums(network.apply, batches.fetch, tap, classes, variables, source, batches.chunk(step, 1))
        totals = of_batch if totals is None else jax.tree.map(jnp.add, totals, of_batch)
    if totals is None:
        raise ValueError("batches has no step: there is no example to take the centres of")
    sums, counts = totals
    return sums / jnp.maximum(counts, 1)[:, None]


@functools.partial(jax.jit, static_argnames=("apply", "fetch", "tap", "classes"))
def _sums(
    apply: Callable[..., Any],
    fetch: Callable[..., Batch],
    tap: str,
    classes: int,
    variables: Variables,
    source: PyTree,
    chunk: PyTree,
) -> tuple[jax.Array, jax.Array]:
    """The sum of embeddings [classes, dim] and the count [classes] of one batch."""
    batch = fetch(source, jax.tree.map(lambda x: x[0], chunk))
    embedding = apply(variables, batch, train=False, taps=(tap,))[0].taps[tap]
    if embedding.ndim != 2 or "label" not in batch:
        raise ValueError(
            f'class_centers takes a tap [batch, dim] and batch["label"]: tap "{tap}" is {shape_of(embedding)}, the '
            f"batch holds {sorted(batch)}"
        )
    embedding = without_padding(embedding, batch)
    embedding = embedding.astype(jnp.promote_types(embedding.dtype, jnp.float32))
    label = jnp.where(batch.get("where", True), batch["label"], -1)
    own = jax.nn.one_hot(label, classes, dtype=embedding.dtype)
    return jnp.matmul(own.T, embedding, precision="highest"), jnp.sum(own, 0)
