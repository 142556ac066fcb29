"""What a benchmark trains: the pairs of networks, and each row of the table as phases."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from jaxkd import methods
from jaxkd.evaluation import ALONE, KD, PUBLISHED, Trained
from jaxkd.jobs._config import DistillConfig, RunOptions, with_recipe
from jaxkd.jobs._job import DISTILLED, Job, mesh_of
from jaxkd.learners import Phase
from jaxkd.networks import Network

_TEACHER_RATE = 3e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is compared. All labels are used by all rows, and no row is tuned: methods have their published numbers."""

    dataset: str = "digits"
    """Data set: digits and fashion_mnist have pairs of networks of their own, others need --teacher and --student."""
    methods: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME NAME ...", help_behavior_hint="(default: all)")
    ] = ()
    """Methods to train, beside the student alone and KD."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 20; fashion_mnist: 5)")] = (
        None
    )
    """How many students of each, trained at once."""
    epochs: Annotated[
        float | None,
        tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 20 of MLPs, 10 of others; fashion_mnist: 1)"),
    ] = None
    """Epochs of every phase of every student."""
    teacher_epochs: Annotated[float, tyro.conf.arg(metavar="FLOAT")] = 20.0
    """Epochs of the teachers."""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: two pairs)")] = None
    """Teacher of the one pair that trains all methods, instead of the two of the data set."""
    student: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: two pairs)")] = None
    """Student of the one pair."""
    learning_rate: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0.01; fashion_mnist: 0.003)")
    ] = None
    """Learning rate of the students, at the start of a cosine, with Adam. That of the teachers is .003."""
    batch_size: int = 64
    """Images in a batch."""
    seed: int = 0
    """Of everything."""


class Pair(NamedTuple):
    teacher: str
    student: str
    middle: str

    @property
    def title(self) -> str:
        return f"{self.teacher} -> {self.student}"


class Entry(NamedTuple):
    """A training of the table: what its row says, its phases, and the network of what the last of them deploys."""

    row: Trained
    phases: list[Phase]
    network: Network


_MAPS = Pair("cnn_16_32_64", "cnn_4_8_16", "cnn_8_16_32")
_PAIRS: dict[str, tuple[Pair, Pair]] = {
    "digits": (Pair("mlp_256_256", "mlp_8_8", "mlp_32_32"), _MAPS),
    "fashion_mnist": (Pair("mlp_512_512", "mlp_32_32", "mlp_128_128"), _MAPS),
}


class _Defaults(NamedTuple):
    """What a data set is trained with, where nothing else is asked for."""

    seeds: int
    epochs_of_mlps: float
    epochs_of_others: float
    learning_rate: float


_OF_MANY = _Defaults(seeds=5, epochs_of_mlps=1.0, epochs_of_others=1.0, learning_rate=3e-3)
_OF_FEW = _Defaults(seeds=20, epochs_of_mlps=20.0, epochs_of_others=10.0, learning_rate=1e-2)
_DEFAULTS = {"fashion_mnist": _OF_MANY}


def jobs_of(config: BenchmarkConfig, options: RunOptions) -> dict[str, tuple[Pair, Job]]:
    """By the names of the pair, ``""`` for one that needs no maps and ``"maps"``: one job each, of KD."""
    if (config.teacher is None) != (config.student is None):
        raise ValueError("--teacher and --student are a pair: give both or none")
    if config.teacher is not None and config.student is not None:
        pairs = {"": Pair(config.teacher, config.student, config.student)}
    elif config.dataset in _PAIRS:
        pairs = dict(zip(("", "maps"), _PAIRS[config.dataset], strict=True))
    else:
        raise ValueError(f"{config.dataset} has no pairs of its own: give --teacher and --student, see jaxkd models")
    chosen = [methods.find(name) for name in config.methods] or list(methods.methods())
    if "maps" in pairs and not any(method.maps for method in chosen):
        del pairs["maps"]
    return {
        name: (pair, Job(_settings(config, pair), mesh_of(options.mesh), options.data_dir, options.seeds_at_once))
        for name, pair in pairs.items()
    }


def _settings(config: BenchmarkConfig, pair: Pair) -> Any:
    default = _DEFAULTS.get(config.dataset, _OF_FEW)
    epochs = default.epochs_of_mlps if pair.student.startswith("mlp") else default.epochs_of_others
    return with_recipe(
        DistillConfig(
            dataset=config.dataset,
            teacher=pair.teacher,
            student=pair.student,
            method=KD,
            temperature=4.0,
            alpha=0.9,
            labels="all",
            seeds=default.seeds if config.seeds is None else config.seeds,
            epochs=epochs if config.epochs is None else config.epochs,
            teacher_epochs=config.teacher_epochs,
            batch_size=config.batch_size,
            optimizer="adam",
            learning_rate=default.learning_rate if config.learning_rate is None else config.learning_rate,
            teacher_learning_rate=_TEACHER_RATE,
            augment=(),
            seed=config.seed,
        )
    )


def entries_of(config: BenchmarkConfig, pair: Pair, job: Job) -> list[Entry]:
    """What is trained of a pair: the student alone, KD, and the methods that the pair is for."""
    both = config.teacher is None
    is_maps = pair == _MAPS and both
    alone, distilled = (next(phase for phase in job.phases if phase.name == name) for name in (ALONE, DISTILLED))
    empty: tuple[float, ...] = ()
    entries = [
        Entry(
            Trained(ALONE, pair.title, "cross-entropy", empty, empty),
            [renamed(alone, pair, config.seed, ALONE)],
            job.student,
        ),
        Entry(Trained(KD, pair.title, "KD", empty, empty), [renamed(distilled, pair, config.seed, KD)], job.student),
    ]
    chosen = [methods.find(name) for name in config.methods] or list(methods.methods())
    for method in chosen:
        if method.name == KD or (both and method.maps != is_maps):
            continue
        for labels, parameters in _columns(method):
            of_method = copy.copy(job)
            of_method.networks = {}
            of_method.config = dataclasses.replace(job.config, method=method.name, temperature=None, alpha=None, set=())
            of_method.parameters = {**parameters, **_fitted(method.name, pair, len(job.train))}
            known = {phase.name for phase in job.phases} - {DISTILLED}
            own = [phase for phase in Job._phases(of_method) if phase.name not in known]
            name = f"{method.name} ({labels})"
            phases = [
                renamed(
                    phase,
                    pair,
                    config.seed,
                    name if phase.name == DISTILLED else f"{name} {phase.name}",
                    {other.name: f"{pair.title}, {name} {other.name}" for other in own},
                    before_last=len(own) - 1 - number,
                )
                for number, phase in enumerate(own)
            ]
            fitted = _fitted(method.name, pair, len(job.train)).items()
            note = ", ".join(f"{key} {_joined(value)}" for key, value in fitted)
            row = Trained(method.name, pair.title, labels, empty, empty, note)
            entries.append(Entry(row, phases, of_method.networks[DISTILLED]))
    return entries


def _columns(method: methods.Method) -> list[tuple[str, dict[str, Any]]]:
    """The labels beside a method's own term, and the parameters that say so."""
    if not {"hard", "soft"} <= set(method.parameters):
        return [(PUBLISHED, {})]
    parameters = {"hard": 0.1, "soft": 0.9}
    return [("cross-entropy", {"hard": 1.0, "soft": 0.0}), ("KD", parameters)]


