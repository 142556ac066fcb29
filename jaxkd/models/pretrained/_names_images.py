"""What torchvision and timm call the layers of networks for ImageNet."""

from collections.abc import Sequence
from typing import Any

from jaxkd.models.pretrained._names_cifar import number


def bit(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of timm's ResNetV2."""
    match layers:
        case [("classifier" | "stem" | "norm") as layer]:
            return {"classifier": "head.fc", "stem": "stem.conv", "norm": "norm"}[layer]
        case [stage, block, layer]:
            inner = "downsample.conv" if layer == "shortcut" else layer
            return f"stages.{number(stage) - 1}.blocks.{number(block) - 1}.{inner}"
    return None


def mobilenet_v1(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of timm's MobileNetV1."""
    match layers:
        case ["classifier"]:
            return "classifier"
        case ["stem", kind]:
            return "conv_stem" if kind == "conv" else "bn1"
        case [group, layer, kind]:
            depthwise = layer.startswith("depthwise")
            names = {"conv": "conv_dw", "norm": "bn1"} if depthwise else {"conv": "conv_pw", "norm": "bn2"}
            return f"blocks.{number(group) - 1}.{number(layer) - 1}.{names[kind]}"
    return None


def mobilenet_v2(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of torchvision's MobileNetV2, whose blocks are numbered through all groups."""
    blocks = [group[2] for group in module.groups]
    match layers:
        case ["classifier"]:
            return "classifier.1"
        case [("stem" | "final") as end, kind]:
            return f"features.{0 if end == 'stem' else 1 + sum(blocks)}.{int(kind == 'norm')}"
        case [group, block, layer, kind]:
            row = number(group) - 1
            place = f"features.{1 + sum(blocks[:row]) + number(block) - 1}.conv"
            first = _depthwise_place(module, row)
            if layer == "project":  # the only one that is in no container of its own
                return f"{place}.{first + 1 + int(kind == 'norm')}"
            return f"{place}.{0 if layer == 'expand' else first}.{int(kind == 'norm')}"
    return None


def efficientnet(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of torchvision's EfficientNet."""
    match layers:
        case ["classifier"]:
            return "classifier.1"
        case [("stem" | "final") as end, kind]:
            return f"features.{0 if end == 'stem' else 1 + len(module.groups)}.{int(kind == 'norm')}"
        case [group, block, layer, kind]:
            first = _depthwise_place(module, number(group) - 1)
            place = {"expand": 0, "depthwise": first, "gate": first + 1, "project": first + 2}[layer]
            inner = {"conv": "0", "norm": "1", "squeeze": "fc1", "excite": "fc2"}[kind]
            return f"features.{number(group)}.{number(block) - 1}.block.{place}.{inner}"
    return None


def _depthwise_place(module: Any, group: int) -> int:
    """The depthwise convolution is a block's second layer, or its first where nothing is expanded."""
    return int(module.groups[group][0] != 1)


def vit(module: Any, layers: Sequence[str]) -> str | None:
    """Names a layer of timm's vision transformers, where queries, keys and values are one."""
    ends = {
        "tokens": "",
        "tokens/patches": "patch_embed.proj",
        "norm": "norm",
        "classifier": "head",
        "distillation_classifier": "head_dist",
    }
    inner = {
        "attention/query": "attn.qkv",
        "attention/key": "attn.qkv",
        "attention/value": "attn.qkv",
        "attention/out": "attn.proj",
        "attention_norm": "norm1",
        "feed_forward/in": "mlp.fc1",
        "feed_forward/out": "mlp.fc2",
        "feed_forward_norm": "norm2",
    }
    if "/".join(layers) in ends:
        return ends["/".join(layers)]
    name = inner.get("/".join(layers[1:]))
    return None if name is None else f"blocks.{number(layers[0]) - 1}.{name}"
