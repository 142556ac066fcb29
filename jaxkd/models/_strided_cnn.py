"""A few strided convolutions: the smallest network that has maps in stages."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd._convolution import conv_by_matmul
from jaxkd.models._family import Family
from jaxkd.models._layers import ConvNorm


class ConvStage(nn.Module):
    """A 3x3 convolution, BatchNorm, ReLU. Sows what the ReLU sees as ``pre_relu``; its output is after it."""

    features: int
    strides: int = 1
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Gives [batch, height / strides, width / strides, features]."""
        layer = ConvNorm(
            self.features,
            3,
            self.strides,
            axis_name=self.axis_name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            conv_general_dilated=conv_by_matmul,
            name="layer",
        )
        before = layer(x, train)
        self.sow("intermediates", "pre_relu", before)
        return nn.relu(before)


class StridedCNN(nn.Module):
    """A stage for each width, a 3x3 convolution with BatchNorm and ReLU; all stages but the first halve the map.

    It is no paper's: it is there for methods on maps to be tried in seconds. Of the 8x8 digits, three stages give maps
    of 8x8, 4x4 and 2x2. Its convolutions are matrix products, which many seeds of it share well on a CPU.

    Taps: ``"stage1"``, ``"stage2"`` ... after ReLU, ``"stage1/pre_relu"`` ... before it, and its BatchNorm
    ``"stage1/layer/norm"`` ...; also by role.

    Attributes:
      features: the channels of each stage, at least one.
      classes: number of classes.
      axis_name: mapped axis to average BatchNorm's batch statistics over; see ``CifarResNet``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    Raises:
      ValueError: if there is no stage.
    """

    features: Sequence[int] = (16, 32, 64)
    classes: int = 10
    axis_name: str | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the widths where the model is made, long before it is traced."""
        if not self.features:
            raise ValueError("StridedCNN: features is empty, but it needs the channels of one stage at least")
        super().__post_init__()

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.stages = [
            ConvStage(width, 1 if i == 0 else 2, self.axis_name, **dtypes, name=f"stage{i + 1}")
            for i, width in enumerate(self.features)
        ]
        self.classifier = nn.Dense(self.classes, **dtypes)

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for, as in ``CifarResNet``."""
        stages = tuple(f"stage{i + 1}" for i in range(len(self.features)))
        return {
            "stages": stages,
            "pre_relu": tuple(f"{stage}/pre_relu" for stage in stages),
            "norms": tuple(f"{stage}/layer/norm" for stage in stages),
            "map_before_pool": stages[-1:],
            "penultimate": ("classifier:in",),
        }

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, height, width, channels]."""
        x = image
        for stage in self.stages:
            x = stage(x, train)
        return self.head(x.mean(axis=(1, 2)))

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of pooled features [batch, channels]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "strided_cnn",
    StridedCNN,
    {"cnn_4_8_16": {"features": (4, 8, 16)}, "cnn_16_32_64": {"features": (16, 32, 64)}},
    image_shape=(8, 8, 1),
    paper="none: a small one, to try methods on maps",
    classes=10,
    widths="cnn",
)
