"""The command line: ``jaxkd distill``, ``search``, ``benchmark`` and the rest; ``jaxkd --help`` lists them."""

import contextlib
import dataclasses
import logging
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

try:
    import tyro
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from jaxkd import data, jobs
    from jaxkd._listings import list_datasets, list_losses, list_methods, list_models, list_pairs, print_table
    from jaxkd.deployment import ExportError
    from jaxkd.jobs import BenchmarkConfig, DistillConfig, RunError, RunOptions, SearchSpace
    from jaxkd.networks import UnknownTapError
    from jaxkd.training import DivergedError, InterruptedTraining
    from jaxkd.training.checkpoints import CheckpointError
except ModuleNotFoundError as missing:
    # An installed command says it in one line; whoever imports this module sees the error itself.
    if __name__ == "jaxkd.cli" and Path(sys.argv[0]).name == "jaxkd":
        sys.exit(f'error: the command line needs the extra "demo" (no {missing.name}): pip install "jaxkd[demo]"')
    raise

# How to print what is copied from the terminal: neither wrapped nor read as markup.
_AS_IT_IS: Any = {"soft_wrap": True, "markup": False}

_Quantize = Annotated[Literal["int8"] | None, tyro.conf.arg(metavar="int8", help_behavior_hint="(default: it is not)")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      The exit code: 0; 1 after an error, told in one line; 128 + its number after a signal, when all is saved.
    """
    commands: dict[str, Callable[..., Any]] = {
        "distill": distill,
        "search": search,
        "benchmark": benchmark,
        "evaluate": evaluate,
        "export": export,
        "prepare": prepare,
        "methods": list_methods,
        "losses": list_losses,
        "models": list_models,
        "pairs": list_pairs,
        "datasets": list_datasets,
    }
    # Orbax logs a save that failed with pages of tracebacks, before it raises what is told in one line here.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            args=arguments,
            prog="jaxkd",
            description="Knowledge distillation in JAX. `jaxkd distill` alone shows it on real images.",
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except InterruptedTraining as stopped:
        return 128 + signal.Signals[stopped.reason]
    except BrokenPipeError:
        # Whoever read the output (`| head`) has enough. What is still buffered would raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("stopped at once; what was saved before is there, see --resume", file=sys.stderr)
        return 128 + signal.SIGINT
    except (
        RunError,
        ExportError,
        CheckpointError,
        DivergedError,
        UnknownTapError,
        ValueError,
        OSError,
        ImportError,
    ) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def distill(training: DistillConfig, run: RunOptions, quantize: _Quantize = None) -> None:
    """Train (or find) a teacher, train a student alone and a student with the teacher, and compare them.

    Everything is written to a directory below --workdir: settings, metrics, checkpoints, report.html. Interrupted by
    Ctrl-C or SIGTERM it saves and says how to go on.

    Args:
      training: What to train.
      run: Where.
      quantize: Compare the distilled student in int8, too.
    """
    console = Console()
    with _running(console, "distill", run, *(["--quantize", quantize] if quantize else [])) as screen:
        outcome = jobs.distill(training, run, screen, quantize)
    console.print(outcome.comparison.table())
    console.print(outcome.comparison.verdict())
    console.print(f"report: {outcome.run / 'report.html'}", **_AS_IT_IS)


def search(space: SearchSpace, training: DistillConfig, run: RunOptions) -> None:
    """Search the learning rate and the method's numbers: each point from several seeds, all points in one program.

    `jaxkd search --grid temperature=1,2,4,8,16 --grid alpha=.1,.3,.5,.7,.9`, or `jaxkd search --random 20 --range
    learning_rate=1e-4:1e-2:log`. Chosen on the validation split, first of equals; the test split is looked at after
    that. A directory like that of `jaxkd distill`, with search.json and search.md.
    """
    console = Console()
    with _running(console, "search", run) as screen:
        found = jobs.search(space, training, run, screen)
    head, *rows = found.surface.rows()
    print_table(head, rows)
    console.print(found.surface.verdict())
    console.print(f"{found.surface.footnote()}.")
    console.print(f"report: {found.run / 'report.html'}", **_AS_IT_IS)


def benchmark(comparison: BenchmarkConfig, run: RunOptions) -> None:
    """Train many methods alike, and hold each against KD: an implementation check, not a ranking.

    Writes the table as benchmark.md and benchmark.json, and as a picture with error bars.
    """
    console = Console()
    with _running(console, "benchmark", run) as screen:
        path, table = jobs.benchmark(comparison, run, screen)
    for sentence in table.verdict():
        console.print(sentence, markup=False)
    console.print(f"table: {path / 'benchmark.md'}", **_AS_IT_IS)


@contextlib.contextmanager
def _running(console: Console, command: str, options: RunOptions, *more: str) -> "Iterator[_Screen]":
    """Draws a job, and says how to go on with one that was interrupted."""
    with _Screen(console) as screen:
        try:
            yield screen
        except InterruptedTraining as stopped:
            resume = _to_resume([command, *more], options, screen.run)
            console.print(f"{stopped}; all is saved, go on with: {resume}", **_AS_IT_IS)
            raise


def _to_resume(command: Sequence[str], options: RunOptions, run: str) -> str:
    """The command that goes on with a run, as it was started."""
    words = ["jaxkd", *command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name not in ("name", "resume") and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join([*words, "--resume", run])


def evaluate(
    run: tyro.conf.Positional[str],
    split: Literal["train", "validation", "test"] = "test",
    workdir: str = "runs",
    data_dir: str | None = None,
    quantize: _Quantize = None,
) -> None:
    """Compare the results of a finished run again.

    Args:
      run: Name of the run.
      split: Split of its data set to evaluate on.
      workdir: Directory of all runs.
      data_dir: Directory of the data sets.
      quantize: Compare the distilled student in int8, too.
    """
    console = Console()
    comparison = jobs.evaluate(Path(workdir) / run, split, data_dir, quantize)
    console.print(comparison.table())
    console.print(comparison.verdict())


def export(
    run: tyro.conf.Positional[str],
    format: Literal["stablehlo", "savedmodel", "onnx", "safetensors"] = "stablehlo",
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: in the run's)")] = None,
    seed: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: the best on the validation split)")] = None,
    workdir: str = "runs",
    data_dir: str | None = None,
) -> None:
    """Write the student of a finished run as a program that runs elsewhere, and check that it gives its logits.

    The file is read again, run on test images one at a time and many at once, and left only if it gives the student's
    logits. Beside it is export.json: inputs, normalisation, size, errors and latencies, which the report has, too.

    Args:
      run: Name of the run.
      format: What to write.
      output: Directory to make for it.
      seed: Which of the distilled students.
      workdir: Directory of all runs.
      data_dir: Directory of the data sets.
    """
    about = jobs.export(Path(workdir) / run, format, output, seed, data_dir)
    config = about["config"]
    how = "the best" if seed is None and "validation_accuracy" in config else "as asked for"
    accuracy = f", {100 * config['validation_accuracy']:.1f} % on the validation split" if how == "the best" else ""
    print(f"student of seed {config['seed']}: {how}{accuracy}")
    batches = ", ".join(f"batch {one['batch']}: {one['median'] * 1e6:,.0f} µs" for one in about["latency"])
    print(f"{about['bytes']:,} bytes; logits off by {about['check']['max_relative_error']:.1e}; {batches}")
    print(f"{format}: {about['path']}")


def prepare(dataset: tyro.conf.Positional[str], data_dir: str | None = None) -> None:
    """Download a data set and prepare it through TFDS, once.

    Args:
      dataset: Name of the data set.
      data_dir: Directory of the data sets.
    """
    data.prepare(dataset, data_dir=data_dir)
    print(f"{dataset} is ready")


class _Screen:
    """Draws a job's progress, and turns Ctrl-C and SIGTERM into a request to stop after the chunk under way."""

    def __init__(self, console: Console):
        self.run = ""
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=console,
        )
        self._tasks: dict[str, Any] = {}
        self._signal: str | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Screen":
        self._stack.enter_context(self._progress)
        self._stack.enter_context(_signals(self._received))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def started(self, run: Path) -> None:
        self.run = run.name
        self._console.print(f"run: {run}", **_AS_IT_IS)

    def phase(self, name: str, steps: int, start: int) -> None:
        self._tasks[name] = self._progress.add_task(name, total=steps, completed=start, loss="")

    def chunk(self, name: str, step: int, metrics: Mapping[str, Any]) -> None:
        loss = metrics["loss"][-1]
        # Of a search: without the points that have diverged, unless all have.
        loss = loss[loss < math.inf] if (loss < math.inf).any() else loss
        self._progress.update(self._tasks[name], completed=step, loss=f"loss {loss.mean():.4f}")

    def note(self, text: str) -> None:
        self._console.print(text, **_AS_IT_IS)

    def stop(self, step: int) -> str | None:
        return self._signal

    def _received(self, name: str) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = name
        self._console.print(f"{name}: saving at the end of this chunk of steps; once more stops at once")


@contextlib.contextmanager
def _signals(receive: Any) -> Iterator[None]:
    """Hands Ctrl-C and SIGTERM to ``receive(name)`` for as long as it lasts."""

    def handle(number: int, frame: FrameType | None) -> None:
        receive(signal.Signals(number).name)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