def _fitted(method: str, pair: Pair, examples: int) -> dict[str, Any]:
    """What has no published value that fits the set and its small maps, or names other networks."""
    of_method: Mapping[str, dict[str, Any]] = {
        "crd": {"negatives": min(256, examples // 2)},
        "sdd": {"grids": (1, 2)},
        "takd": {"assistants": (pair.middle,)},
        "dgkd": {"assistants": (pair.middle,)},
        "several": {"others": (pair.middle,)},
        "progressive": {"medium": (pair.middle,)},
    }
    return of_method.get(method, {})


def _joined(value: Any) -> str:
    """A parameter as the command line has it: several values with commas between."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def renamed(
    phase: Phase, pair: Pair, seed: int, name: str, others: Mapping[str, str] | None = None, *, before_last: int = 0
) -> Phase:
    """A phase with a name in the whole run, that finds the results of its own pair.

    The last phase of every row starts from one key, that of the seed: from the same fresh students.
    """
    names = {"teacher": f"{pair.title}, teacher", **(others or {})}

    def enter(key: jax.Array, results: Any, batch: Any) -> Any:
        del key  # that of the run differs from phase to phase, and rows are to start from the same students
        here = {own: results[there] for own, there in names.items() if there in results}
        return phase.enter(jax.random.fold_in(jax.random.key(seed), before_last), here, batch)

    return phase._replace(name=f"{pair.title}, {name}", enter=enter)
