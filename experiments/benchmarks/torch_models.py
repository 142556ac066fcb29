"""What forward + backward of a ResNet and of a ViT take here, against the same network in torch, in one run.

    python experiments/benchmarks/torch_models.py [--rounds 20] [--only NAME ...] [--json PATH]

Needs torch, torchvision and timm (the extra ``originals``), which jaxkd never imports. The originals are torchvision's
ResNet-18 at 64x64, its basic blocks in three stages as ResNet-20 and ResNet-8x4 for CIFAR at 32x32, and timm's ViT-tiny
at 224x224, as they come: eager, NCHW, float32. Our models get the originals' weights, and the same images and labels.

What is timed is the cross-entropy of the logits in training mode and its gradient with respect to all weights; torch
sets its threads to the cores that this process may use, which XLA takes by itself. Rounds of both go by turns (A B B A
...); printed are the medians, the median of the ratios of neighbours with its quartiles, and how far losses and
gradients are apart: a rival that computes something else is no rival.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timm
import torch
import torchvision
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torchvision.models.resnet import BasicBlock

from jaxkd import models
from jaxkd.models import pretrained

PyTree = Any


class Case(NamedTuple):
    """A model of the zoo by its name, the original, and what they are given."""

    name: str
    classes: int
    original: Callable[[], torch.nn.Module]
    batch_size: int
    image_size: int


class CifarResNet(torch.nn.Module):
    """Three stages of torchvision's basic blocks; its names are those of the code behind the CIFAR tables."""

    def __init__(self, blocks: int, stem: int, widths: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(stem)
        entering = stem
        for stage, width in enumerate(widths, 1):
            layers = []
            for i in range(blocks):
                stride = 2 if stage > 1 and i == 0 else 1
                shortcut = None
                if stride > 1 or entering != width:
                    shortcut = torch.nn.Sequential(
                        torch.nn.Conv2d(entering, width, 1, stride, bias=False), torch.nn.BatchNorm2d(width)
                    )
                layers.append(BasicBlock(entering, width, stride, shortcut))
                entering = width
            setattr(self, f"layer{stage}", torch.nn.Sequential(*layers))
        self.fc = torch.nn.Linear(entering, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


CASES = (
    Case("resnet20", 100, lambda: CifarResNet(3, 16, (16, 32, 64), 100), 64, 32),
    Case("resnet8x4", 100, lambda: CifarResNet(1, 32, (64, 128, 256), 100), 64, 32),
    Case("resnet18", 1000, lambda: torchvision.models.resnet18(weights=None), 16, 64),
    Case("vit_tiny", 1000, lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False), 8, 224),
)


def of_jaxkd(case: Case, tensors: dict[str, np.ndarray], image: np.ndarray, label: np.ndarray) -> Callable[[], Any]:
    """``() -> (loss, gradients)``, compiled."""
    module = models.create(case.name, case.classes)
    variables = jax.tree.map(jnp.asarray, pretrained.convert(module, tensors, image.shape[1:]))

    def loss_of(params: PyTree, rest: PyTree, image: jax.Array, label: jax.Array) -> tuple[jax.Array, PyTree]:
        logits, updated = module.apply({**rest, "params": params}, image, train=True, mutable=["batch_stats"])
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label).mean(), updated

    rest = {name: leaf for name, leaf in variables.items() if name != "params"}
    arguments = (variables["params"], rest, jnp.asarray(image), jnp.asarray(label))
    compiled = jax.jit(jax.value_and_grad(loss_of, has_aux=True)).lower(*arguments).compile()

    def run() -> tuple[jax.Array, PyTree]:
        (loss, _), grads = jax.block_until_ready(compiled(*arguments))
        return loss, grads

    return run


def of_torch(model: torch.nn.Module, image: np.ndarray, label: np.ndarray) -> Callable[[], Any]:
    """``() -> (loss, gradients by name)``."""
    x, y = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()), torch.from_numpy(label)
    model.train()

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}

    return run


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """All that is said of a case."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    image = rng.standard_normal((case.batch_size, case.image_size, case.image_size, 3)).astype(np.float32)
    label = rng.integers(0, case.classes, case.batch_size)
    original = case.original()
    tensors = {
        name: x.numpy().copy() for name, x in original.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    sides = {"jaxkd": of_jaxkd(case, tensors, image, label), "torch": of_torch(original, image, label)}
    load = os.getloadavg()[0]

    # Also the warm-up, and the proof that both do the same.
    (loss, grads), (their_loss, their_grads) = sides["jaxkd"](), sides["torch"]()
    statistics_kept = {name: tensors[name] for name in tensors if name not in their_grads}
    theirs = pretrained.convert(
        models.create(case.name, case.classes),
        {name: x.numpy() for name, x in their_grads.items()} | statistics_kept,
        image.shape[1:],
    )["params"]
    # Of all weights together: some gradients are 0 but for rounding, as that of the bias of attention's keys.
    apart = optax.tree.norm(jax.tree.map(np.subtract, grads, theirs)) / optax.tree.norm(theirs)

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds):
        # Who comes first changes, so that no one profits from what the other left in the caches.
        for name in ("jaxkd", "torch") if i % 2 else ("torch", "jaxkd"):
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    ratios = np.divide(seconds["jaxkd"], seconds["torch"])
    return {
        "name": case.name,
        "input": list(image.shape),
        "milliseconds": {name: 1e3 * statistics.median(values) for name, values in seconds.items()},
        "ratio": dict(zip(("q25", "median", "q75"), np.quantile(ratios, (0.25, 0.5, 0.75)).tolist(), strict=True)),
        "apart": {"loss": abs(float(loss) - float(their_loss)), "gradient": float(apart)},
        "load": load,
    }


def main() -> None:
    """Measures, prints the table, and writes the file if one is asked for."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each, by turns")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="models to measure")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds is at least 1")

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    console = Console(width=120)
    chosen = [case for case in CASES if case.name in arguments.only]
    results = [measure(case, arguments.rounds) for case in track(chosen, "measuring", console=console)]
    table = Table(title=f"forward + backward, {arguments.rounds} interleaved rounds, {threads} threads")
    for column in ("model", "input", "jaxkd, ms", "torch, ms", "ratio (quartiles)", "loss, gradient apart", "load"):
        table.add_column(column, justify="right" if table.columns else "left")
    for r in results:
        ratio, apart = r["ratio"], r["apart"]
        table.add_row(
            r["name"],
            "x".join(map(str, r["input"])),
            *(f"{r['milliseconds'][name]:.1f}" for name in ("jaxkd", "torch")),
            f"{ratio['median']:.2f} ({ratio['q25']:.2f} to {ratio['q75']:.2f})",
            f"{apart['loss']:.0e}, {apart['gradient']:.0e}",
            f"{r['load']:.1f}",
        )
    console.print(table)
    versions = {
        "jax": jax.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
    }
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if arguments.json is not None:
        found = {"versions": versions, "threads": threads, "results": results}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
