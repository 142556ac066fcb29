"""Models by name."""

import difflib
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxkd.models._cifar_resnet import CifarResNet
from jaxkd.models._mlp import MLP
from jaxkd.models._strided_cnn import StridedCNN

# (depth, widen). A table, not a pattern: resnet50 is of the form 6n + 2 too, and means another network.
_CIFAR_RESNETS = {
    "resnet8": (8, 1),
    "resnet14": (14, 1),
    "resnet20": (20, 1),
    "resnet32": (32, 1),
    "resnet44": (44, 1),
    "resnet56": (56, 1),
    "resnet110": (110, 1),
    "resnet8x4": (8, 4),
    "resnet32x4": (32, 4),
}
_MLP_EXAMPLES = ("mlp_8", "mlp_32", "mlp_512_512")
_CNN_EXAMPLES = ("cnn_4_8_16", "cnn_16_32_64")
_BY_WIDTHS = re.compile(r"(mlp|cnn)(_[1-9][0-9]*)+")


class ModelInfo(NamedTuple):
    """One line of ``jaxkd models``.

    Attributes:
      name: what `create` takes.
      family: which models it belongs to.
      parameters: their number at 10 classes on images of ``image_shape``.
      image_shape: (height, width, channels).
      paper: where the model comes from.
    """

    name: str
    family: str
    parameters: int
    image_shape: tuple[int, int, int]
    paper: str


def create(name: str, classes: int) -> nn.Module:
    """Makes a model by its name.

    Args:
      name: ``"mlp_W"``, ``"mlp_W_W"`` ... for an MLP with hidden layers of those widths, ``"cnn_W_W"`` ... for strided
        convolutions of those channels, or one of ``"resnet8"``, ``"resnet14"``, ``"resnet20"``, ``"resnet32"``,
        ``"resnet44"``, ``"resnet56"``, ``"resnet110"``, ``"resnet8x4"``, ``"resnet32x4"``, which are the CIFAR ones.
      classes: number of classes.

    Returns:
      A Linen module: ``module.apply(variables, image, train=...)`` gives logits [batch, classes].

    Raises:
      ValueError: if there is no model of that name (the error lists the nearest), or less than one class.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}, but a classifier needs at least 1")
    if name in _CIFAR_RESNETS:
        depth, widen = _CIFAR_RESNETS[name]
        return CifarResNet(depth, classes, widen)
    if _BY_WIDTHS.fullmatch(name):
        family, *widths = name.split("_")
        return (MLP if family == "mlp" else StridedCNN)(tuple(map(int, widths)), classes)
    known = [*_MLP_EXAMPLES, *_CNN_EXAMPLES, *_CIFAR_RESNETS]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
    raise ValueError(
        f"no model is called {name!r}; nearest: {', '.join(near)} (mlp_W, mlp_W_W..., cnn_W, cnn_W_W..., W a width)"
    )


def names() -> tuple[ModelInfo, ...]:
    """Lists the models there are; MLPs and strided CNNs, of which any widths can be had, by a few examples."""
    mlps = [(name, "mlp", (8, 8, 1), "arXiv:1503.02531") for name in _MLP_EXAMPLES]
    cnns = [(name, "strided_cnn", (8, 8, 1), "none: a small one, to try methods on maps") for name in _CNN_EXAMPLES]
    resnets = [(name, "cifar_resnet", (32, 32, 3), "arXiv:1512.03385, section 4.2") for name in _CIFAR_RESNETS]
    return tuple(
        ModelInfo(name, family, _parameters(create(name, 10), shape), shape, paper)
        for name, family, shape, paper in [*mlps, *cnns, *resnets]
    )


def _parameters(module: nn.Module, image_shape: tuple[int, int, int]) -> int:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
