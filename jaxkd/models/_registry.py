"""Models by name."""

import difflib
import math
from typing import NamedTuple

import jax
from flax import linen as nn

from jaxkd.models import (
    _bert,
    _bit,
    _cifar_mobilenet,
    _cifar_resnet,
    _cifar_resnet50,
    _efficientnet,
    _gpt2,
    _imagenet_resnet,
    _mlp,
    _mobilenet,
    _shufflenet_v1,
    _shufflenet_v2,
    _strided_cnn,
    _t5,
    _vgg,
    _vit,
    _wide_resnet,
)
from jaxkd.models._family import Family
from jaxkd.models._flops import FLOPS
from jaxkd.models._inputs import inputs_of

_FAMILIES: tuple[Family, ...] = (
    _mlp.FAMILY,
    _strided_cnn.FAMILY,
    _cifar_resnet.FAMILY,
    _wide_resnet.FAMILY,
    _vgg.FAMILY,
    _cifar_resnet50.FAMILY,
    _cifar_mobilenet.FAMILY,
    _shufflenet_v1.FAMILY,
    _shufflenet_v2.FAMILY,
    _imagenet_resnet.FAMILY,
    _bit.FAMILY,
    _mobilenet.V1_FAMILY,
    _mobilenet.V2_FAMILY,
    _efficientnet.FAMILY,
    _vit.VIT_FAMILY,
    _vit.DEIT_FAMILY,
    *_bert.FAMILIES,
    _gpt2.FAMILY,
    _t5.FAMILY,
)


class ModelInfo(NamedTuple):
    """One line of ``jaxkd models``.

    Attributes:
      name: what `create` takes.
      family: which models it belongs to.
      parameters: their number at ``classes`` classes on images of ``image_shape``.
      flops: operations of a forward pass of one example of that size, of texts of 128 words: see `flops`.
      classes: of the data set that the literature has the model for; of a language model its words.
      image_shape: (height, width, channels); () of models of text.
      paper: where the model comes from.
    """

    name: str
    family: str
    parameters: int
    flops: float
    classes: int
    image_shape: tuple[int, ...]
    paper: str


def create(name: str, classes: int) -> nn.Module:
    """Makes a model by its name.

    Args:
      name: ``"mlp_W"``, ``"mlp_W_W"`` ... for an MLP with hidden layers of those widths, ``"cnn_W_W"`` ... for strided
        convolutions of those channels, or a name that `names` lists: the literature's. Where it has one name for two
        networks, the name alone is ImageNet's.
      classes: number of classes; of a language model, of its words.

    Returns:
      A Linen module: ``module.apply(variables, image, train=...)`` gives logits [batch, classes]. A model of text takes
      words for the image; a language model gives logits [batch, tokens, classes].

    Raises:
      ValueError: if there is no model of that name (the error lists the nearest), or less than one class.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}, but a classifier needs at least 1")
    for family in _FAMILIES:
        arguments = family.arguments(name)
        if arguments is not None:
            return family.module(**arguments, classes=classes)
    known = [variant for family in _FAMILIES for variant in family.variants]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or known
    raise ValueError(
        f"no model is called {name!r}; nearest: {', '.join(near)} (mlp_W, mlp_W_W..., cnn_W, cnn_W_W..., W a width)"
    )


def names() -> tuple[ModelInfo, ...]:
    """Lists the models there are; MLPs and strided CNNs, of which any widths can be had, by a few examples."""
    return tuple(
        ModelInfo(
            name,
            family.name,
            family.published.get(name) or _parameters(create(name, family.classes), family.image_shape),
            FLOPS[name],
            family.classes,
            family.image_shape,
            family.paper,
        )
        for family in _FAMILIES
        for name in family.variants
    )


def _parameters(module: nn.Module, image_shape: tuple[int, ...]) -> int:
    shapes = jax.eval_shape(module.init, jax.random.key(0), **inputs_of(module, image_shape))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
