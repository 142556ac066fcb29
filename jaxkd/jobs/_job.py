"""What a distillation job is made of: sets, networks, phases and participants, all determined by the settings."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd import data, deployment, evaluation, learners, methods, models, networks, objectives
from jaxkd.data import augment
from jaxkd.evaluation import Comparison, Participant
from jaxkd.jobs._config import Settings, content_hash
from jaxkd.jobs._quantized import quantized
from jaxkd.learners import Learner, Phase
from jaxkd.models import pretrained
from jaxkd.networks import Batch, Network, Variables
from jaxkd.training import example_batch, parallel

ALONE, SAME_STEPS, DISTILLED = "alone", "alone, same steps", "distilled"
_EVALUATION_BATCH = 1000


class Job:
    """What the job is made of, all of it determined by the config.

    Attributes:
      networks: what the phases deploy that are rows of the comparison, of one seed, by name.
    """

    def __init__(
        self,
        config: Settings,
        mesh: jax.sharding.Mesh,
        data_dir: str | None = None,
        seeds_at_once: int | None = None,
        quantize: Literal["int8"] | None = None,
    ):
        self._data_dir = data_dir
        self.config = config
        self.mesh = mesh
        self.train, validation = (self.split(split) for split in ("train", "validation"))
        if config.train_split == "train+validation":
            self.train = data.joined(self.train, validation)
        if not (config.teacher and config.student):
            raise ValueError(
                f"{config.dataset} has no recipe of its own: give --teacher and --student, see jaxkd models"
            )
        self._seeds_at_once = seeds_at_once or (None if config.student.startswith(("mlp", "cnn")) else 1)
        self.transfer = self.train
        if config.labels != "all" and config.labels != len(self.train):
            self.transfer = data.keep_labels(self.train, config.labels, seed=config.seed)
        self.teacher = self._network(config.teacher)
        self.student = self._network(config.student)
        self.teacher_config = (
            {
                name: getattr(config, name)
                for name in ("dataset", "teacher", "teacher_epochs", "batch_size", "optimizer", "teacher_learning_rate")
            }
            | {"accumulate": config.accumulate, "parallel": config.parallel}
            | {"augment": list(config.augment), "precision": config.precision, "seed": config.seed}
            | {"weight_decay": config.weight_decay, "schedule": config.schedule, "drops": list(config.drops)}
            | {"warmup": config.warmup, "mixup_alpha": config.mixup_alpha, "pixels": config.pixels}
            | {"train_split": config.train_split}
        )
        self.teacher_hash = content_hash(self.teacher_config)
        # Of the method, beside those in the config: a search gives them, traced.
        self.parameters: dict[str, Any] = {}
        # On the devices for good: it is predicted again and again.
        self._validation = evaluation.on_device(_once(validation), mesh)
        self.networks: dict[str, Network] = {}
        self.phases = self._phases()
        if quantize is not None:
            deployment.check_int8()
        if quantize is not None and self.networks[DISTILLED] is not self.student:
            raise ValueError(
                f"--quantize {quantize}: of --method {config.method} not {config.student} alone is deployed, and what "
                "is added to it is no model of the zoo: leave it out"
            )
        self._quantize = quantize

    def check(self) -> None:
        """Traces every phase on shapes alone: what cannot be trained is known before anything is.

        Raises:
          ValueError, UnknownTapError: whatever a phase would raise at its start.
          FileNotFoundError, ValueError: the teacher's weights are not there, or are those of another model.
        """
        results: dict[str, Any] = {}
        _ = self.given_teacher  # read, and perhaps refused
        for phase in self.phases:
            batches = self.batches(self.train) if phase.data is None else phase.data
            parallel.compile(phase.learner, batches, mesh=self.mesh, mode=self.config.parallel)
            batch = example_batch(batches)

            def enter(results: Any, phase: Phase = phase, batch: Any = batch) -> tuple[Any, Any]:
                return phase.enter(jax.random.key(0), results, batch)

            state, frozen = jax.eval_shape(enter, results)
            jax.eval_shape(phase.learner.step, state, frozen, batch)
            results[phase.name] = jax.eval_shape(phase.learner.deploy, state, frozen)

    @functools.cached_property
    def given_teacher(self) -> Variables | None:
        """The teacher's variables where its weights are given, in the memory of the host; else it is to be trained."""
        if self.config.teacher_weights is None:
            return None
        module = models.create(self.config.teacher, self.train.classes)
        shape = self.train.shape
        given: Variables = pretrained.load(module, self.config.teacher_weights, (shape[0], shape[1], shape[2]))
        return jax.device_get(given)

    def batches(self, examples: data.Examples) -> data.Batches:
        """The training order of a set; the labelled part of one may be smaller than a batch, and is then one batch."""
        size = self.config.batch_size
        if examples is not self.train and len(examples) < size:
            # Devices, micro-batches and the pairs of mixup divide it.
            pairs = 2 if {"mixup", "cutmix"} & set(self.config.augment) else 1
            parts = self.mesh.size * self.config.accumulate * pairs
            size = len(examples) // parts * parts or len(examples)
        return data.Batches(
            examples,
            size,
            seed=self.config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _pairs(self, labelled: data.Examples) -> data.PairedBatches:
        config = self.config
        if config.data_order == "own":
            raise ValueError(f"--method {config.method} has its batches in one order for all seeds: --data-order same")
        return data.PairedBatches(
            labelled,
            config.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def validation(self, phase: Phase) -> Any:
        """``(state, frozen) -> accuracy on the validation split``."""

        def evaluate(state: Any, frozen: Any) -> dict[str, Any]:
            variables = phase.learner.deploy(state, frozen)
            logits, labels = evaluation.predict_labelled(phase.learner.network, variables, self._validation)
            return {"validation/accuracy": evaluation.accuracy(logits, labels)}

        return evaluate

    def best_student(self, stacked: Variables) -> tuple[Variables, dict[str, Any]]:
        """The distilled seed with the highest validation accuracy (the first of equals), and what it is."""
        network = learners.stacked(self.networks[DISTILLED], self.config.seeds)
        accuracies = np.asarray(evaluation.accuracy(*evaluation.predict_labelled(network, stacked, self._validation)))
        best = int(np.argmax(accuracies))
        metadata = {
            "model": self.config.student,
            "method": self.config.method,
            "classes": self.train.classes,
            "dataset": self.config.dataset,
            "seed": best,
            "validation_accuracy": float(accuracies[best]),
        }
        return jax.tree.map(lambda x: x[best], stacked), metadata

    def compare(self, results: Mapping[str, Variables], split: str = "test") -> Comparison:
        """All participants on one split."""
        config = self.config
        examples = self.split(split)
        alike = tuple(name for name, network in self.networks.items() if network is self.student and name != DISTILLED)
        students = [
            Participant(name, network, results[name], config.seeds, alike if name == DISTILLED else ())
            for name, network in self.networks.items()
        ]
        if self._quantize is not None:
            distilled = next(student for student in students if student.name == DISTILLED)
            image = self._held_out()["image"]
            students += quantized(distilled, models.create(config.student, self.train.classes), image, config.precision)
        deployed = [results[stage.phase.name] for stage in self._method] if self._ensembles else []
        students += [
            Participant(one.name, one.network, one.variables(deployed), config.seeds) for one in self._ensembles
        ]
        kept = "all labels" if self.transfer is self.train else f"{config.labels} of {len(self.train)} labels"
        title = f"{config.dataset} ({split}): {config.teacher} teaches {config.student}, {kept}"
        return evaluation.compare(
            Participant("teacher", self.teacher, results["teacher"]),
            students,
            _once(examples),
            title=title,
        )

    @property
    def _ensembles(self) -> list[methods.Ensemble]:
        return [ensemble for stage in self._method for ensemble in stage.ensembles]

    def _phases(self) -> list[Phase]:
        config = self.config
        labelled = data.labelled(self.transfer)
        steps = config.steps or self._steps(self.transfer, config.epochs)
        alone = self.batches(labelled)

        def student(steps: int, make: Callable[..., Learner], frozen: Literal["same", "own"] = "same") -> Learner:
            return learners.seeds(
                self._learner(make, config.learning_rate, steps, config.ema),
                config.seeds,
                data=config.data_order,
                frozen=frozen,
                chunk=self._seeds_at_once,
            )

        def ordered(batches: data.Batches) -> Any:
            return batches.stack(config.seeds) if config.data_order == "own" else batches

        teacher_steps = self._steps(self.train, config.teacher_epochs)
        teacher = self._learner(_from_labels(self.teacher), config.teacher_learning_rate, teacher_steps, None)
        phases = [Phase("teacher", teacher, teacher_steps, learners.fresh(teacher))]
        own_epochs = steps * config.batch_size / len(self.transfer)
        own_steps = min(steps, _round(own_epochs * alone.steps_per_epoch))
        for name, length in {ALONE: own_steps, SAME_STEPS: steps}.items():
            if config.alone and (name == ALONE or own_steps != steps):
                learner = student(length, _from_labels(self.student))
                phases.append(Phase(name, learner, length, learners.fresh(learner), ordered(alone)))
                self.networks[name] = self.student

        def in_phases(
            make: Callable[..., Learner], frozen: Literal["same", "own"] = "same", steps: int = steps
        ) -> Learner:
            return student(steps, make, frozen)

        training = methods.Training(
            learner=in_phases,
            steps=steps,
            labelled=ordered(alone),
            transfer=ordered(self.batches(self.transfer)),
            pairs=lambda: self._pairs(labelled),
            complete=ordered(self.batches(self.train)),
            network=self._network,
            held_out=self._held_out,
        )
        self._method = self._stages(training)
        for stage in self._method:
            phases.append(stage.phase)
            if stage.network is not None:
                self.networks[stage.phase.name] = stage.network
        return phases

    def _stages(self, training: methods.Training) -> tuple[methods.Stage, ...]:
        """The method, with the parameters asked for and what it asks to know. The last stage is the distilled student.

        A method that is one objective is one stage: of the frozen teacher, for as many steps as asked for.
        """
        config = self.config
        method = methods.find(config.method)
        given = methods.parse(config.method, config.set) | self.parameters
        for name, value in {"temperature": config.temperature, "alpha": config.alpha}.items():
            if value is None:
                continue
            if name in given:
                raise ValueError(f"--{name} and --set {name}=... are one parameter: give one of them")
            given[name] = value
        facts: dict[str, Callable[[], Any]] = {
            "n_data": lambda: len(self.transfer),
            "labels": lambda: _all_labels(self.transfer),
            "classes": lambda: self.train.classes,
            "split": lambda: _once(self.transfer),
            "steps": lambda: training.steps,
            "steps_per_epoch": lambda: self.batches(self.transfer).steps_per_epoch,
            "training": lambda: training,
        }
        given |= {name: facts[name]() for name in method.from_training}
        made = methods.create(config.method, self.student, self.teacher, **given)
        if isinstance(made, objectives.Objective):
            deployed = self.student if made.deployment is None else made.deployment.network(self.student)
            learner = training.learner(functools.partial(learners.distill, self.student, self.teacher, made))
            enter = learners.fresh(learner, lambda results: results["teacher"])
            return (methods.Stage(Phase(DISTILLED, learner, training.steps, enter, training.transfer), deployed),)
        *before, last = made
        return (*before, last._replace(phase=last.phase._replace(name=DISTILLED)))

    def _held_out(self) -> Batch:
        """As much of the validation split as is predicted at once."""
        split = self.split("validation")
        return split.decode(split.read(np.arange(min(_EVALUATION_BATCH, len(split)))))

    def split(self, split: str) -> data.Examples:
        """A split of the data set, its pixels normalised as the config has it."""
        examples = data.load(self.config.dataset, split, data_dir=self._data_dir)
        if self.config.pixels == "published":
            return examples
        half = (0.5,) * examples.shape[-1]
        return dataclasses.replace(examples, mean=half, std=half)

    def _steps(self, examples: data.Examples, epochs: float) -> int:
        return _round(epochs * self.batches(examples).steps_per_epoch)

    def _network(self, name: str) -> Network:
        network = networks.from_linen(models.create(name, self.train.classes))
        return networks.mixed_precision(network, jnp.bfloat16) if self.config.precision == "bfloat16" else network

    def _learner(self, make: Callable[..., Learner], learning_rate: float, steps: int, ema: float | None) -> Learner:
        config = self.config
        schedule = _schedule(config, learning_rate, steps)
        transforms = {
            "crop": augment.random_crop(max(1, self.train.shape[0] // 8)),
            "resized_crop": augment.random_resized_crop(),
            "flip": augment.random_flip(),
            "mixup": augment.mixup(config.mixup_alpha, classes=self.train.classes),
            "cutmix": augment.cutmix(1.0, classes=self.train.classes),
        }
        prepare = augment.compose(*(transforms[name] for name in config.augment)) if config.augment else None
        learner = make(optimizer=_optimizer(config, schedule), prepare=prepare, accumulate=config.accumulate)
        return learner if ema is None else learners.ema(learner, ema)


def _schedule(config: Settings, learning_rate: float, steps: int) -> optax.Schedule:
    rising = round(config.warmup * steps)
    if config.schedule == "cosine":
        falling = optax.cosine_decay_schedule(learning_rate, max(1, steps - rising))
    else:
        drops = {round(share * steps) - rising: 0.1 for share in config.drops}
        falling = optax.piecewise_constant_schedule(learning_rate, drops)
    if rising == 0:
        return falling
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, rising), falling], [rising])


def _optimizer(config: Settings, schedule: optax.Schedule) -> optax.GradientTransformation:
    if config.optimizer == "sgd":
        return optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, 0.9))
    if config.weight_decay == 0:
        return optax.adam(schedule)
    # The published recipes for it leave out biases, norms, tokens and positions.
    return optax.adamw(schedule, weight_decay=config.weight_decay, mask=_kernels)


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: getattr(path[-1], "key", None) == "kernel", params)


