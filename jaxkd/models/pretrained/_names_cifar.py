"""What the code behind the CIFAR-100 tables (RepDistiller) calls the layers of its networks."""

import re
from collections.abc import Sequence
from typing import Any


def number(name: str) -> int:
    """The digits of a module's name: 12 of ``"block12"``."""
    return int(re.sub(r"\D", "", name))


def resnet(module: Any, layers: Sequence[str], shortcut: str, classifier: str) -> str | None:
    """Names a layer of a residual network; torchvision's are as those of the basic blocks."""
    match layers:
        case ["classifier"]:
            return classifier
        case ["stem", kind]:
            return _conv_or_norm(kind, 1)
        case [stage, block, "shortcut", kind]:
            return f"layer{number(stage)}.{number(block) - 1}.{shortcut}.{int(kind == 'norm')}"
        case [stage, block, conv, kind]:
            return f"layer{number(stage)}.{number(block) - 1}.{_conv_or_norm(kind, number(conv))}"
    return None


def wide_resnet(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of a wide residual network."""
    match layers:
        case [("classifier" | "stem" | "norm") as layer]:
            return {"classifier": "fc", "stem": "conv1", "norm": "bn1"}[layer]
        case [stage, block, "shortcut"]:
            return f"block{number(stage)}.layer.{number(block) - 1}.convShortcut"
        case [stage, block, layer]:
            kind = "norm" if layer.startswith("norm") else "conv"
            return f"block{number(stage)}.layer.{number(block) - 1}.{_conv_or_norm(kind, number(layer))}"
    return None


def vgg(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of VGG, where a stage is a row of convolution, norm, ReLU, convolution ..."""
    match layers:
        case ["classifier"]:
            return "classifier"
        case [stage, layer, kind]:
            return f"block{number(stage)}.{3 * (number(layer) - 1) + (kind == 'norm')}"
    return None


def mobilenet(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of MobileNetV2, where a block is a row of convolution, norm, ReLU, convolution ..."""
    match layers:
        case ["classifier"]:
            return "classifier.0"
        case [("stem" | "last") as end, kind]:
            return f"conv{1 if end == 'stem' else 2}.{int(kind == 'norm')}"
        case [group, block, layer, kind]:
            place = 3 * ("expand", "depthwise", "project").index(layer) + (kind == "norm")
            return f"blocks.{number(group) - 1}.{number(block) - 1}.conv.{place}"
    return None


def shufflenet(module: Any, layers: Sequence[str], halving: Sequence[str]) -> str | None:
    """Names a layer of a ShuffleNet; they are numbered in a unit, and ``halving`` are those of a stage's first one."""
    match layers:
        case ["classifier"]:
            return "linear"
        case [("stem" | "last") as end, kind]:
            return _conv_or_norm(kind, 1 if end == "stem" else 2)
        case [stage, unit, layer, kind]:
            names = halving if number(unit) == 1 else ("reduce", "depthwise", "expand")
            return f"layer{number(stage)}.{number(unit) - 1}.{_conv_or_norm(kind, names.index(layer) + 1)}"
    return None


def _conv_or_norm(kind: str, place: int) -> str:
    return f"{'conv' if kind == 'conv' else 'bn'}{place}"
