"""Writes the tables of all runs of a working directory beside the published ones, as Markdown: ``table.py > table.md``.

A cell is the accuracy on the test split after the last epoch, its mean over seeds with their standard deviation, and
below it the published number.
"""

import argparse
from pathlib import Path

import configs

from jaxkd.evaluation import Comparison, Entry


def entries(workdir: Path) -> dict[tuple[str, str], Entry]:
    """What was trained, by pair and row: a method, ``"alone"`` or ``"teacher"``. The first seed of a cell counts."""
    found: dict[tuple[str, str], Entry] = {}
    for pair in configs.PAIRS:
        for method in configs.PUBLISHED:
            for path in sorted(workdir.glob(f"{pair}-{method}-*/comparison.json")):
                comparison = Comparison.from_json(path.read_text())
                rows = {"teacher": comparison.teacher, **{entry.name: entry for entry in comparison.students}}
                rows[method] = rows.pop("distilled")
                for row in ("teacher", "alone", method):
                    if row in rows:
                        found.setdefault((pair, row), rows[row])
    return found


def table(workdir: Path) -> str:
    """Two tables, of pairs of one kind and of two, as in the paper."""
    found = entries(workdir)
    published = {
        **{(pair, "teacher"): numbers.of_teacher for pair, numbers in configs.PAIRS.items()},
        **{(pair, "alone"): numbers.of_student for pair, numbers in configs.PAIRS.items()},
        **{(pair, method): x for method, numbers in configs.PUBLISHED.items() for pair, x in numbers.items()},
    }
    lines = []
    for pairs in (list(configs.PAIRS)[:7], list(configs.PAIRS)[7:]):
        lines += ["| | " + " | ".join(pairs) + " |", "|---" * (len(pairs) + 1) + "|"]
        for row in ("teacher", "alone", *configs.PUBLISHED):
            cells = [_cell(found.get((pair, row)), published.get((pair, row))) for pair in pairs]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(entry: Entry | None, published: float | None) -> str:
    number = "" if published is None else f"published {published:.2f}"
    if entry is None:
        return number
    accuracy = f"**{100 * entry.accuracy.mean:.2f}**"
    if entry.accuracy.spread is not None:
        accuracy += f" ± {100 * entry.accuracy.spread:.2f} ({entry.accuracy.n})"
    return f"{accuracy}<br>{number}" if number else accuracy


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/cifar100", help="directory of all runs (default: runs/cifar100)")
    print(table(Path(parser.parse_args().workdir)))


if __name__ == "__main__":
    main()
