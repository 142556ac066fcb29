"""Trains one cell of the CIFAR-100 tables, or goes on with it: ``run.py resnet56-resnet20 at``.

The cost is that of 240 epochs for each seed, and once for each teacher in a working directory. Needs CIFAR-100, once:
``jaxkd prepare cifar100``.
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
    parser.add_argument("pair", choices=configs.PAIRS, metavar="PAIR", help=", ".join(configs.PAIRS))
    parser.add_argument("method", choices=configs.PUBLISHED, metavar="METHOD", help=", ".join(configs.PUBLISHED))
    parser.add_argument("--seeds", type=int, default=5, help="students, of one teacher (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    parser.add_argument("--epochs", type=float, default=240.0, help="of teacher and student (default: 240)")
    parser.add_argument("--workdir", default="runs/cifar100", help="directory of all runs (default: runs/cifar100)")
    parser.add_argument("--data-dir", help="directory of the data sets (default: that of TFDS)")
    parser.add_argument("--every", type=int, help="save every so many steps (default: 5 times a training)")
    asked = parser.parse_args(arguments)

    job = configs.config(asked.pair, asked.method, seeds=asked.seeds, seed=asked.seed, epochs=asked.epochs)
    name = f"{asked.pair}-{asked.method}-{asked.seed}"
    started = (Path(asked.workdir) / name / "config.json").exists()
    options = RunOptions(
        workdir=asked.workdir, data_dir=asked.data_dir, every=asked.every, **{"resume" if started else "name": name}
    )
    try:
        cli.distill(job, options)
    except InterruptedTraining:
        return 1
    except (RunError, ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    expected = configs.PUBLISHED[asked.method].get(asked.pair)
    print(f"published: {'no number' if expected is None else f'{expected} %'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
