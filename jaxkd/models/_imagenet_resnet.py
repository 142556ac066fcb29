"""The residual networks for ImageNet: ResNet-18 to ResNet-152."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._cifar_resnet import Block, Stage
from jaxkd.models._cifar_resnet50 import Bottleneck
from jaxkd.models._family import Family
from jaxkd.models._layers import ConvNorm, torch_dense


class ImageNetResNet(nn.Module):
    """ResNet in four stages of 64, 128, 256 and 512 channels (four times as many in bottlenecks), for large images.

    As torchvision has it ("v1.5"): a bottleneck's 3x3 convolution has the stride, not its first 1x1, and shortcuts
    that change the shape are 1x1 convolutions with BatchNorm. Maps are 1/4, 1/8, 1/16 and 1/32 of the image.

    Taps: ``"stage1"`` ... ``"stage4"`` after ReLU, ``"stage1/pre_relu"`` ... before it, and the last BatchNorm of each
    stage; also by role.

    Attributes:
      blocks: the number of blocks of each of the four stages.
      classes: number of classes.
      bottleneck: whether blocks are bottlenecks of three convolutions, not two 3x3 convolutions.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there are not four stages of one block or more.

    References:
      He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
    """

    blocks: Sequence[int] = (2, 2, 2, 2)
    classes: int = 1000
    bottleneck: bool = False
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the stages where the model is made, long before it is traced."""
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(f"ImageNetResNet: blocks are {tuple(self.blocks)}, but four stages need one block or more")
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for: ``stages`` (after ReLU), ``pre_relu``, ``norms`` (each stage's last) and more."""
        stages = ("stage1", "stage2", "stage3", "stage4")
        last = 3 if self.bottleneck else 2
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "norms": tuple(
                f"{stage}/block{blocks}/conv{last}/norm" for stage, blocks in zip(stages, self.blocks, strict=True)
            ),
            "map_before_pool": ("stage4",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        options = {"axis_name": self.axis_name, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stem = ConvNorm(64, 7, 2, **options)
        block = Bottleneck if self.bottleneck else Block
        self.stages = [
            Stage(64 * 2**i, blocks, 1 if i == 0 else 2, block, **options, name=f"stage{i + 1}")
            for i, blocks in enumerate(self.blocks)
        ]
        inputs = 2048 if self.bottleneck else 512
        self.classifier = torch_dense(inputs, self.classes, dtype=self.dtype, param_dtype=self.param_dtype)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.relu(self.stem(image, train))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage in self.stages:
            x = stage(x, train)
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "imagenet_resnet",
    ImageNetResNet,
    {
        "resnet18": {"blocks": (2, 2, 2, 2)},
        "resnet34": {"blocks": (3, 4, 6, 3)},
        "resnet50": {"blocks": (3, 4, 6, 3), "bottleneck": True},
        "resnet101": {"blocks": (3, 4, 23, 3), "bottleneck": True},
        "resnet152": {"blocks": (3, 8, 36, 3), "bottleneck": True},
    },
    image_shape=(224, 224, 3),
    paper="arXiv:1512.03385",
    published={
        "resnet18": 11_689_512,
        "resnet34": 21_797_672,
        "resnet50": 25_557_032,
        "resnet101": 44_549_160,
        "resnet152": 60_192_808,
    },
    classes=1000,
)
