"""What models of text ask of their words."""

import jax
import jax.numpy as jnp

from jaxkd._checks import shape_of


def check_words(words: jax.Array, positions: int | None = None, name: str = "input_ids") -> None:
    """Raises ValueError of what are no words [batch, tokens], or of more tokens than there are positions."""
    if words.ndim != 2 or not jnp.issubdtype(words.dtype, jnp.integer):
        raise ValueError(f"{name} {shape_of(words)} are {words.dtype}: a model of text takes integers [batch, tokens]")
    if positions is not None and words.shape[1] > positions:
        raise ValueError(f"{name} {shape_of(words)}: there are positions for {positions} tokens only")
