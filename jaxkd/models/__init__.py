"""Linen models by name. They know nothing of distillation, but name their inner features (``module.roles``)."""

from jaxkd.models._bert import BERT
from jaxkd.models._bit import BiT
from jaxkd.models._cifar_mobilenet import CifarMobileNetV2
from jaxkd.models._cifar_resnet import CifarResNet
from jaxkd.models._cifar_resnet50 import CifarBottleneckResNet
from jaxkd.models._efficientnet import EfficientNet
from jaxkd.models._flops import flops
from jaxkd.models._gpt2 import GPT2
from jaxkd.models._imagenet_resnet import ImageNetResNet
from jaxkd.models._mlp import MLP
from jaxkd.models._mobilenet import MobileNetV1, MobileNetV2
from jaxkd.models._pairs import Pair, pairs
from jaxkd.models._registry import ModelInfo, create, names
from jaxkd.models._shufflenet_v1 import ShuffleNetV1
from jaxkd.models._shufflenet_v2 import ShuffleNetV2
from jaxkd.models._strided_cnn import StridedCNN
from jaxkd.models._t5 import T5
from jaxkd.models._vgg import VGG
from jaxkd.models._vit import ViT
from jaxkd.models._wide_resnet import WideResNet

__all__ = [
    "BERT",
    "GPT2",
    "MLP",
    "T5",
    "VGG",
    "BiT",
    "CifarBottleneckResNet",
    "CifarMobileNetV2",
    "CifarResNet",
    "EfficientNet",
    "ImageNetResNet",
    "MobileNetV1",
    "MobileNetV2",
    "ModelInfo",
    "Pair",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "StridedCNN",
    "ViT",
    "WideResNet",
    "create",
    "flops",
    "names",
    "pairs",
]
