"""The multi-layer perceptron of "Distilling the Knowledge in a Neural Network"."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._family import Family


class MLP(nn.Module):
    """Dense layers with ReLU on flattened images, as Hinton et al. distil them on MNIST.

    Taps: ``"hidden_0"``, ``"hidden_1"`` ... are the layers before their ReLU; what the next layer reads
    (``"hidden_1:in"``, ``"classifier:in"``) is after it.

    Attributes:
      features: widths of the hidden layers; ``()`` is a linear classifier.
      classes: number of classes.
      dropout: rate after every hidden layer, active with ``train=True`` only, from the stream ``"dropout"``.
      dtype: of the computation; None: of parameters and input.
      param_dtype: of the parameters.

    References:
      Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
    """

    features: Sequence[int] = (512, 512)
    classes: int = 10
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Builds the layers here, not in ``__call__``, so that ``head`` can run one of them alone."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.hidden = [nn.Dense(width, **dtypes) for width in self.features]
        self.drop = nn.Dropout(self.dropout)
        self.classifier = nn.Dense(self.classes, **dtypes)

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """What the taps stand for: ``stages`` (after ReLU), ``pre_relu`` and ``penultimate``."""
        layers = [f"hidden_{i}" for i in range(len(self.features))]
        inputs = [f"{name}:in" for name in [*layers, "classifier"]]
        return {"stages": tuple(inputs[1:]), "pre_relu": tuple(layers), "penultimate": ("classifier:in",)}

    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        """Gives logits [batch, classes] of images [batch, ...]."""
        x = image.reshape(image.shape[0], -1)
        for layer in self.hidden:
            x = self.drop(nn.relu(layer(x)), deterministic=not train)
        return self.head(x)

    def head(self, features: jax.Array) -> jax.Array:
        """Gives logits [batch, classes] of penultimate features [batch, width]: the classifier alone."""
        return self.classifier(features)


FAMILY = Family(
    "mlp",
    MLP,
    {"mlp_8": {"features": (8,)}, "mlp_32": {"features": (32,)}, "mlp_512_512": {"features": (512, 512)}},
    image_shape=(8, 8, 1),
    paper="arXiv:1503.02531",
    classes=10,
    widths="mlp",
)
