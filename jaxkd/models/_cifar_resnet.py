"""The small residual networks for 32x32 images, as the distillation literature uses them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family
from jaxkd.models._layers import ConvNorm


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut. Gives their sum *before* the ReLU, which the stage applies."""

    features: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives the pre-activation [batch, height / strides, width / strides, features]."""
        conv = functools.partial(
            ConvNorm, self.features, axis_name=self.axis_name, dtype=self.dtype, param_dtype=self.param_dtype
        )
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.features:
            shortcut = conv(1, self.strides, name="shortcut")(x, train)
        x = nn.relu(conv(3, self.strides, name="conv1")(x, train))
        return conv(3, name="conv2")(x, train) + shortcut


class Stage(nn.Module):
    """Blocks of one resolution. Sows its last sum as ``pre_relu``; its output is after the ReLU."""

    features: int
    blocks: int
    strides: int = 1
    block: Callable[..., nn.Module] = Block
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        for i in range(self.blocks):
            block = self.block(
                self.features,
                self.strides if i == 0 else 1,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block{i + 1}",
            )
            before = block(x, train)
            x = nn.relu(before)
        # The last block's name depends on the depth; sown here the tap is "stage2/pre_relu" for every depth.
        self.sow("intermediates", "pre_relu", before)
        return x


class CifarResNet(nn.Module):
    """ResNet of basic blocks in three stages of 16, 32 and 64 channels, for small images.

    Section 4.2 of the paper, except for the shortcut where the shape changes: a 1x1 convolution with BatchNorm, as in
    the code behind the CIFAR-100 tables of the distillation literature (CRD and after), not the paper's padding
    without parameters. The counts of those tables follow: resnet20 0.278M, resnet56 0.86M, resnet8x4 1.23M,
    resnet32x4 7.43M parameters for 100 classes.

    Taps: ``"stage1"``, ``"stage2"``, ``"stage3"`` after ReLU, ``"stage1/pre_relu"`` ... before it, and the last
    BatchNorm of each stage; also by role.

    Attributes:
      depth: 6n + 2 for n blocks a stage: 8, 20, 32, 56, 110.
      classes: number of classes.
      widen: factor of the stages' channels. The stem has 16 channels, and 32 in every widened network: the
        literature's "x4" networks are 32 - 64, 128, 256.
      axis_name: mapped axis to average BatchNorm's batch statistics over; needed under ``pmap`` and ``shard_map`` for
        statistics of the global batch, which ``jit`` sees by itself.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if the depth is not 6n + 2.

    References:
      He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385.
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv:1910.10699.
    """

    depth: int = 20
    classes: int = 10
    widen: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the depth where the model is made, long before it is traced."""
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"CifarResNet: depth is {self.depth}, but must be 6n + 2: 8, 14, 20, 32, 44, 56, 110 ...")
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for: ``stages`` (after ReLU), ``pre_relu``, ``norms`` (each stage's last) and more."""
        stages = ("stage1", "stage2", "stage3")
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "norms": tuple(f"{stage}/block{(self.depth - 2) // 6}/conv2/norm" for stage in stages),
            "map_before_pool": ("stage3",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        options = {"axis_name": self.axis_name, "dtype": self.dtype, "param_dtype": self.param_dtype}
        blocks = (self.depth - 2) // 6
        self.stem = ConvNorm(16 if self.widen == 1 else 32, 3, **options)
        self.stage1 = Stage(16 * self.widen, blocks, **options)
        self.stage2 = Stage(32 * self.widen, blocks, 2, **options)
        self.stage3 = Stage(64 * self.widen, blocks, 2, **options)
        self.classifier = nn.Dense(self.classes, dtype=self.dtype, param_dtype=self.param_dtype)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.relu(self.stem(image, train))
        for stage in (self.stage1, self.stage2, self.stage3):
            x = stage(x, train)
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "cifar_resnet",
    CifarResNet,
    # resnet50 is of the form 6n + 2 too, and means another network.
    {f"resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 44, 56, 110)}
    | {f"resnet{depth}x4": {"depth": depth, "widen": 4} for depth in (8, 32)},
    image_shape=(32, 32, 3),
    paper="arXiv:1512.03385, section 4.2",
    published={
        "resnet8": 83_892,
        "resnet14": 181_108,
        "resnet20": 278_324,
        "resnet32": 472_756,
        "resnet44": 667_188,
        "resnet56": 861_620,
        "resnet110": 1_736_564,
        "resnet8x4": 1_233_540,
        "resnet32x4": 7_433_860,
    },
)
