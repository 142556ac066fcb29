"""What a model of the zoo is called with."""

import inspect
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

WORDS = 128
"""The length of texts for which models of text are counted: what BERT's tasks are mostly trained with."""


def inputs_of(module: nn.Module, image_shape: Sequence[int], words: int = WORDS) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of one example by the name of the argument: an image, or words for each sequence there is."""
    text = [name for name in inspect.signature(type(module).__call__).parameters if name.endswith("input_ids")]
    if text:
        return dict.fromkeys(text, jax.ShapeDtypeStruct((1, words), jnp.int32))
    return {"image": jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)}
