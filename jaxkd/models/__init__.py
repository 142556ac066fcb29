"""Linen models by name. They know nothing of distillation, but name their inner features (``module.roles``)."""

from jaxkd.models._cifar_resnet import CifarResNet
from jaxkd.models._mlp import MLP
from jaxkd.models._registry import ModelInfo, create, names
from jaxkd.models._strided_cnn import StridedCNN

__all__ = ["MLP", "CifarResNet", "ModelInfo", "StridedCNN", "create", "names"]
