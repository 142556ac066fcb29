"""Augmentation on the device: teacher and student see the same result.

Each function here builds a ``(variables, batch, keys) -> batch`` for the ``prepare`` argument of a learner. It works on
decoded images, ``batch["image"]`` float [batch, H, W, C], with ``keys`` one typed PRNG key for each example, shape
[batch]: what becomes of an example does not depend on how the batch is spread over devices. ``variables`` are not used.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

Augmentation = Callable[[Any, Mapping[str, Any], jax.Array], dict[str, Any]]
_TRIES = 10


def random_crop(padding: int, mode: Literal["constant", "reflect"] = "constant") -> Augmentation:
    """Pads height and width by ``padding`` on all sides, then cuts the old size out at a random place.

    Args:
      padding: pixels, at least 1.
      mode: ``"constant"`` pads with 0, which in decoded images is the data set's mean; ``"reflect"`` mirrors the image.

    Raises:
      ValueError: a padding below 1, or another mode.
    """
    if padding < 1:
        raise ValueError(f"random_crop(padding={padding}): it has to be at least 1")
    if mode not in ("constant", "reflect"):
        raise ValueError(f"random_crop(mode={mode!r}): it has to be 'constant' or 'reflect'")

    def augment(variables: Any, batch: Mapping[str, Any], keys: jax.Array) -> dict[str, Any]:
        del variables
        image = _images(batch, keys)

        def crop(padded: jax.Array, key: jax.Array) -> jax.Array:
            top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
            return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape[1:])

        padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
        return {**batch, "image": jax.vmap(crop)(padded, keys)}

    return augment


def random_resized_crop(least: float = 0.08) -> Augmentation:
    """Cuts a box of random area and shape out, and resizes it to the old size; bilinear, antialiased.

    The area is a share of the image, uniform in [``least``, 1]; width : height is log-uniform in [3/4, 4/3]; the place
    is uniform. Drawn until the box fits, ten times at most: then the whole image is taken. A box has whole pixels; at
    its edges those beyond them count, as far as the filter reaches.

    Args:
      least: the least share of the image's area, in (0, 1].

    Raises:
      ValueError: a share out of its range.

    References:
      Szegedy et al., Going Deeper with Convolutions, 2014, https://arxiv.org/abs/1409.4842, section 6
    """
    if not 0 < least <= 1:
        raise ValueError(f"random_resized_crop(least={least}): it has to lie in (0, 1]")

    def augment(variables: Any, batch: Mapping[str, Any], keys: jax.Array) -> dict[str, Any]:
        del variables
        image = _images(batch, keys)
        size = jnp.asarray(image.shape[1:3], jnp.float32)

        def crop(image: jax.Array, key: jax.Array) -> jax.Array:
            area_key, shape_key, place_key = jax.random.split(key, 3)
            area = jax.random.uniform(area_key, (_TRIES,), minval=least) * size[0] * size[1]
            ratio = jnp.exp(jax.random.uniform(shape_key, (_TRIES,), minval=-1, maxval=1) * jnp.log(4 / 3))
            boxes = jnp.maximum(jnp.round(jnp.sqrt(jnp.stack([area / ratio, area * ratio], axis=-1))), 1)
            fits = jnp.all(boxes <= size, axis=-1)
            box = jnp.where(jnp.any(fits), boxes[jnp.argmax(fits)], size)
            corner = jnp.floor(jax.random.uniform(place_key, (2,)) * (size - box + 1))
            scale = size / box
            return jax.image.scale_and_translate(image, image.shape, (0, 1), scale, -corner * scale, "linear")

        return {**batch, "image": jax.vmap(crop)(image, keys)}

    return augment


def random_flip() -> Augmentation:
    """Mirrors each image left to right with probability 1/2."""

    def augment(variables: Any, batch: Mapping[str, Any], keys: jax.Array) -> dict[str, Any]:
        del variables
        image = _images(batch, keys)
        flip = jax.vmap(jax.random.bernoulli)(keys)[:, None, None, None]
        return {**batch, "image": jnp.where(flip, image[:, :, ::-1], image)}

    return augment


def mixup(alpha: float, *, classes: int) -> Augmentation:
    """Blends the examples of a pair: ``lambda * own + (1 - lambda) * partner``, images and labels alike.

    Neighbours of the batch are pairs, 0 with 1, 2 with 3 and so on: the order is random already, and neighbours are on
    the same device. A pair has one ``lambda ~ Beta(alpha, alpha)``, drawn from the key of its even example. A pair with
    a padded example (``batch["where"]``) is left as it is.

    ``batch["label"]``, int [batch] (or the soft labels of an earlier mix), becomes float32 [batch, classes]; a row is
    all -1 where the example or what was mixed into it is unlabelled.

    Args:
      alpha: above 0; 1 draws lambda uniformly, less keeps it close to 0 or 1.
      classes: of the data set.

    Raises:
      ValueError: an alpha that is not positive; in use: a batch (of one device, under pmap and shard_map) that is odd.

    References:
      Zhang, Cisse, Dauphin and Lopez-Paz, mixup: Beyond Empirical Risk Minimization, 2018, https://arxiv.org/abs/1710.09412
    """
    _check_alpha("mixup", alpha)

    def augment(variables: Any, batch: Mapping[str, Any], keys: jax.Array) -> dict[str, Any]:
        del variables
        image = _images(batch, keys)
        pair_keys = _pair_keys(keys)
        lam = jax.vmap(_symmetric_beta, in_axes=(0, None))(pair_keys, alpha)
        lam = jnp.repeat(jnp.where(_pairs_are_whole(batch, len(lam)), lam, 1.0), 2)
        weight = lam[:, None, None, None].astype(image.dtype)
        mixed = weight * image + (1 - weight) * _partner(image)
        return {**batch, "image": mixed, **_mixed_label(batch, lam, classes)}

    return augment


def cutmix(alpha: float, *, classes: int) -> Augmentation:
    """Pastes a box of the partner's image; labels are blended by area.

    Pairs, keys, padding and labels are those of :func:`mixup`. The box has a share ``1 - lambda`` of the image, with
    ``lambda ~ Beta(alpha, alpha)``, and its centre anywhere; what reaches over the edge is cut off, and labels are
    blended by the area that was in fact pasted. Both examples of a pair exchange the same box.

    Args:
      alpha: above 0; the paper's is 1.
      classes: of the data set.

    Raises:
      ValueError: an alpha that is not positive; in use: a batch (of one device, under pmap and shard_map) that is odd.

    References:
      Yun, Han, Oh, Chun, Choe and Yoo, CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
      Features, 2019, https://arxiv.org/abs/1905.04899
    """
    _check_alpha("cutmix", alpha)

    def augment(variables: Any, batch: Mapping[str, Any], keys: jax.Array) -> dict[str, Any]:
        del variables
        image = _images(batch, keys)
        height, width = image.shape[1:3]

        def box(key: jax.Array) -> jax.Array:
            lam_key, centre_key = jax.random.split(key)
            side = jnp.sqrt(1 - _symmetric_beta(lam_key, alpha))
            y, x = jax.random.uniform(centre_key, (2,))
            return _covers(height, y, side)[:, None] & _covers(width, x, side)

        pasted = jax.vmap(box)(_pair_keys(keys))  # bool [pairs, H, W]
        pasted &= _pairs_are_whole(batch, len(pasted))[:, None, None]
        lam = jnp.repeat(1 - pasted.mean((1, 2), dtype=jnp.float32), 2)
        mixed = jnp.where(jnp.repeat(pasted, 2, axis=0)[..., None], _partner(image), image)
        return {**batch, "image": mixed, **_mixed_label(batch, lam, classes)}

    return augment


def compose(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after the other, each with keys of its own."""

    def augment(variables: Any, batch: Mapping[str, Any], keys: jax.Array) -> dict[str, Any]:
        result = dict(batch)
        for i, augmentation in enumerate(augmentations):
            own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)
            result = augmentation(variables, result, own)
        return result

    return augment


