"""VGG with BatchNorm, for 32x32 images."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family
from jaxkd.models._layers import ConvNorm

_POOLED = 3


class VGGStage(nn.Module):
    """3x3 convolutions, BatchNorm and ReLU. Sows what the last ReLU sees as ``pre_relu``; its output is after it."""

    features: int
    layers: int
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height, width, features]."""
        for i in range(self.layers):
            layer = ConvNorm(
                self.features,
                3,
                use_bias=True,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"layer{i + 1}",
            )
            before = layer(x, train)
            x = nn.relu(before)
        self.sow("intermediates", "pre_relu", before)
        return x


class VGG(nn.Module):
    """VGG of the CIFAR-100 tables of the distillation literature: BatchNorm, and one linear layer for a classifier.

    Five stages of 64, 128, 256, 512 and 512 channels; after each of the first three, the map is halved. (The fourth is
    not: 32x32 images end as maps of 4x4, where the paper's five halvings leave one position.)

    Taps: ``"stage1"`` ... ``"stage4"`` after ReLU and before they are halved, ``"stage1/pre_relu"`` ... before it, and
    the last BatchNorm of each; also by role. ``"stage0"`` is the stem of these, of no role.

    Attributes:
      layers: the convolutions of each of the five stages, at least one.
      classes: number of classes.
      widths: the channels of each stage.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there are not five stages, or one has no layer.

    References:
      Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, arXiv:1409.1556.
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv:1910.10699.
    """

    layers: Sequence[int] = (1, 1, 1, 1, 1)
    classes: int = 10
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the stages where the model is made, long before it is traced."""
        if not len(self.layers) == len(self.widths) == 5 or min(self.layers) < 1:
            raise ValueError(
                f"VGG: layers is {tuple(self.layers)} and widths is {tuple(self.widths)}, but both are of five stages, "
                "of one layer at least"
            )
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``CifarResNet``."""
        stages = tuple(f"stage{i}" for i in range(1, 5))
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "norms": tuple(f"stage{i}/layer{self.layers[i]}/norm" for i in range(1, 5)),
            "map_before_pool": ("stage4",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stages = [
            VGGStage(width, layers, self.axis_name, **dtypes, name=f"stage{i}")
            for i, (width, layers) in enumerate(zip(self.widths, self.layers, strict=True))
        ]
        self.classifier = nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.01), **dtypes)

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = image
        for i, stage in enumerate(self.stages):
            x = stage(x, train)
            if i < _POOLED:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "vgg",
    VGG,
    {
        "vgg8": {"layers": (1, 1, 1, 1, 1)},
        "vgg11": {"layers": (1, 1, 2, 2, 2)},
        "vgg13": {"layers": (2, 2, 2, 2, 2)},
        "vgg16": {"layers": (2, 2, 3, 3, 3)},
        "vgg19": {"layers": (2, 2, 4, 4, 4)},
    },
    image_shape=(32, 32, 3),
    paper="arXiv:1409.1556, with BatchNorm and one dense layer",
    published={
        "vgg8": 3_965_028,
        "vgg11": 9_277_284,
        "vgg13": 9_462_180,
        "vgg16": 14_774_436,
        "vgg19": 20_086_692,
    },
)
