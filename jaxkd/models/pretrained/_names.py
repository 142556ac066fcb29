"""What torchvision, timm and Hugging Face call the variables of the zoo's models."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from jaxkd.models._bert import BERT
from jaxkd.models._bit import BiT
from jaxkd.models._cifar_resnet import CifarResNet
from jaxkd.models._efficientnet import EfficientNet
from jaxkd.models._imagenet_resnet import ImageNetResNet
from jaxkd.models._mobilenet import MobileNetV1, MobileNetV2
from jaxkd.models._vit import ViT


class Source(NamedTuple):
    """Where a variable comes from.

    Attributes:
      name: of the tensor.
      part: which third of its first axis is meant, or None: all of it.
    """

    name: str
    part: int | None = None


_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "mean": "running_mean", "var": "running_var"}
# What is saved beside the weights: counters, positions that count up, and the heads of BERT's pretraining.
_BESIDE = re.compile(r".*num_batches_tracked|(.*\.)?position_ids|cls\..*|vocab_(transform|layer_norm|projector)\..*")


def source(module: nn.Module, path: Sequence[str]) -> Source:
    """Returns the tensor that a variable comes from.

    Args:
      module: a model of the zoo.
      path: of the variable, without its collection: ``("stage1", "block1", "conv1", "conv", "kernel")``.

    Raises:
      ValueError: if no names are known for models of this class.
    """
    name_of = _NAMES.get(type(module))
    if name_of is None:
        known = ", ".join(kind.__name__ for kind in _NAMES)
        raise ValueError(f"no foreign names are known for a {type(module).__name__}; they are for {known}")
    *layers, leaf = path
    return name_of(module, layers, _LEAVES.get(leaf, leaf))


def weights(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leaves out what is saved beside a model's weights, and the name that others give to the whole of a BERT."""
    named = {re.sub(r"^(distil)?bert\.", "", name): tensor for name, tensor in tensors.items()}
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


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _resnet(module: Any, layers: Sequence[str], leaf: str) -> Source:
    """Torchvision's ResNet, and the code behind the CIFAR tables."""
    match layers:
        case ["classifier"]:
            return Source(f"fc.{leaf}")
        case ["stem", kind]:
            return Source(f"{'conv1' if kind == 'conv' else 'bn1'}.{leaf}")
        case [stage, block, "shortcut", kind]:
            return Source(f"layer{_number(stage)}.{_number(block) - 1}.downsample.{int(kind == 'norm')}.{leaf}")
        case [stage, block, conv, kind]:
            place = f"layer{_number(stage)}.{_number(block) - 1}"
            return Source(f"{place}.{'conv' if kind == 'conv' else 'bn'}{_number(conv)}.{leaf}")
    raise _unknown(module, layers, leaf)


def _bit(module: Any, layers: Sequence[str], leaf: str) -> Source:
    """Timm's ResNetV2."""
    match layers:
        case ["classifier"]:
            return Source(f"head.fc.{leaf}")
        case ["stem"]:
            return Source(f"stem.conv.{leaf}")
        case ["norm"]:
            return Source(f"norm.{leaf}")
        case [stage, block, layer]:
            place = f"stages.{_number(stage) - 1}.blocks.{_number(block) - 1}"
            return Source(f"{place}.{'downsample.conv' if layer == 'shortcut' else layer}.{leaf}")
    raise _unknown(module, layers, leaf)


def _mobilenet_v1(module: Any, layers: Sequence[str], leaf: str) -> Source:
    """Timm's."""
    match layers:
        case ["classifier"]:
            return Source(f"classifier.{leaf}")
        case ["stem", kind]:
            return Source(f"{'conv_stem' if kind == 'conv' else 'bn1'}.{leaf}")
        case [group, layer, kind]:
            depthwise = layer.startswith("depthwise")
            names = {"conv": "conv_dw", "norm": "bn1"} if depthwise else {"conv": "conv_pw", "norm": "bn2"}
            return Source(f"blocks.{_number(group) - 1}.{_number(layer) - 1}.{names[kind]}.{leaf}")
    raise _unknown(module, layers, leaf)


