"""What the losses share that set the labelled class of an example apart from the others."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.losses._arguments import ArrayLike, Where, check_labels
from jaxkd.losses._numerics import masked_sum, selected_logits

NOT_NEGATIVE = (0, math.inf)
"""The range of the weight of a term."""


class OwnClass:
    """Of every example the class that its label names.

    Attributes:
      mask: bool [..., classes], True for the own class; nowhere if the label is below 0.
      others: bool, broadcastable to [..., classes]: the other classes that take part.
    """

    def __init__(self, labels: ArrayLike, logits: jax.Array, axis: int, where: Where) -> None:
        classes = logits.shape[axis]
        check_labels(labels, np.delete(logits.shape, axis).tolist(), classes)
        self._labels, self._classes, self._axis = jnp.asarray(labels), classes, axis
        line = [1] * logits.ndim
        line[axis] = classes
        self._numbers = jnp.arange(classes).reshape(line)
        self.mask = jnp.expand_dims(self._labels, axis) == self._numbers
        self.others = ~self.mask
        self._labelled = self._labels >= 0
        if where is not None:
            self.others &= where
            self.mask &= where
            self._labelled &= jnp.any(self.mask, axis)

    def of(self, x: jax.Array) -> jax.Array:
        """The own class's element [...] of an array [..., classes]; 0 where there is none."""
        return masked_sum(x, self.mask, self._axis)

    def leads(self, x: jax.Array) -> jax.Array:
        """Whether it has the largest element [...] of an array, of equal ones the first: whether argmax names it."""
        # Comparisons with the one element cost a fraction of an argmax.
        before = self._numbers < jnp.expand_dims(self._labels, self._axis)
        own = jnp.expand_dims(self.of(x), self._axis)
        return self._labelled & ~jnp.any(self.others & ((x > own) | (before & (x == own))), self._axis)

    def only_labelled(self, losses: jax.Array) -> jax.Array:
        """0 instead of the loss of an example that has no own class; NaN where the label is no class."""
        return jnp.where(self._labels < self._classes, jnp.where(self._labelled, losses, 0), jnp.nan)


def logsumexp(logits: jax.Array, axis: int, where: jax.Array) -> jax.Array:
    """The log of the sum of exponentials where ``where`` holds; a huge negative number where none counts.

    The logits are finite, and the steps those of ``kl_of_logits``: beside it the compiler takes them only once.
    """
    logits = selected_logits(logits, where)
    largest = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
    return jnp.log(jnp.sum(jnp.exp(logits - largest), axis)) + jnp.squeeze(largest, axis)
