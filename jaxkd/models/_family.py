"""What a file of models declares, for the registry to list and to make."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn


class Family(NamedTuple):
    """Models that one constructor makes.

    Attributes:
      name: of the family.
      module: the constructor; takes ``classes`` beside the arguments of a variant.
      variants: arguments by the name that the literature calls the model.
      image_shape: (height, width, channels) of the images that the family is for; () of models of text.
      paper: where it comes from.
      published: parameters by name, as the published code has them for ``classes`` classes. Counting them by tracing a
        network takes a second; a test does it.
      classes: of the data set that the literature has the models for; of language models, their words.
      widths: a prefix, if any widths can be had: ``"mlp"`` makes ``module((8, 4), classes=...)`` of ``"mlp_8_4"``, and
        the variants are examples.
    """

    name: str
    module: Callable[..., nn.Module]
    variants: Mapping[str, Mapping[str, Any]]
    image_shape: tuple[int, ...]
    paper: str
    published: Mapping[str, int] = {}
    classes: int = 100
    widths: str | None = None

    def arguments(self, name: str) -> Mapping[str, Any] | None:
        """What the model of this name is made with, or None if it is not of the family."""
        if self.widths and re.fullmatch(rf"{self.widths}(_[1-9][0-9]*)+", name):
            return {"features": tuple(map(int, name.split("_")[1:]))}
        return self.variants.get(name)
