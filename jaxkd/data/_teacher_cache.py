"""Writing a teacher's outputs once, to learn from them many times."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd.data._cache_manifest import check_digest, describe_data, describe_views, write_manifest
from jaxkd.data._cache_records import DType, Form, write_records
from jaxkd.data._random import permutation
from jaxkd.data._views import ViewBatches

_STEPS = 8


def cache_teacher(
    directory: str | os.PathLike[str],
    apply: Callable[..., Any],
    variables: Any,
    views: ViewBatches,
    *,
    digest: str,
    dtype: DType = "float32",
    top_k: int | None = None,
    mesh: Mesh | None = None,
) -> None:
    """Writes a teacher's logits of all views of all examples, to be played back by :class:`CachedBatches`.

    The teacher sees the batches that a training of ``views`` sees, in a scan like its own. In float32 that training
    then has the metrics that it has with the teacher itself, to the last bit, where the compiler computes the teacher's
    forward in the same way: on the same devices, with the same batch size, and epochs that are no more than the views.
    Elsewhere last bits may differ.

    The directory appears when it is complete, or not at all.

    Args:
      directory: to be made.
      apply: of the teacher, as of a ``Network``: ``(variables, batch, train=False) -> (outputs, _)``, where
        ``outputs.logits`` is [batch, classes].
      variables: of the teacher.
      views: the batches, of a single process. Batch size and seed need not be the same where the cache is played back.
      digest: of the teacher's content, 64 hexadecimal digits: ``training.checkpoints.tree_hash(variables)``.
      dtype: of the logits that are kept: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
      top_k: how many of the largest logits are kept, with their classes and the log-sum-exp of the others; by default
        all are.
      mesh: devices to split each batch over, as ``training.parallel.make_mesh`` gives them; by default one.

    Raises:
      FileExistsError: there is something under that name.
      ValueError: before anything is computed: another dtype, ``top_k`` that is not in [1, classes), a digest that is
        none, logits of another shape or class count than the data set's, one of several processes, a batch that the
        mesh does not divide; afterwards: logits that are not finite, or not in the range of ``dtype``.
      ImportError: array_record is missing; says which extra brings it.
    """
    directory = Path(directory)
    check_digest(digest)
    if directory.exists():
        raise FileExistsError(f"{directory} is there already, and is not overwritten: give another name, or remove it")
    if views.process_count > 1:
        raise ValueError(
            f"process_count is {views.process_count}: a cache is written by one process, from all examples"
        )
    if mesh is not None and views.batch_size % mesh.size:
        raise ValueError(f"a batch of {views.batch_size} does not divide over {mesh.size} devices: take another size")
    form = _form(apply, variables, views, dtype, top_k)
    identity = {"teacher": digest, "data": describe_data(views), "views": describe_views(views)}
    partial = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        records = _records(apply, variables, views, form, mesh)
        files = write_records(partial, views.views, len(views.examples), records)
        write_manifest(partial, {**identity, "form": form._asdict(), "seed": views.seed, "files": files})
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _form(apply: Callable[..., Any], variables: Any, views: ViewBatches, dtype: DType, top_k: int | None) -> Form:
    """What the records will hold, checked against the teacher's shapes."""
    if dtype not in get_args(DType):
        raise ValueError(f"dtype={dtype!r}: there are {', '.join(get_args(DType))}")
    examples = views.examples
    first = {name: values[0] for name, values in views.chunk(0, 1).items()}
    logits = jax.eval_shape(
        lambda v, s, x: apply(v, views.fetch(s, x), train=False)[0].logits, variables, views.source, first
    )
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(f"the teacher's logits are {shape or type(logits).__name__}: a cache holds [batch, classes]")
    if shape[1] != examples.classes:
        raise ValueError(
            f"the teacher has {shape[1]} classes, and {examples.name}/{examples.split} has {examples.classes}: a cache "
            "is of a teacher of the data set's classes"
        )
    if top_k is not None and not 1 <= top_k < shape[1]:
        raise ValueError(
            f"top_k is {top_k}, of {shape[1]} classes: give a number from 1 to {shape[1] - 1}, or None for all"
        )
    return Form(shape[1], dtype, top_k)


def _records(
    apply: Callable[..., Any], variables: Any, views: ViewBatches, form: Form, mesh: Mesh | None
) -> Iterator[np.ndarray]:
    """The records [steps * batch] of one chunk of steps after the other, until all views of all examples are there."""
    n, batch_size = len(views.examples), views.batch_size
    total = n * views.views
    steps = -(-total // batch_size)
    length = min(_STEPS, steps)

    @jax.jit
    def outputs(variables: Any, source: Any, xs: Any) -> dict[str, jax.Array]:
        def body(carry: None, x: Any) -> tuple[None, dict[str, jax.Array]]:
            with jax.named_scope("teacher"):
                logits = apply(variables, views.fetch(source, x), train=False)[0].logits
            return carry, form.compress(logits)

        return jax.lax.scan(body, None, xs)[1]

    whole, split = (None, None) if mesh is None else (NamedSharding(mesh, p) for p in (P(), P(None, mesh.axis_names)))
    variables, source = jax.device_put((variables, views.source), whole)
    # The order is endless: the last chunk goes beyond the last view, and needs no program of its own.
    for start in range(0, steps, length):
        fields = jax.device_get(outputs(variables, source, jax.device_put(views.chunk(start, length), split)))
        records = np.empty(length * batch_size, form.record)
        for name, values in fields.items():
            records[name] = values.reshape(records[name].shape)
        finite = np.isfinite(records["logits"].astype(np.float32)).all(axis=1)
        if form.top_k is not None:
            finite &= np.isfinite(records["rest"])
        if not finite.all():
            view, place = divmod(start * batch_size + int(np.argmin(finite)), n)
            row = permutation(n, views.seed, epoch=view)[place]
            raise ValueError(
                f"the teacher's logits of example {row}, view {view}, are not finite in {form.dtype}: look at the "
                "teacher, or keep them in a dtype of more range"
            )
        yield records
