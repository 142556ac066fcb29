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
      part: which third of its outputs is meant, or None: all of it.
      inputs_first: whether a weight is [in, out], as GPT-2's are, and not [out, in].
    """

    name: str
    part: int | None = None
    inputs_first: bool = False


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
    models.GPT2: _names_text.gpt2,
    models.T5: _names_text.t5,
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
_BESIDE = {
    models.BERT: r"(.*\.)?position_ids|(cls|lm_head)\..*|vocab_(transform|layer_norm|projector)\..*",
    # Masks, which are no floats.
    models.GPT2: r"h\.\d+\.attn\.(masked_)?bias",
    # Attention to the encoder has no distances; the first files had weights for them all the same.
    models.T5: r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
}
# What the whole of a model is called where a head stands beside it.
_WHOLE = {models.BERT: r"(bert|distilbert|roberta)\.", models.GPT2: r"transformer\."}
# Tensors that are saved once more under another name.
_COPIES: Mapping[type[nn.Module], Callable[[Any], Mapping[str, str]]] = {
    models.GPT2: lambda module: {"lm_head.weight": "wte.weight"},
    models.T5: _names_text.t5_copies,
}
# Of which variable the classes are told, by the length of its first axis.
_CLASSES = {models.GPT2: ("embedding", "word", "embedding"), models.T5: ("embedding", "embedding")}


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
    part = ("query", "key", "value").index(layers[-1]) if layer.endswith(("attn.qkv", "attn.c_attn")) else None
    name = f"{layer}.{_LEAVES[leaf]}" if layer else _LEAVES[leaf]
    return Source(name, part, inputs_first=isinstance(module, models.GPT2))


def classes(module: nn.Module, tensors: Mapping[str, np.ndarray]) -> int | None:
    """Tells for how many classes the weights of a model of this kind are; None if they do not say."""
    tensor = tensors.get(source(module, _CLASSES.get(type(module), ("classifier", "bias"))).name)
    return None if tensor is None or not tensor.ndim else len(tensor)


def weights(tensors: Mapping[str, np.ndarray], module: nn.Module) -> dict[str, np.ndarray]:
    """Leaves out what is saved beside a model's weights, and the name that others give to the whole of it.

    Of what is there twice, the copy is left out, if it is one: another tensor of that name stays.
    """
    kind = type(module)
    whole, beside = _WHOLE.get(kind), re.compile(rf".*num_batches_tracked|{_BESIDE.get(kind, '')}")
    named = {re.sub(f"^{whole}", "", name) if whole else name: tensor for name, tensor in tensors.items()}
    copies = _COPIES[kind](module) if kind in _COPIES else {}

    def is_copy(name: str) -> bool:
        original = named.get(copies.get(name, ""))
        return original is not None and np.array_equal(named[name], original)

    return {name: tensor for name, tensor in named.items() if not beside.fullmatch(name) and not is_copy(name)}


def part_of(tensor: np.ndarray, where: Source) -> np.ndarray:
    """Takes the third that is meant, where it is one."""
    axis = -1 if where.inputs_first else 0
    if where.part is None or not tensor.ndim or tensor.shape[axis] % 3:
        return tensor
    return np.split(tensor, 3, axis)[where.part]


def to_flax(tensor: np.ndarray, axes: int, inputs_first: bool = False) -> np.ndarray:
    """Turns a weight into a kernel of so many axes: [out, in, height, width] to [height, width, in, out].

    A dense kernel is [in, out], of a tensor [out, in] or a 1x1 convolution's, or already of that order. Arrays of other
    ranks stay as they are.
    """
    if inputs_first:
        return tensor
    if axes == 2 and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    if axes == 4 and tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T if axes == 2 else tensor