def _check_alpha(function: str, alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(f"{function}(alpha={alpha}): it has to be above 0")


def _symmetric_beta(key: jax.Array, alpha: float) -> jax.Array:
    """Draws from Beta(alpha, alpha), float32 scalar, exactly and without rejection.

    Ulrich's formula gives Beta(alpha + 1, alpha + 1) from two uniforms. That is G / (G + G') of two Gamma(alpha + 1),
    which times U^(1 / alpha) are Gamma(alpha). The rejection loops of ``jax.random.beta`` take seconds to compile.

    References:
      Devroye, Non-Uniform Random Variate Generation, 1986, sections IX.3.5 and IX.4.3
    """
    u = jax.random.uniform(key, (4,), minval=jnp.finfo(jnp.float32).tiny)  # no zero, of which the log is infinite
    radius = jnp.sqrt(-jnp.expm1(jnp.log(u[0]) / (alpha + 0.5)))
    s = radius * jnp.cos(2 * jnp.pi * u[1])
    logit = jnp.log1p(s) - jnp.log1p(-s)
    return jax.nn.sigmoid(logit + (jnp.log(u[2]) - jnp.log(u[3])) / alpha)


def _images(batch: Mapping[str, Any], keys: jax.Array) -> jax.Array:
    """The batch's images; raises ValueError unless there is a key for each."""
    image: jax.Array = batch["image"]
    if image.ndim != 4 or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image is {image.dtype} {list(image.shape)}: augmentation works on decoded images, float [batch, H, W, C]"
        )
    if keys.shape != image.shape[:1]:
        raise ValueError(f"keys are {list(keys.shape)}, image is {list(image.shape)}: give one typed key an example")
    return image


