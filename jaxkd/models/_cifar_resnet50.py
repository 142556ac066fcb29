"""ResNet of bottlenecks for 32x32 images."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._cifar_resnet import Stage
from jaxkd.models._family import Family
from jaxkd.models._layers import ConvNorm, torch_dense

_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut. Gives their sum *before* the ReLU, which the stage applies."""

    features: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives the pre-activation [batch, height / strides, width / strides, 4 * features]."""
        conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype, param_dtype=self.param_dtype)
        out = _EXPANSION * self.features
        shortcut = x
        if self.strides != 1 or x.shape[-1] != out:
            shortcut = conv(out, 1, self.strides, name="shortcut")(x, train)
        x = nn.relu(conv(self.features, 1, name="conv1")(x, train))
        x = nn.relu(conv(self.features, 3, self.strides, name="conv2")(x, train))
        return conv(out, 1, name="conv3")(x, train) + shortcut


class CifarBottleneckResNet(nn.Module):
    """ResNet-50 as the CIFAR-100 tables of the distillation literature have it.

    ImageNet's but for the stem, a 3x3 convolution without strides and without pooling: 32x32 images end as maps of
    4x4. Four stages of 256, 512, 1024 and 2048 channels.

    Taps: ``"stage1"`` ... ``"stage4"`` after ReLU, ``"stage1/pre_relu"`` ... before it, and the last BatchNorm of each
    stage; also by role.

    Attributes:
      blocks: of each of four stages.
      classes: number of classes.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there are not four stages of one block at least.

    References:
      He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv:1910.10699.
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    classes: int = 10
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the stages where the model is made, long before it is traced."""
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(
                f"CifarBottleneckResNet: blocks is {tuple(self.blocks)}, but there are four stages of one at least"
            )
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``CifarResNet``."""
        stages = ("stage1", "stage2", "stage3", "stage4")
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "norms": tuple(f"{stage}/block{n}/conv3/norm" for stage, n in zip(stages, self.blocks, strict=True)),
            "map_before_pool": ("stage4",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        options = {"axis_name": self.axis_name, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stem = ConvNorm(64, 3, **options)
        self.stages = [
            Stage(64 * 2**i, blocks, 1 if i == 0 else 2, Bottleneck, **options, name=f"stage{i + 1}")
            for i, blocks in enumerate(self.blocks)
        ]
        inputs = 64 * 2 ** (len(self.blocks) - 1) * _EXPANSION
        self.classifier = torch_dense(inputs, self.classes, dtype=self.dtype, param_dtype=self.param_dtype)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.relu(self.stem(image, train))
        for stage in self.stages:
            x = stage(x, train)
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "cifar_bottleneck_resnet",
    CifarBottleneckResNet,
    # resnet50 is ImageNet's.
    {"resnet50_cifar": {"blocks": (3, 4, 6, 3)}},
    image_shape=(32, 32, 3),
    paper="arXiv:1512.03385, for 32x32 images",
    published={"resnet50_cifar": 23_705_252},
)
