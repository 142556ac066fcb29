"""EfficientNet B0 to B7."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family
from jaxkd.models._inverted_residual import InvertedGroup, LayerOptions, divisible_by_8
from jaxkd.models._layers import ConvNorm

# (expand, kernel, features, blocks, strides): table 1 of the paper.
_GROUPS = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class EfficientNet(nn.Module):
    """Inverted residuals with squeeze-and-excitation and SiLU; B0 to B7 differ in width, depth and dropout.

    As torchvision has it: maps are padded on both sides alike, unlike TensorFlow's.

    Taps: ``"group1"`` ... ``"group7"``, the rows of the paper's table, of which ``stages`` are the last of each
    resolution: maps of 1/4, 1/8, 1/16 and 1/32 of the image. No activation follows them: ``pre_relu`` are the same.
    ``"map"`` is the map that is pooled, ``"pooled"`` its mean before dropout.

    Attributes:
      classes: number of classes.
      width: factor of all channels, which are rounded to multiples of 8.
      depth: factor of the blocks of each group, rounded up.
      dropout: rate before the classifier, active with ``train=True`` only, from the stream ``"dropout"``.
      stochastic_depth: rate at which an example skips the last block in training; earlier ones' grow to it evenly.
      groups: (expand, kernel, features, blocks, strides) of each group at width and depth 1; seven.
      momentum: how much of BatchNorm's running statistics a step keeps; 0.99 for B5 to B7.
      epsilon: of BatchNorm; 1e-3 for B5 to B7.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    References:
      Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv:1905.11946.
    """

    classes: int = 1000
    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2
    stochastic_depth: float = 0.2
    groups: Sequence[tuple[int, int, int, int, int]] = _GROUPS
    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for; ``norms`` are the BatchNorms that end the stages."""
        ends = (2, 3, 5, 7)
        stages = tuple(f"group{i}" for i in ends)
        return {
            "stages": stages,
            "pre_relu": stages,
            "norms": tuple(f"group{i}/block{self._blocks(i - 1)}/project/norm" for i in ends),
            "map_before_pool": ("map",),
            "penultimate": ("pooled",),
        }

    def _blocks(self, group: int) -> int:
        return math.ceil(self.groups[group][3] * self.depth)

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        options = LayerOptions(self.axis_name, self.dtype, self.param_dtype, self.momentum, self.epsilon)
        self.stem = ConvNorm(divisible_by_8(32 * self.width), 3, 2, **options._asdict())
        blocks = [self._blocks(i) for i in range(len(self.groups))]
        rates = [self.stochastic_depth * i / sum(blocks) for i in range(sum(blocks))]
        rows, channels = [], 0
        for i, (expand, kernel, features, _, strides) in enumerate(self.groups):
            channels = divisible_by_8(features * self.width)
            drop_paths = tuple(rates[sum(blocks[:i]) : sum(blocks[: i + 1])])
            layers = (channels, expand, kernel, strides, nn.silu, drop_paths, True, options)
            rows.append(InvertedGroup(*layers, name=f"group{i + 1}"))
        self.rows = rows
        self.final = ConvNorm(4 * channels, 1, **options._asdict())
        self.drop = nn.Dropout(self.dropout)
        # Uniform within 1 / sqrt(classes): torchvision's.
        kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
        self.classifier = nn.Dense(
            self.classes, kernel_init=kernel_init, dtype=self.dtype, param_dtype=self.param_dtype
        )

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = nn.silu(self.stem(image, train))
        for group in self.rows:
            x = group(x, train)
        x = nn.silu(self.final(x, train))
        self.sow("intermediates", "map", x)
        x = x.mean((1, 2))
        self.sow("intermediates", "pooled", x)
        return self.head(self.drop(x, deterministic=not train))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


# B0 to B7: (width, depth, dropout).
_SIZES = (
    (1.0, 1.0, 0.2),
    (1.0, 1.1, 0.2),
    (1.1, 1.2, 0.3),
    (1.2, 1.4, 0.3),
    (1.4, 1.8, 0.4),
    (1.6, 2.2, 0.4),
    (1.8, 2.6, 0.5),
    (2.0, 3.1, 0.5),
)
FAMILY = Family(
    "efficientnet",
    EfficientNet,
    {
        f"efficientnet_b{i}": {"width": width, "depth": depth, "dropout": dropout}
        | ({"momentum": 0.99, "epsilon": 1e-3} if i >= 5 else {})
        for i, (width, depth, dropout) in enumerate(_SIZES)
    },
    image_shape=(224, 224, 3),
    paper="arXiv:1905.11946",
    published={
        "efficientnet_b0": 5_288_548,
        "efficientnet_b1": 7_794_184,
        "efficientnet_b2": 9_109_994,
        "efficientnet_b3": 12_233_232,
        "efficientnet_b4": 19_341_616,
        "efficientnet_b5": 30_389_784,
        "efficientnet_b6": 43_040_704,
        "efficientnet_b7": 66_347_960,
    },
    classes=1000,
)