def _pair_keys(keys: jax.Array) -> jax.Array:
    """The key of each pair: that of its even example."""
    if len(keys) % 2:
        raise ValueError(f"a batch of {len(keys)} cannot be mixed in pairs: take an even batch size on each device")
    return keys[::2]


def _pairs_are_whole(batch: Mapping[str, Any], pairs: int) -> jax.Array:
    """Which pairs have no padding in them, bool [pairs]."""
    if "where" not in batch:
        return jnp.ones(pairs, bool)
    return batch["where"].reshape(pairs, 2).all(axis=1)


def _partner(values: jax.Array) -> jax.Array:
    """For each example its partner's values: neighbours exchanged."""
    return values.reshape(-1, 2, *values.shape[1:])[:, ::-1].reshape(values.shape)


def _covers(size: int, centre: jax.Array, side: jax.Array) -> jax.Array:
    """Which of ``size`` pixels a box covers whose centre and side are given as shares of the axis, bool [size]."""
    low, high = jnp.round((centre - side / 2) * size), jnp.round((centre + side / 2) * size)
    pixel = jnp.arange(size)
    return (pixel >= low) & (pixel < high)


def _mixed_label(batch: Mapping[str, Any], lam: jax.Array, classes: int) -> dict[str, jax.Array]:
    """Soft labels, float32 [batch, classes], of which ``lam`` [batch] is the own share; none where there were none."""
    if "label" not in batch:
        return {}
    label = batch["label"]
    soft = jax.nn.one_hot(label, classes, dtype=jnp.float32) if label.ndim == 1 else label
    missing = label < 0 if label.ndim == 1 else label[:, 0] < 0
    missing |= _partner(missing) & (lam < 1)
    mixed = lam[:, None] * soft + (1 - lam[:, None]) * _partner(soft)
    return {"label": jnp.where(missing[:, None], -1.0, mixed)}
