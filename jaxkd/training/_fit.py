"""The training loop: chunks of steps, and between them everything that is no maths."""

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxkd.learners import Learner
from jaxkd.networks import PyTree
from jaxkd.training import parallel
from jaxkd.training._guard import check_data, check_finite, check_metrics

if TYPE_CHECKING:
    # They need the extra `train`, and the loop does not.
    from jaxkd.training.checkpoints import Checkpoints

Metrics = Mapping[str, np.ndarray]


class Log(Protocol):
    """Where metrics go: ``MetricsLog``, ``TensorBoardLog``."""

    def write(self, step: int, metrics: Mapping[str, Any], **extra: Any) -> None:
        """Takes the metrics of one step."""

    def flush(self) -> None:
        """Brings them to the disk."""

    def close(self) -> None:
        """Ends it, which is for who has opened it to do."""


class InterruptedTraining(Exception):  # noqa: N818 (it is no error: all is saved)
    """The training was asked to stop, and its state is saved.

    Attributes:
      step: the step it has reached.
      reason: who asked, such as ``"SIGTERM"``.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(f"stopped by {reason} at step {step}")
        self.step = step
        self.reason = reason


class Fitted(NamedTuple):
    """What ``fit`` gives: the state after the last step, and every metric by name, [steps, ...]."""

    state: PyTree
    history: Metrics


def fit(
    learner: Learner,
    data: parallel.Data,
    steps: int,
    *,
    key: jax.Array | None = None,
    state: PyTree = None,
    frozen: PyTree = None,
    start: int = 0,
    compiled: parallel.Compiled | None = None,
    chunk: int | None = None,
    evaluate: Callable[[PyTree, PyTree], Mapping[str, Any]] | None = None,
    checkpoints: "Checkpoints | None" = None,
    every: int | None = None,
    logs: Sequence[Log] = (),
    on_chunk: Callable[[int, Metrics], None] | None = None,
    stop: Callable[[int], str | None] | None = None,
    profile: str | None = None,
    name: str = "",
) -> Fitted:
    """Trains a learner for a number of steps.

    Several steps are one call of a compiled program (a scan), and the host looks at the metrics of one chunk while the
    device computes the next. A metric that is not finite stops the training (in a sweep, which masks such points
    itself, it does not); nothing that is not finite is ever saved.

    Args:
      learner: what trains.
      data: its batches, ``jaxkd.data.Batches`` or anything with that interface.
      steps: the step to stop at, counted from step 0.
      key: draws the state by ``learner.init``, if no ``state`` is given.
      state: where to start from. It is copied, not consumed.
      frozen: what the steps read and never change: the teacher's variables.
      start: the step ``state`` is at.
      compiled: from ``parallel.compile``; by default compiled here, for one device.
      chunk: steps per call. By default about 100 with a data set on the device, and 10 with one that streams.
      evaluate: ``(state, frozen) -> metrics by name``, logged under those names and handed to the checkpoints.
      checkpoints: where states are saved.
      every: evaluate and save every so many steps, and after the last one. By default only then.
      logs: get the metrics of every step, numbered from 1: line k is what step k, from k - 1 to k, has measured.
      on_chunk: ``(steps done, metrics of the chunk)``, after each chunk: for a progress bar.
      stop: ``steps done -> reason or None``, asked after each chunk: a reason saves and raises InterruptedTraining.
        Of several processes, in each of which it has to be given, one that has a reason stops all at the same step.
      profile: a directory for a profile of the second chunk (the first one compiles), or of the only one.
      name: what to call the training in errors and logs (``"phase"``).

    Raises:
      DivergedError: a term is NaN or infinite; it names step and term.
      InterruptedTraining: ``stop`` asked for it.
      ValueError: frozen variables that are not finite, and what ``learner`` and ``compile`` refuse.
    """
    for option, value in (("chunk", chunk), ("every", every)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}: at least one step")
    if steps < 0:
        raise ValueError(f"steps is {steps}: it has to be 0 or more")
    frozen = {} if frozen is None else frozen
    check_finite(frozen, "frozen variables", "a teacher with such weights teaches nothing; load or train it again")
    compiled = parallel.compile(learner, data) if compiled is None else compiled
    if state is None:
        if key is None:
            raise ValueError("fit needs a key to draw a fresh state, or a state to start from")
        example = example_batch(data)
        check_data(jax.device_get(example), sys.maxsize)
        state = learner.init(key, frozen, example)
    classes = _classes(learner, state, frozen, data)
    check_data(data.source, classes)
    state, frozen = compiled.put(state), compiled.put(frozen)
    source = compiled.put_source(data.source)
    chunk = _chunk_length(steps - start, chunk, every, bool(jax.tree.leaves(source)))
    collected: list[Metrics] = []
    pending: tuple[int, Any] | None = None

    def absorb() -> None:
        """Looks at the chunk that is under way: guard, logs, progress."""
        nonlocal pending
        if pending is None:
            return
        (first, on_device), pending = pending, None
        metrics = jax.device_get(on_device)
        length = len(next(iter(metrics.values())))
        for i in range(length):
            for log in logs:
                log.write(first + i + 1, {key: values[i] for key, values in metrics.items()}, phase=name)
        for log in logs:
            log.flush()
        check_metrics(metrics, first + 1, name)
        collected.append(metrics)
        if on_chunk is not None:
            on_chunk(first + length, metrics)

    number, step = 0, start
    while step < steps:
        length = min(step + chunk, steps, step - step % every + every if every else steps) - step
        on_host = data.chunk(step, length)
        check_data(on_host, classes)
        xs = compiled.put_chunk(on_host)
        shown = number == 1 or (number == 0 and step + length == steps)
        tracing = jax.profiler.trace(profile) if profile and shown else contextlib.nullcontext()
        with tracing, jax.profiler.StepTraceAnnotation("chunk", step_num=step):
            state, metrics = compiled.chunk(state, frozen, source, xs)
            absorb()
            pending = (step, metrics)
            if profile and shown:
                jax.block_until_ready(state)
        number, step = number + 1, step + length
        reason = None if stop is None or step == steps else _agreed(stop(step))
        border = step == steps or bool(every and step % every == 0)
        if border or reason:
            absorb()
            evaluated = {} if evaluate is None else jax.device_get(dict(evaluate(state, frozen)))
            # An interruption adds no line: the metrics are those of a training that was never interrupted.
            for log in logs if border and evaluated else ():
                log.write(step, evaluated, phase=name)
                log.flush()
            if checkpoints is not None:
                check_finite(state, f"{name} state at step {step}, ", "the training has diverged in its last step")
                checkpoints.save(step, state, {key: float(np.mean(value)) for key, value in evaluated.items()})
        if reason:
            if checkpoints is not None:
                checkpoints.wait()
            raise InterruptedTraining(step, reason)
    absorb()
    if checkpoints is not None:
        checkpoints.wait()
    history = {key: np.concatenate([m[key] for m in collected]) for key in collected[0]} if collected else {}
    return Fitted(state, history)


def example_batch(data: parallel.Data) -> Any:
    """The first batch, as a step sees it: for ``learner.init`` and ``Phase.enter``.

    A resident set is copied to the device for it, and given up again.
    """
    return jax.jit(data.fetch)(data.source, _first_of(data))


def _first_of(data: parallel.Data) -> Any:
    return jax.tree.map(lambda x: x[0], data.chunk(0, 1))


def _classes(learner: Learner, state: PyTree, frozen: PyTree, data: parallel.Data) -> int:
    """How many classes the labels may have: as many as the logits, if there is but one kind of them."""

    def apply(source: PyTree, first: PyTree) -> Any:
        batch = data.fetch(source, first)
        # A network takes one batch, also where it stands for several that see the data in orders of their own.
        one = jax.tree.map(lambda x: x[(0,) * (data.batch_axis - 1)], batch)
        return learner.network.apply(learner.deploy(state, frozen), one)[0]

    logits = jax.eval_shape(apply, data.source, _first_of(data)).logits
    return logits.shape[-1] if hasattr(logits, "shape") else sys.maxsize


def _chunk_length(steps: int, chunk: int | None, every: int | None, resident: bool) -> int:
    """How many steps a call has: given, or the largest length that meets all borders without a remainder."""
    if chunk is not None:
        return chunk
    most = 128 if resident else 10
    whole = math.gcd(steps, every or 0)
    divisor = max((n for n in range(1, most + 1) if whole % n == 0), default=1)
    # A remainder costs one more compilation; many small calls cost more.
    return divisor if divisor >= most // 4 else min(most, max(steps, 1))


def _agreed(reason: str | None) -> str | None:
    """This process's reason to stop, or that another one has one: a step is taken by all processes or by none."""
    if jax.process_count() == 1:
        return reason
    anywhere = multihost_utils.process_allgather(np.asarray(reason is not None)).any()
    return (reason or "another process") if anywhere else None