def _from_labels(network: Network) -> Callable[..., Learner]:
    return functools.partial(learners.distill, network, None, objectives.hard_label())


def _once(examples: data.Examples) -> data.PaddedBatches:
    """Every example once, for evaluation."""
    return data.padded_batches(examples, min(_EVALUATION_BATCH, len(examples)))


def _all_labels(examples: data.Examples) -> np.ndarray | None:
    """All labels, or None if some are missing."""
    labels = examples.labels()
    return labels if np.all(labels >= 0) else None


def _round(steps: float) -> int:
    """Steps as a multiple of 10, where they are as many: all calls of the compiled program then have one length."""
    return max(1, round(steps)) if steps < 10 else 10 * math.ceil(steps / 10)


def mesh_of(text: str | None) -> jax.sharding.Mesh:
    """The mesh that ``--mesh`` asks for."""
    if text is None:
        return parallel.make_mesh()
    parts = re.findall(r"(data|fsdp)=([1-9][0-9]*)(?:,|$)", text)
    axes = {name: int(size) for name, size in parts}
    if ",".join(f"{name}={size}" for name, size in axes.items()) != text:
        raise ValueError(f'--mesh is {text!r}: write it as "data=4" or "data=4,fsdp=2"')
    size = math.prod(axes.values())
    if size > jax.device_count():
        raise ValueError(f"--mesh {text} has {size} devices, and there are {jax.device_count()}")
    devices = jax.devices() if jax.process_count() > 1 else jax.devices()[:size]
    return parallel.make_mesh(axes.get("data"), axes.get("fsdp", 1), devices=devices)
