"""Trains a recipe of ImageNet, or goes on with it: ``run.py dist --teacher-weights resnet34.safetensors``.

Needs ImageNet, once: ``jaxkd prepare imagenet2012``. Without ``--teacher-weights`` a ResNet that teaches is trained
first, once in a working directory; the teacher of the other recipes has to be given.
"""

import argparse
import sys
from pathlib import Path

import configs

from jaxkd import cli
from jaxkd.jobs import RunError, RunOptions
from jaxkd.training import InterruptedTraining


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; the exit code is 1 after an error, or if it was interrupted: the same command goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=configs.RECIPES, metavar="RECIPE", help=", ".join(configs.RECIPES))
    parser.add_argument("--teacher-weights", help="a file of weights of the teacher (default: it is trained)")
    parser.add_argument("--seeds", type=int, default=1, help="students, of one teacher (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    parser.add_argument("--epochs", type=float, help="of students and teacher (default: the published)")
    parser.add_argument("--workdir", default="runs/imagenet", help="directory of all runs (default: runs/imagenet)")
    parser.add_argument("--data-dir", help="directory of the data sets (default: that of TFDS)")
    parser.add_argument("--every", type=int, help="save every so many steps (default: 5 times a training)")
    asked = parser.parse_args(arguments)

    name = f"{asked.recipe}-{asked.seed}"
    started = (Path(asked.workdir) / name / "config.json").exists()
    options = RunOptions(
        workdir=asked.workdir, data_dir=asked.data_dir, every=asked.every, **{"resume" if started else "name": name}
    )
    try:
        job = configs.config(
            asked.recipe,
            teacher_weights=asked.teacher_weights,
            seeds=asked.seeds,
            seed=asked.seed,
            epochs=asked.epochs,
        )
        cli.distill(job, options)
    except InterruptedTraining:
        return 1
    except (RunError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    recipe = configs.RECIPES[asked.recipe]
    numbers = [f"{number} % ({source})" for source, number in recipe.published.items()]
    alone = "" if recipe.alone is None else f"; the student alone {recipe.alone} %"
    print(f"published: {', '.join(numbers) or 'no number'}{alone}; the teacher {recipe.of_teacher} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
