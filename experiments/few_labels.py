"""What a teacher and unlabelled images bring where labels are few: four rows, and what each has seen.

    python experiments/few_labels.py                             # digits, 100 of 1297 labels
    python experiments/few_labels.py --dataset fashion_mnist     # 1000 of 55 000

Runs ``jaxkd distill`` twice, with few labels and with all, and puts both comparisons into one table: the student alone
and distilled, each with few labels and with all. The teacher has seen all labels in both, and the distilled student
of few labels learns from the teacher's answers to the unlabelled images, too: that is what its gain is made of.

The table is printed, and written to ``few_labels.md`` in ``--workdir``. Result: ``digits/README.md``.
"""

import argparse
import sys
from pathlib import Path

from jaxkd import cli, data
from jaxkd.evaluation import Comparison, Statistic

FEW = {"digits": 100, "fashion_mnist": 1000}
# The student that took as many steps as the distilled one: of all labels, the student alone is that already.
SAME_STEPS = "alone, same steps"


def main() -> int:
    """Runs what is not there yet, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(FEW), default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workdir", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    found: dict[str, Comparison] = {}
    for labels in (str(FEW[arguments.dataset]), "all"):
        name = f"{arguments.dataset}-{labels}-labels"
        run = arguments.workdir / name
        if not (run / "comparison.json").exists():
            options = ["--dataset", arguments.dataset, "--labels", labels, "--seeds", str(arguments.seeds)]
            where = ["--workdir", str(arguments.workdir), *(["--resume", name] if run.exists() else ["--name", name])]
            if code := cli.main(["distill", *options, *where]):
                return code
        found[labels] = Comparison.from_json((run / "comparison.json").read_text())
    text = table(arguments.dataset, found)
    (arguments.workdir / "few_labels.md").write_text(text)
    print(text)
    return 0


def table(dataset: str, found: dict[str, Comparison]) -> str:
    """The four rows in Markdown, and who has seen what."""
    images = len(data.load(dataset, "train"))
    lines = ["| student | labels it sees | other images it sees | test accuracy |", "|---|---:|---:|---:|"]
    for labels, comparison in found.items():
        few = labels != "all"
        seen = int(labels) if few else images
        of_name = {entry.name: entry.accuracy for entry in comparison.students}
        lines.append(f"| alone | {seen} | 0 | {percents(of_name['alone'])} |")
        if SAME_STEPS in of_name:
            lines.append(f"| alone, for as many steps as distilled | {seen} | 0 | {percents(of_name[SAME_STEPS])} |")
        lines.append(f"| distilled | {seen} | {images - seen} | {percents(of_name['distilled'])} |")
    teacher = next(iter(found.values())).teacher.accuracy
    examples = next(iter(found.values())).examples
    seeds = next(iter(found.values())).students[0].accuracy.n
    return "\n".join(lines) + (
        f"\n\nThe teacher ({percents(teacher)}) saw all {images} labels in every row. Mean ± sample standard deviation "
        f"over {seeds} seeds, on {examples} test images.\n"
    )


def percents(value: Statistic) -> str:
    """``"96.1 ± 1.3 %"``."""
    spread = "" if value.spread is None else f" ± {100 * value.spread:.1f}"
    return f"{100 * value.mean:.1f}{spread} %"


if __name__ == "__main__":
    sys.exit(main())
