"""Writes the golden arrays: what the published PyTorch code makes of the weights and images of ``golden``.

``python -m tests.models.make_golden FOLDER``, from the root of the repository and with torch, where FOLDER is
``models`` of a checkout of https://github.com/HobbitLong/RepDistiller. It also prints the parameters of that code's
full-size networks for 100 classes, which ``Family.published`` has.

The running variance of PyTorch is unbiased, that of Flax is not: what is written is Flax's, (n - 1) / n of what a
training step has added.
"""

import importlib.util
import re
import sys
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from . import golden


def sources(folder):
    """By family: the small network of the published code, and its full-size ones by our names."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, Path(folder) / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    resnet, wrn, vgg, resnet50 = load("resnet"), load("wrn"), load("vgg"), load("resnetv2")
    mobilenet, shuffle1, shuffle2 = load("mobilenetv2"), load("ShuffleNetv1"), load("ShuffleNetv2")
    shuffle2.configs["small"] = {"out_channels": (12, 24, 48, 40), "num_blocks": (1, 1, 1)}
    c = golden.CLASSES
    small = {
        "cifar_resnet": resnet.ResNet(14, [16, 16, 32, 64], num_classes=c),
        "wide_resnet": wrn.WideResNet(16, c, 1),
        "vgg": vgg.VGG([[4], [8, 8], [8], [12], [512]], batch_norm=True, num_classes=c),
        "cifar_mobilenet": mobilenet.MobileNetV2(2, c, width_mult=0.25),
        "shufflenet_v1": shuffle1.ShuffleNet({"out_planes": [36, 72, 144], "num_blocks": [2, 1, 1], "groups": 3}, c),
        "shufflenet_v2": shuffle2.ShuffleNetV2("small", c),
        "cifar_bottleneck_resnet": resnet50.ResNet(resnet50.Bottleneck, [2, 1, 1, 1], c),
    }
    narrow, wide = [16, 16, 32, 64], [32, 64, 128, 256]
    full = {
        **{f"resnet{d}": resnet.ResNet(d, narrow, num_classes=100) for d in (8, 14, 20, 32, 44, 56, 110)},
        **{f"resnet{d}x4": resnet.ResNet(d, wide, num_classes=100) for d in (8, 32)},
        **{f"wrn_{d}_{w}": wrn.WideResNet(d, 100, w) for d in (16, 40) for w in (1, 2)},
        **{
            f"vgg{d}": vgg.VGG(vgg.cfg[letter], batch_norm=True, num_classes=100)
            for d, letter in zip((8, 11, 13, 16, 19), "SABDE", strict=True)
        },
        "mobilenet_v2_half": mobilenet.MobileNetV2(6, 100, width_mult=0.5),
        "shufflenet_v1": shuffle1.ShuffleNet(
            {"out_planes": [240, 480, 960], "num_blocks": [4, 8, 4], "groups": 3}, num_classes=100
        ),
        "shufflenet_v2": shuffle2.ShuffleNetV2(1, num_classes=100),
        "resnet50_cifar": resnet50.ResNet(resnet50.Bottleneck, [3, 4, 6, 3], num_classes=100),
    }
    return small, full


def _residual(shortcut, classifier):
    """Names of ResNets: ours are patterns, theirs are made of what these matched."""
    return {
        r"stem/(conv|norm)": lambda kind: f"{_LETTERS[kind]}1",
        r"stage(\d)/block(\d+)/shortcut/(conv|norm)": lambda s, b, kind: (
            f"layer{s}.{int(b) - 1}.{shortcut}.{int(kind == 'norm')}"
        ),
        r"stage(\d)/block(\d+)/conv(\d)/(conv|norm)": lambda s, b, i, kind: (
            f"layer{s}.{int(b) - 1}.{_LETTERS[kind]}{i}"
        ),
        "classifier": lambda: classifier,
    }


def _shuffled(numbers):
    """Names of ShuffleNets, where convolutions of a unit are numbered."""
    return {
        r"stem/(conv|norm)": lambda kind: f"{_LETTERS[kind]}1",
        r"stage(\d)/unit(\d+)/(\w+)/(conv|norm)": lambda s, u, name, kind: (
            f"layer{s}.{int(u) - 1}.{_LETTERS[kind]}{numbers(int(u))[name]}"
        ),
        r"last/(conv|norm)": lambda kind: f"{_LETTERS[kind]}2",
        "classifier": lambda: "linear",
    }


_LETTERS = {"conv": "conv", "norm": "bn"}
_UNIT = {"reduce": 1, "depthwise": 2, "expand": 3}
_HALVING_UNIT = {"left_depthwise": 1, "left_expand": 2, "reduce": 3, "depthwise": 4, "expand": 5}
NAMES = {
    "cifar_resnet": _residual("downsample", "fc"),
    "cifar_bottleneck_resnet": _residual("shortcut", "linear"),
    "wide_resnet": {
        "stem": lambda: "conv1",
        r"stage(\d)/block(\d+)/norm(\d)": lambda s, b, i: f"block{s}.layer.{int(b) - 1}.bn{i}",
        r"stage(\d)/block(\d+)/conv(\d)": lambda s, b, i: f"block{s}.layer.{int(b) - 1}.conv{i}",
        r"stage(\d)/block(\d+)/shortcut": lambda s, b: f"block{s}.layer.{int(b) - 1}.convShortcut",
        "norm": lambda: "bn1",
        "classifier": lambda: "fc",
    },
    "vgg": {
        r"stage(\d)/layer(\d)/(conv|norm)": lambda s, i, kind: f"block{s}.{3 * (int(i) - 1) + (kind == 'norm')}",
        "classifier": lambda: "classifier",
    },
    "cifar_mobilenet": {
        r"stem/(conv|norm)": lambda kind: f"conv1.{int(kind == 'norm')}",
        r"group(\d)/block(\d)/(\w+)/(conv|norm)": lambda g, b, name, kind: (
            f"blocks.{int(g) - 1}.{int(b) - 1}.conv."
            f"{3 * ('expand', 'depthwise', 'project').index(name) + (kind == 'norm')}"
        ),
        r"last/(conv|norm)": lambda kind: f"conv2.{int(kind == 'norm')}",
        "classifier": lambda: "classifier.0",
    },
    "shufflenet_v1": _shuffled(lambda unit: _UNIT),
    "shufflenet_v2": _shuffled(lambda unit: _HALVING_UNIT if unit == 1 else _UNIT),
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def torch_name(family, path):
    """``"params/stage1/block1/conv1/norm/scale"`` -> ``"layer1.0.bn1.weight"``."""
    module, _, leaf = path.partition("/")[2].rpartition("/")
    for pattern, name in NAMES[family].items():
        if match := re.fullmatch(pattern, module):
            return f"{name(*match.groups())}.{_LEAVES[leaf]}"
    raise KeyError(path)


def run(family, network, seed=0):
    """The golden arrays of a family, of its network in the published code and weights drawn with this seed."""
    import torch

    drawn = flatten_dict(golden.variables(family, seed), sep="/")
    paths = {torch_name(family, path): path for path in drawn}
    assert len(paths) == len(drawn)
    state = {}
    for name, path in paths.items():
        x = drawn[path]
        if path.endswith("/kernel"):
            x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
        state[name] = torch.from_numpy(np.ascontiguousarray(x))
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)

    image = torch.from_numpy(golden.image(family).transpose(0, 3, 1, 2).copy())
    arrays = {}
    with torch.no_grad():
        network.eval()
        features, logits = network(image, is_feat=True)
        before, _ = network(image, is_feat=True, preact=True)
        arrays["logits"] = logits.numpy()
        arrays["penultimate"] = golden.digest(features[-1].numpy())
        # The first is of the stem, the last the pooled one.
        for i, (after, pre) in enumerate(zip(features[1:-1], before[1:-1], strict=True)):
            arrays[f"stages[{i}]"] = golden.digest(after.numpy().transpose(0, 2, 3, 1))
            arrays[f"pre_relu[{i}]"] = golden.digest(pre.numpy().transpose(0, 2, 3, 1))
        network.train()
        counts = {}
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_hook(
                    lambda _, inputs, __, name=name: counts.update({name: inputs[0].numel() // inputs[0].shape[1]})
                )
        arrays["train_logits"] = network(image).numpy()
    updated = {}
    for name, x in network.state_dict().items():
        path = paths.get(name, "")
        if not path.startswith("batch_stats/"):
            continue
        x = x.numpy().astype(np.float64)
        if path.endswith("/var"):
            kept, n = 0.9 * drawn[path], counts[name.rpartition(".")[0]]
            x = kept + (x - kept) * (n - 1) / n
        updated[path.partition("/")[2]] = x
    arrays["batch_stats"] = golden.digest_of_statistics(updated)
    return arrays


def main(folder):
    small, full = sources(folder)
    golden.file("").parent.mkdir(exist_ok=True)
    for family, network in small.items():
        arrays = {name: np.asarray(x, np.float32) for name, x in run(family, network).items()}
        np.savez_compressed(golden.file(family), **arrays)
        print(family, f"{golden.file(family).stat().st_size} bytes")
    for name, network in full.items():
        print(name, sum(parameter.numel() for parameter in network.parameters()))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main(sys.argv[1])
