"""What the golden arrays are of: small models of each family, their weights and images drawn from a fixed seed.

Weights are drawn again wherever they are needed, so that a file holds outputs only. ``make_golden`` writes the files.
"""

import math
import zlib
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxkd import models

CLASSES = 7
# With every kind of block that the family has: the first of a stage and a later one, with and without a new width.
MODELS = {
    "cifar_resnet": models.CifarResNet(14, CLASSES),
    "wide_resnet": models.WideResNet(16, CLASSES),
    "vgg": models.VGG((1, 2, 1, 1, 1), CLASSES, widths=(4, 8, 8, 12, 512)),
    "cifar_mobilenet": models.CifarMobileNetV2(0.25, CLASSES, expand=2),
    "shufflenet_v1": models.ShuffleNetV1((36, 72, 144), CLASSES, units=(2, 1, 1)),
    "shufflenet_v2": models.ShuffleNetV2((12, 24, 48, 40), CLASSES, units=(2, 2, 2)),
    "cifar_bottleneck_resnet": models.CifarBottleneckResNet((2, 1, 1, 1), CLASSES),
}
# The published code of the others averages the last map of 32x32 images alone.
SIZES = {"cifar_bottleneck_resnet": 16}


def file(family):
    return Path(__file__).parent / "golden" / f"{family}.npz"


def image(family):
    """Two images, float32 [2, H, W, 3]."""
    size = SIZES.get(family, 32)
    return _generator(family, "image").normal(size=(2, size, size, 3)).astype(np.float32)


def variables(family, seed=0):
    """Weights and running statistics, as if of a trained network: no BatchNorm is what it was drawn as."""
    shapes = flatten_dict(jax.eval_shape(MODELS[family].init, jax.random.key(0), image(family)), sep="/")
    return unflatten_dict({path: _drawn(family, path, leaf.shape, seed) for path, leaf in shapes.items()}, sep="/")


def _drawn(family, path, shape, seed):
    generator = _generator(family, path, seed=seed)
    if path.endswith("/kernel"):
        x = generator.normal(size=shape) * math.sqrt(2 / math.prod(shape[:-1]))
    elif path.endswith(("/scale", "/var")):
        x = generator.uniform(0.5, 1.5, shape)
    else:
        x = generator.normal(size=shape) * 0.1
    return x.astype(np.float32)


def _generator(*words, seed=0):
    return np.random.default_rng(zlib.crc32("/".join(words).encode(), seed))


def digest(x):
    """For each example the mean of each channel over the positions, and of many channels 32 combinations of them."""
    means = np.asarray(x).reshape(len(x), -1, x.shape[-1]).mean(1)
    if means.shape[-1] <= 128:
        return means
    return means @ np.cos(np.outer(np.arange(means.shape[-1]), np.arange(1, 33))) / math.sqrt(means.shape[-1])


def digest_of_statistics(stats):
    """A number for each vector of running statistics, in the order of their paths: a fixed combination of it."""
    flat = flatten_dict(stats, sep="/")
    return np.array([np.cos(np.arange(len(x))) @ np.asarray(x) / math.sqrt(len(x)) for _, x in sorted(flat.items())])
