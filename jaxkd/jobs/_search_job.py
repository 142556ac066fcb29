"""The trainings of a search: a job whose students are trained at many points, in as few programs as memory allows."""

import copy
import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import data, evaluation, learners, methods
from jaxkd.evaluation import Comparison, Surface, Trial
from jaxkd.jobs._config import Settings
from jaxkd.jobs._job import DISTILLED, Job
from jaxkd.jobs._space import SEARCHED_OF_CONFIG, Points, floats, rungs_of
from jaxkd.learners import Enter, Learner, Phase
from jaxkd.networks import Batch, Network, PyTree, Variables
from jaxkd.training import example_batch

_EVALUATION_BATCH = 1000
# What tracing raises where Python asks for the value of a number.
_DECIDES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)

# When each point diverged, and when it was dropped; -1 for those that were not.
Ended = tuple[list[int], list[int]]


class Plan(NamedTuple):
    """What is trained at which points.

    Attributes:
      points: the values of each hyperparameter, one of each a point.
      at_once: how many points one program trains; None: what fits the memory.
      halving: the factor of a successive halving; None: every point is trained to the end.
    """

    points: Points
    at_once: int | None = None
    halving: float | None = None


class Place(NamedTuple):
    """Where a point was trained: the phase, and its row there."""

    point: Mapping[str, float]
    phase: str
    row: int

    def of(self, results: Mapping[str, Variables]) -> Variables:
        """What was deployed there, of all seeds."""
        return jax.tree.map(lambda x: x[self.row], results[self.phase])


