"""ShuffleNet for 32x32 images."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family
from jaxkd.models._layers import TORCH_DEFAULT, ConvNorm, shuffle, torch_dense

_STEM, _GROUPS = 24, 3


class GroupedUnit(nn.Module):
    """A bottleneck of grouped convolutions with a shuffle within. Gives its pre-activation: the stage applies the ReLU.

    With strides of 2 the averaged input is put beside what is computed, which has the channels that are missing.
    """

    features: int
    first_groups: int = _GROUPS
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        conv = functools.partial(
            ConvNorm,
            kernel_init=TORCH_DEFAULT,
            axis_name=self.axis_name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        own = self.features if self.strides == 1 else self.features - x.shape[-1]
        middle = own // 4
        y = nn.relu(conv(middle, 1, groups=self.first_groups, name="reduce")(x, train))
        y = shuffle(y, self.first_groups)
        y = nn.relu(conv(middle, 3, self.strides, groups=middle, name="depthwise")(y, train))
        y = conv(own, 1, groups=_GROUPS, name="expand")(y, train)
        if self.strides == 1:
            return x + y
        # What stands beyond the border counts as 0, as in PyTorch's average.
        return jnp.concatenate([y, nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))], axis=-1)


class GroupedStage(nn.Module):
    """Units of one resolution, the first halves the map. Sows ``pre_relu``; its output is after the ReLU."""

    features: int
    units: int
    first_groups: int = _GROUPS
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / 2, width / 2, features]."""
        for i in range(self.units):
            unit = GroupedUnit(
                self.features,
                _GROUPS if i else self.first_groups,
                1 if i else 2,
                axis_name=self.axis_name,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"unit{i + 1}",
            )
            before = unit(x, train)
            x = nn.relu(before)
        self.sow("intermediates", "pre_relu", before)
        return x


class ShuffleNetV1(nn.Module):
    """ShuffleNet 1x of three groups as the CIFAR-100 tables of the distillation literature have it.

    For 32x32 images the stem is a 1x1 convolution, without pooling: the stages have maps of 16x16, 8x8 and 4x4.

    Taps: ``"stage1"``, ``"stage2"``, ``"stage3"`` after ReLU, ``"stage1/pre_relu"`` ... before it; also by role. There
    is no role ``norms``: the literature's code does not take this network for a teacher of OFD.

    Attributes:
      widths: the channels of each stage: growing multiples of 12, which three groups of bottlenecks need.
      classes: number of classes.
      units: of each stage.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there are not three stages of units, or channels do not grow by multiples of 12 from 24 on.

    References:
      Zhang, Zhou, Lin, Sun, "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices", 2017,
      arXiv:1707.01083.
      Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, arXiv:1910.10699.
    """

    widths: Sequence[int] = (240, 480, 960)
    classes: int = 10
    units: Sequence[int] = (4, 8, 4)
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the stages where the model is made, long before it is traced."""
        if not len(self.widths) == len(self.units) == 3 or min(self.units) < 1:
            raise ValueError(
                f"ShuffleNetV1: widths is {tuple(self.widths)} and units is {tuple(self.units)}, but both are of three "
                "stages, of one unit at least"
            )
        steps = [width - before for before, width in zip((_STEM, *self.widths), self.widths, strict=False)]
        if any(step <= 0 or step % (4 * _GROUPS) for step in steps):
            raise ValueError(
                f"ShuffleNetV1: widths is {tuple(self.widths)}, but has to grow from {_STEM} by multiples of "
                f"{4 * _GROUPS}, which bottlenecks of {_GROUPS} groups need"
            )
        super().__post_init__()

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``CifarResNet``; there is no ``norms``."""
        stages = ("stage1", "stage2", "stage3")
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "map_before_pool": ("stage3",),
            "penultimate": ("classifier:in",),
        }

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stem = ConvNorm(_STEM, 1, kernel_init=TORCH_DEFAULT, axis_name=self.axis_name, **dtypes)
        self.stages = [
            GroupedStage(width, units, _GROUPS if i else 1, self.axis_name, **dtypes, name=f"stage{i + 1}")
            for i, (width, units) in enumerate(zip(self.widths, self.units, strict=True))
        ]
        self.classifier = torch_dense(self.widths[-1], self.classes, **dtypes)

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
    "shufflenet_v1",
    ShuffleNetV1,
    {"shufflenet_v1": {}},
    image_shape=(32, 32, 3),
    paper="arXiv:1707.01083, for 32x32 images",
    published={"shufflenet_v1": 949_258},
)