def _inverted(module: Any, layers: Sequence[str], leaf: str, *, nested: bool) -> Source:
    """Torchvision's MobileNetV2, its blocks in one row, and EfficientNet, its blocks ``nested`` in groups."""
    blocks = [group[2] for group in module.groups] if not nested else []
    match layers:
        case ["classifier"]:
            return Source(f"classifier.1.{leaf}")
        case ["stem" | "final" as end, kind]:
            index = 0 if end == "stem" else 1 + (len(module.groups) if nested else sum(blocks))
            return Source(f"features.{index}.{int(kind == 'norm')}.{leaf}")
        case [group, block, layer, kind]:
            row, column = _number(group), _number(block) - 1
            # The layers are numbered; where there is no expansion they start one earlier.
            first = int(module.groups[row - 1][0] != 1)
            if nested:
                place = f"features.{row}.{column}.block"
                number = {"expand": 0, "depthwise": first, "gate": first + 1, "project": first + 2}[layer]
                inner = {"conv": "0", "norm": "1", "squeeze": "fc1", "excite": "fc2"}[kind]
                return Source(f"{place}.{number}.{inner}.{leaf}")
            place = f"features.{1 + sum(blocks[: row - 1]) + column}.conv"
            if layer == "project":  # in this network without a container of its own
                return Source(f"{place}.{first + 1 + int(kind == 'norm')}.{leaf}")
            return Source(f"{place}.{0 if layer == 'expand' else first}.{int(kind == 'norm')}.{leaf}")
    raise _unknown(module, layers, leaf)


def _vit(module: Any, layers: Sequence[str], leaf: str) -> Source:
    """timm's, whose queries, keys and values are one tensor."""
    tokens = {"class_token": "cls_token", "distillation_token": "dist_token", "position": "pos_embed"}
    ends = {"norm": "norm", "classifier": "head", "distillation_classifier": "head_dist"}
    parts = ("query", "key", "value")
    match layers:
        case ["tokens"]:
            return Source(tokens[leaf])
        case ["tokens", "patches"]:
            return Source(f"patch_embed.proj.{leaf}")
        case [end] if end in ends:
            return Source(f"{ends[end]}.{leaf}")
        case [block, "attention", part] if part in parts:
            return Source(f"blocks.{_number(block) - 1}.attn.qkv.{leaf}", parts.index(part))
        case [block, *inner]:
            names = {
                "attention/out": "attn.proj",
                "attention_norm": "norm1",
                "feed_forward/in": "mlp.fc1",
                "feed_forward/out": "mlp.fc2",
                "feed_forward_norm": "norm2",
            }
            return Source(f"blocks.{_number(block) - 1}.{names['/'.join(inner)]}.{leaf}")
    raise _unknown(module, layers, leaf)


def _bert(module: Any, layers: Sequence[str], leaf: str) -> Source:
    """Hugging Face's BERT and DistilBERT."""
    match layers:
        case ["classifier"]:
            return Source(f"classifier.{leaf}")
        case ["pooler"]:
            return Source(f"{'pre_classifier' if module.distil else 'pooler.dense'}.{leaf}")
        case ["embedding", "norm"]:
            return Source(f"embeddings.LayerNorm.{leaf}")
        case ["embedding", kind]:
            return Source(f"embeddings.{'token_type' if kind == 'type' else kind}_embeddings.{leaf}")
        case [block, *inner]:
            place = "transformer.layer" if module.distil else "encoder.layer"
            name = _BERT_LAYERS["/".join(inner)][int(module.distil)]
            return Source(f"{place}.{_number(block) - 1}.{name}.{leaf}")
    raise _unknown(module, layers, leaf)


_BERT_LAYERS = {
    "attention/query": ("attention.self.query", "attention.q_lin"),
    "attention/key": ("attention.self.key", "attention.k_lin"),
    "attention/value": ("attention.self.value", "attention.v_lin"),
    "attention/out": ("attention.output.dense", "attention.out_lin"),
    "attention_norm": ("attention.output.LayerNorm", "sa_layer_norm"),
    "feed_forward/in": ("intermediate.dense", "ffn.lin1"),
    "feed_forward/out": ("output.dense", "ffn.lin2"),
    "feed_forward_norm": ("output.LayerNorm", "output_layer_norm"),
}


def _unknown(module: nn.Module, layers: Sequence[str], leaf: str) -> ValueError:
    return ValueError(f"no foreign name is known for {'/'.join([*layers, leaf])} of a {type(module).__name__}")


_NAMES: dict[type[nn.Module], Callable[[Any, Sequence[str], str], Source]] = {
    CifarResNet: _resnet,
    ImageNetResNet: _resnet,
    BiT: _bit,
    MobileNetV1: _mobilenet_v1,
    MobileNetV2: functools.partial(_inverted, nested=False),
    EfficientNet: functools.partial(_inverted, nested=True),
    ViT: _vit,
    BERT: _bert,
}