class SearchJob(Job):
    """A job whose students are trained at many points. At each it is the training that ``distill`` does there.

    Attributes:
      at_once: how many points one program trains.
      places: of each student, alone and distilled, where its points are, in their order.
    """

    def __init__(
        self,
        config: Settings,
        plan: Plan,
        mesh: jax.sharding.Mesh,
        data_dir: str | None = None,
        seeds_at_once: int | None = None,
    ):
        self._points = plan.points
        self._halving = plan.halving
        self.at_once = plan.at_once or 0
        self.places: dict[str, list[Place]] = {}
        self._stacked: dict[str, Network] = {}
        # Of convolutions, whose activations are more than their weights, the seeds of one point at a time.
        bound = seeds_at_once or (config.seeds if config.student.startswith("cnn") else None)
        super().__init__(config, mesh, data_dir, bound)

    def check(self) -> None:
        """Traces every program on shapes alone: what cannot be trained is known before anything is.

        Raises:
          ValueError, UnknownTapError: whatever a phase would raise at its start.
        """
        one_each = copy.copy(self)
        # Parts of one phase share their program: one of them is enough.
        one_each.phases = list({id(phase.learner): phase for phase in self.phases}.values())
        try:
            Job.check(one_each)
        except _DECIDES:
            raise ValueError(
                f"one of {', '.join(self._points)} decides what method {self.config.method} computes, not only with "
                "which numbers, and cannot be searched: give it with --set"
            ) from None

    def validation(self, phase: Phase) -> Any:
        """``(state, frozen) -> accuracy on the validation split``, of every point and seed."""
        if phase.name not in self._stacked:
            return super().validation(phase)

        def evaluate(state: Any, frozen: Any) -> dict[str, Any]:
            return {"validation/accuracy": self._accuracy(phase.name, phase.learner.deploy(state, frozen))[0]}

        return evaluate

    def surface(self, name: str, results: Mapping[str, Variables], ended: Mapping[str, Ended]) -> Surface:
        """All points of a student on the validation split; nobody has looked at the test split for it.

        Args:
          name: of the student.
          results: what each phase has deployed.
          ended: by phase, when its points ended.
        """
        measured = {phase: self._accuracy(phase, results[phase]) for _, phase, _ in self.places[name]}
        trials = []
        for point, phase, row in self.places[name]:
            diverged, stopped = (None if steps[row] < 0 else steps[row] for steps in ended[phase])
            trials.append(Trial(point, floats(measured[phase][0][row]), diverged, stopped_at=stopped))
        config = self.config
        title = f"{config.dataset}: {config.teacher} teaches {config.student} by {config.method}, a search"
        (examples,) = {examples for _, examples in measured.values()}
        return Surface(title, examples, tuple(trials))

    def tested(self, surfaces: Mapping[str, Surface], results: Mapping[str, Variables]) -> Surface:
        """The distilled student's surface with what the test split says of the first two, beside the student alone."""
        batches = evaluation.on_device(self._once("test"))

        def on_test(name: str, number: int) -> Trial:
            variables = self.places[name][number].of(results)
            logits, labels = evaluation.predict_labelled(self._single[name].learner.network, variables, batches)
            test = floats(evaluation.accuracy(logits, labels))
            return dataclasses.replace(surfaces[name].trials[number], test=test)

        trials = list(surfaces[DISTILLED].trials)
        for number in surfaces[DISTILLED].ranking[:2]:
            trials[number] = on_test(DISTILLED, number)
        alone = {name: on_test(name, found.ranking[0]) for name, found in surfaces.items() if name != DISTILLED}
        return dataclasses.replace(surfaces[DISTILLED], trials=tuple(trials), alone=alone)

    def compare(self, results: Mapping[str, Variables], split: str = "test") -> Comparison:
        """The teacher and one point of each student on one split."""
        at_chosen = copy.copy(self)
        at_chosen.phases = [*self.phases[:1], *self._single.values()]
        return Job.compare(at_chosen, results, split)

    def _phases(self) -> list[Phase]:
        teacher, *single = super()._phases()
        self._single = {phase.name: phase for phase in single}
        if "training" in methods.find(self.config.method).from_training:
            raise ValueError(
                f"method {self.config.method} has phases or networks of its own, and a search takes methods that are "
                "one training of the student: see jaxkd methods"
            )
        for name, values in self._points.items():
            for value in values:
                # As a number, which is looked at: it may be out of its range, and a traced one cannot be.
                self._at({**{other: of[0] for other, of in self._points.items()}, name: value})
        fitting = self._fitting(teacher)
        if self._halving is not None:
            count = len(next(iter(self._points.values())))
            if self.at_once or fitting < count:
                raise ValueError(
                    f"--halving holds all {count} points at a time, and "
                    + ("--points-at-once says how many: leave one out" if self.at_once else f"{fitting} fit the memory")
                )
        self.at_once = self.at_once or fitting
        rates = tuple(dict.fromkeys(self._points.get("learning_rate", (self.config.learning_rate,))))
        phases = [teacher]
        for number, phase in enumerate(single, 1):
            points = self._points if phase.name == DISTILLED else {"learning_rate": rates}
            phases += self._parts(number, phase, points)
        return phases

    def _at(self, point: Mapping[str, Any]) -> dict[str, Phase]:
        """The phases of the students at one point, whose numbers may be traced."""
        job = copy.copy(self)
        job.config = dataclasses.replace(self.config, **{n: x for n, x in point.items() if n in SEARCHED_OF_CONFIG})
        job.parameters = {name: value for name, value in point.items() if name not in SEARCHED_OF_CONFIG}
        return {phase.name: phase for phase in Job._phases(job)}

    def _parts(self, number: int, phase: Phase, points: Points) -> list[Phase]:
        """One phase, at all points: in parts of one size, one after the other, which share one compiled program."""

        def learner_at(point: learners.Points) -> Learner:
            return self._at(point)[phase.name].learner

        count = len(next(iter(points.values())))
        halving = self._halving if phase.name == DISTILLED else None
        # Dropped are the worst of all: with halving there are no parts.
        parts = math.ceil(count / self.at_once) if halving is None else 1
        size = math.ceil(count / parts)
        side_by_side = None if self._seeds_at_once is None else max(1, self._seeds_at_once // self.config.seeds)
        self.places[phase.name] = []
        phases: list[Phase] = []
        for part in range(parts):
            name = phase.name if parts == 1 else f"{phase.name}, part {part + 1} of {parts}"
            there = range(part * size, min(part * size + size, count))
            # The last part is filled up with its last point, for one size is one program.
            rows = [*there, *[there[-1]] * (size - len(there))]
            grid = {key: jnp.asarray([values[i] for i in rows], jnp.float32) for key, values in points.items()}
            if halving is not None:
                swept = learners.successive_halving(
                    learner_at,
                    grid,
                    self._right(phase.learner.network),
                    rungs=rungs_of(count, phase.steps, halving),
                    factor=halving,
                    chunk=side_by_side,
                )
            else:
                swept = learners.sweep(learner_at, grid, chunk=side_by_side)
            # Of all parts it is the first one's step that trains: a state brings its points with it.
            learner = phases[0].learner if phases else swept
            enter = self._enter(swept, number, taught=phase.name == DISTILLED, held_out=halving is not None)
            phases.append(Phase(name, learner, phase.steps, enter, phase.data))
            self.places[phase.name] += [
                Place({key: values[i] for key, values in points.items()}, name, row) for row, i in enumerate(there)
            ]
            self._stacked[name] = learners.stacked(phase.learner.network, size, chunk=side_by_side)
        return phases

    def _right(self, network: Network) -> learners.Score:
        """``(variables, the validation split) -> how many of its examples each seed has right``."""

        def score(variables: Variables, held_out: PyTree) -> jax.Array:
            source, xs = held_out

            def right(x: PyTree) -> jax.Array:
                batch = self._validation.fetch(source, x)
                logits = network.apply(variables, batch)[0].logits
                return jnp.sum((jnp.argmax(logits, -1) == batch["label"]) & batch["where"], -1)

            return jnp.sum(jax.lax.map(right, xs), 0)

        return score

    def _enter(self, learner: Learner, number: int, *, taught: bool, held_out: bool) -> Enter:
        """The start of a part, with the key that ``training.run`` gives to phase ``number`` of a single run."""

        def enter(key: jax.Array, results: Mapping[str, Variables], batch: Batch) -> tuple[PyTree, PyTree]:
            del key  # every part would get another
            frozen: PyTree = results["teacher"] if taught else {}
            if held_out:
                validation = self._validation
                frozen = frozen, (validation.source, validation.chunk(0, validation.steps))
            of_phase = jax.random.fold_in(jax.random.key(self.config.seed), number)
            return learner.init(of_phase, frozen, batch), frozen

        return enter

    def _fitting(self, teacher: Phase) -> int:
        """How many points fit a quarter of the memory.

        A state counts four times: as it was, as it will be, as gradients and as deployed. An MLP has fewer activations
        of an example than weights, and those of all points at a time; other networks' ``--seeds-at-once`` bounds.
        """
        stats = jax.local_devices()[0].memory_stats() or {}
        memory = stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        learner, batches = self._single[DISTILLED].learner, self._single[DISTILLED].data

        def state_and_deployed() -> tuple[PyTree, Variables]:
            first = example_batch(self.batches(self.train))
            frozen = teacher.learner.deploy(teacher.learner.init(jax.random.key(0), {}, first), {})
            state = learner.init(jax.random.key(0), frozen, example_batch(batches))
            return state, learner.deploy(state, frozen)

        state, deployed = map(_bytes, jax.eval_shape(state_and_deployed))
        activations = deployed * self.config.batch_size if self._seeds_at_once is None else 0
        return max(1, memory // 4 // (4 * state + activations))

    def _accuracy(self, phase: str, variables: Variables) -> tuple[np.ndarray, int]:
        """Accuracies on the validation split, [points, seeds], and of how many labelled examples."""
        logits, labels = evaluation.predict_labelled(self._stacked[phase], variables, self._validation)
        return np.asarray(evaluation.accuracy(logits, labels)), int(np.sum(labels >= 0))

    def _once(self, split: str) -> data.PaddedBatches:
        examples = data.load(self.config.dataset, split, data_dir=self._data_dir)
        return data.padded_batches(examples, min(_EVALUATION_BATCH, len(examples)))


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
