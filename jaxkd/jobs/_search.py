"""A search for the hyperparameters of a distillation: every point in one program, chosen on the validation split."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxkd import evaluation
from jaxkd.evaluation import Comparison, Surface
from jaxkd.jobs._config import DistillConfig, RunOptions, Settings, as_json, from_json, with_recipe
from jaxkd.jobs._curves import curves_of
from jaxkd.jobs._distill import SEARCH, Watcher, check, check_asked, new_run, resumed_run, train
from jaxkd.jobs._job import DISTILLED, mesh_of
from jaxkd.jobs._rundir import RunError, open_run, read_config, read_environments, write_atomically
from jaxkd.jobs._search_job import Ended, Place, Plan, SearchJob
from jaxkd.jobs._space import SearchSpace, points_of
from jaxkd.training.checkpoints import save_result
from jaxkd.training.logging import read_metrics


class Found(NamedTuple):
    """What a search leaves."""

    run: Path
    surface: Surface
    comparison: Comparison


def search(space: SearchSpace, config: DistillConfig, options: RunOptions, watcher: Watcher) -> Found:
    """Runs the search, or goes on with it.

    Trains what ``distill`` trains, the distilled student at every point and the student alone at every learning rate
    searched, all from the same fresh students, on the same batches. A point is chosen by its accuracy on the validation
    split after the last step, over all seeds; of equals, the first. The test split is looked at after that, for the
    chosen point, the runner-up and the student alone. With ``halving``, points are dropped on the way, see
    ``learners.successive_halving``.

    Below the run's directory, beside what ``distill`` leaves: ``search.json`` and ``search.md``, every point with mean
    and spread over seeds; the heat map in ``report.html`` and as ``plots/search.png``. ``results/student`` is the
    chosen point's best seed by validation accuracy.

    Raises:
      RunError: the run's directory cannot be used, holds another search, or every point has diverged.
      ValueError: the space is empty, or names what is no parameter, no number, out of range, or decides the program.
      CheckpointError, InterruptedTraining: see ``training.run``.
    """
    settings, plan, path = _resolve(space, config, options)
    check(options)
    points = plan.points
    job = SearchJob(settings, plan, mesh_of(options.mesh), options.data_dir, options.seeds_at_once)
    job.check()
    of_search = {
        "points": {name: list(values) for name, values in points.items()},
        "points_at_once": job.at_once if plan.halving is None else None,
        "halving": plan.halving,
    }
    with open_run(path, as_json(settings) | {SEARCH: of_search}, resume=options.resume is not None) as config_hash:
        watcher.started(path)
        results = train(job, path, config_hash, options, watcher)
        ended = _ended(path / "metrics.jsonl")
        surfaces = {name: job.surface(name, results, ended) for name in job.places}
        for name, found in surfaces.items():
            if not found.ranking:
                raise RunError(f"{name}: all points diverged, and nothing is to be chosen: search lower learning rates")
        surface = job.tested(surfaces, results)
        places = {name: job.places[name][found.ranking[0]] for name, found in surfaces.items()}
        chosen = {name: place.of(results) for name, place in places.items()}
        student, metadata = job.best_student(chosen[DISTILLED])
        save_result(path / "results", "student", student, metadata | {"point": dict(surface.chosen.point)})
        comparison = job.compare({"teacher": results["teacher"], **chosen})
        write_atomically(path / "search.json", surface.to_json() + "\n")
        write_atomically(path / "search.md", surface.to_markdown())
        write_atomically(path / "comparison.json", comparison.to_json())
        of_report = {name: value for name, value in as_json(settings).items() if name not in points}
        evaluation.write_report(
            path / "report.html",
            comparison,
            curves=_curves(path / "metrics.jsonl", places),
            config=of_report | {"points": len(surface.trials), "chosen": dict(surface.chosen.point)},
            versions=read_environments(path)[-1],
            surface=surface,
        )
    return Found(path, surface, comparison)


def _resolve(space: SearchSpace, config: DistillConfig, options: RunOptions) -> tuple[Settings, Plan, Path]:
    """The whole settings, what is trained at which points, and the directory of the run."""
    if space.points_at_once is not None and space.points_at_once < 1:
        raise ValueError(f"--points-at-once is {space.points_at_once}: it has to be at least 1")
    if options.resume is None:
        settings = with_recipe(config)
        plan = Plan(points_of(space, config), space.points_at_once, space.halving)
        return settings, plan, new_run(settings, options)
    path = resumed_run(options)
    fields = read_config(path)
    if SEARCH not in fields:
        raise RunError(f"run {path.name} is no search: go on with jaxkd distill --resume {path.name}")
    of_search = fields.pop(SEARCH)
    stored = from_json(fields)
    check_asked(config, stored, path)
    points = {name: tuple(values) for name, values in of_search["points"].items()}
    plan = Plan(points, of_search["points_at_once"], of_search["halving"])
    asked = space.grid or space.range or space.random
    if (
        (asked and points_of(space, config) != points)
        or space.points_at_once not in (None, plan.at_once)
        or space.halving not in (None, plan.halving)
    ):
        raise RunError(f"run {path.name} has other points than asked for here: resume it without naming any")
    return stored, plan, path


def _ended(metrics: Path) -> dict[str, Ended]:
    """By phase, as of the last step, when each point diverged and when it was dropped; -1 for those that were not."""
    last = {record["phase"]: record for record in read_metrics(metrics) if "diverged_at" in record}
    return {
        phase: (record["diverged_at"], record.get("stopped_at", [-1] * len(record["diverged_at"])))
        for phase, record in last.items()
    }


def _curves(metrics: Path, places: Mapping[str, Place]) -> evaluation.Curves:
    """The learning curves of the teacher and of one point of each student."""
    curves = curves_of(metrics)
    chosen = {name: curves["teacher"] for name in ("teacher",) if name in curves}
    for name, place in places.items():
        steps, of_all = curves[place.phase]
        chosen[name] = steps, {metric: values[:, place.row] for metric, values in of_all.items()}
    return chosen
