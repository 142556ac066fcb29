"""Takes the student of a run away, as a program in a file."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd import data, deployment
from jaxkd.evaluation import Comparison
from jaxkd.jobs._config import Settings, from_json
from jaxkd.jobs._distill import SEARCH
from jaxkd.jobs._job import DISTILLED, Job
from jaxkd.jobs._report import EXPORTS, write_report
from jaxkd.jobs._rundir import RunError, read_config
from jaxkd.networks import Variables
from jaxkd.training import parallel
from jaxkd.training.checkpoints import load_result

# One example, and as many as a server may take at once.
_EXAMPLE = 256
# bfloat16 keeps 8 bits; what is compiled for one size of batch rounds at other places than for another.
_TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


def export(
    path: Path, format: str, output: Path | None = None, seed: int | None = None, data_dir: str | None = None
) -> dict[str, Any]:
    """Writes the student of a run that is finished to a directory, checks it, and adds it to the run's report.

    Args:
      path: of the run.
      format: one of ``deployment.FORMATS``.
      output: the directory to make; ``exports/<format>-seed<seed>`` in the run's by default.
      seed: which of the distilled students; by default the best on the validation split, the first of equals.
      data_dir: directory of the data sets.

    Returns:
      What ``deployment.export`` tells, and the ``"path"`` of the file.

    Raises:
      RunError: there is no such run, it is not finished, or it has no such seed.
      ExportError, FileExistsError, ImportError, ValueError: see ``deployment.export``.
    """
    deployment.check_format(format)
    fields = read_config(path)
    searched = fields.pop(SEARCH, None) is not None
    settings = from_json(fields)
    if searched and seed is not None:
        raise RunError(f"run {path.name} is a search, which keeps one student, its best: leave --seed out")
    job = Job(settings, parallel.make_mesh(devices=jax.devices()[:1]), data_dir)
    variables, config = _student(path, settings, seed)
    test = job.split("test")
    batch = test.decode(test.read(np.arange(min(_EXAMPLE, len(test)))))
    directory = output or path / "exports" / f"{format}-seed{config['seed']}"
    about = deployment.export(
        directory,
        job.networks[DISTILLED],
        variables,
        {"image": batch["image"]},
        format=format,
        config=config | _input(test) | {"precision": settings.precision},
        tolerance=_TOLERANCES[settings.precision],
    )
    about |= {"path": str(directory / about["file"])}
    with (path / EXPORTS).open("a") as file:
        file.write(json.dumps(about) + "\n")
    if not searched:
        write_report(path, Comparison.from_json((path / "comparison.json").read_text()), settings)
    return about


def _student(path: Path, settings: Settings, seed: int | None) -> tuple[Variables, dict[str, Any]]:
    """The variables of the student of a seed, or of the best one, and what is known of it."""
    if seed is not None and not 0 <= seed < settings.seeds:
        raise RunError(f"run {path.name} has the seeds 0 to {settings.seeds - 1}, and --seed is {seed}")
    try:
        best = load_result(path / "results", "student")
        if seed is None:
            return best.variables, dict(best.metadata)
        of_all = load_result(path / "results", DISTILLED).variables
    except FileNotFoundError:
        raise RunError(f"run {path.name} has no student: go on with it until it is finished, --resume") from None
    chosen = {name: value for name, value in best.metadata.items() if name != "validation_accuracy"}
    return jax.tree.map(lambda leaf: leaf[seed], of_all), chosen | {"seed": seed}


def _input(examples: data.Examples) -> dict[str, Any]:
    """What the program takes, and how it is made of an image."""
    return {
        "image_shape": list(examples.shape),
        "normalisation": {
            "image": "(pixels / 255 - mean) / std, by channel",
            "mean": list(examples.mean),
            "std": list(examples.std),
        },
        "class_names": list(examples.class_names),
    }
