"""What others call the variables of the zoo's models, and how their tensors become ours."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from jaxkd import models
from jaxkd.models.pretrained import _names_cifar, _names_images, _names_text


class Source(NamedTuple):
    """Where a variable comes from.

    Attributes:
      name: of the tensor.
      part: which third of its first axis is meant, or None: all of it.
    """

    name: str
    part: int | None = None


# By our module: our path of a layer to the others' name of it, or None where there is no such layer.
_LAYERS: Mapping[type[nn.Module], Callable[[Any, Sequence[str]], str | None]] = {
    models.CifarResNet: functools.partial(_names_cifar.resnet, shortcut="downsample", classifier="fc"),
    models.CifarBottleneckResNet: functools.partial(_names_cifar.resnet, shortcut="shortcut", classifier="linear"),
    models.WideResNet: _names_cifar.wide_resnet,
    models.VGG: _names_cifar.vgg,
    models.CifarMobileNetV2: _names_cifar.mobilenet,
    models.ShuffleNetV1: functools.partial(_names_cifar.shufflenet, halving=("reduce", "depthwise", "expand")),
    models.ShuffleNetV2: functools.partial(
        _names_cifar.shufflenet, halving=("left_depthwise", "left_expand", "reduce", "depthwise", "expand")
    ),
    models.ImageNetResNet: functools.partial(_names_cifar.resnet, shortcut="downsample", classifier="fc"),
    models.BiT: _names_images.bit,
    models.MobileNetV1: _names_images.mobilenet_v1,
    models.MobileNetV2: _names_images.mobilenet_v2,
    models.EfficientNet: _names_images.efficientnet,
    models.ViT: _names_images.vit,
    models.BERT: _names_text.bert,
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "class_token": "cls_token",
    "distillation_token": "dist_token",
    "position": "pos_embed",
}
# What is saved beside the weights: counters, positions that count up, and the heads of BERTs' pretraining.
_BESIDE = re.compile(
    r".*num_batches_tracked|(.*\.)?position_ids|(cls|lm_head)\..*|vocab_(transform|layer_norm|projector)\..*"
)


def source(module: nn.Module, path: Sequence[str]) -> Source:
    """Returns the tensor that a variable comes from.

    Args:
      module: a model of the zoo.
      path: of the variable, without its collection: ``("stage1", "block1", "conv1", "conv", "kernel")``.

    Raises:
      ValueError: if no names are known for models of this class, or for this path.
    """
    name_of = _LAYERS.get(type(module))
    if name_of is None:
        known = ", ".join(kind.__name__ for kind in _LAYERS)
        raise ValueError(f"no foreign names are known for a {type(module).__name__}; they are for {known}")
    *layers, leaf = path
    layer = name_of(module, layers)
    if layer is None:
        raise ValueError(f"no foreign name is known for {'/'.join(path)} of a {type(module).__name__}")
    part = ("query", "key", "value").index(layers[-1]) if layer.endswith("attn.qkv") else None
    return Source(f"{layer}.{_LEAVES[leaf]}" if layer else _LEAVES[leaf], part)


def weights(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out what is saved beside a model's weights, and the name that others give to the whole of a BERT."""
    named = {re.sub(r"^(bert|distilbert|roberta)\.", "", name): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in named.items() if not _BESIDE.fullmatch(name)}


def to_flax(tensor: np.ndarray, axes: int) -> np.ndarray:
    """Turns a weight into a kernel of so many axes: [out, in, height, width] to [height, width, in, out].

    A dense kernel is [in, out], of a tensor [out, in] or a 1x1 convolution's. Arrays of other ranks stay as they are.
    """
    if axes == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if axes == 4 and tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T if axes == 2 else tensor
