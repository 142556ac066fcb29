"""Weights and images for the golden runs: drawn from NumPy by name, so that a golden file holds outputs only."""

import zlib

import flax
import jax
import numpy as np

from jaxkd.models import BiT, EfficientNet, ImageNetResNet, MobileNetV1, MobileNetV2, ViT

CLASSES = 10
IMAGE_SHAPE = (64, 64, 3)
BATCH = 4

# (expand, features, blocks, strides), and with the kernel for EfficientNet.
SMALL_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2), (6, 64, 1, 2), (6, 96, 1, 1), (6, 160, 2, 2), (6, 320, 1, 1))
SMALL_EFFICIENTNET = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 1, 2),
    (6, 3, 80, 1, 2),
    (6, 5, 112, 1, 1),
    (6, 5, 192, 2, 2),
    (6, 3, 320, 1, 1),
)

# Without dropout, which no two libraries draw alike. EfficientNet with the BatchNorm of B5 to B7.
MODULES = {
    "resnet_basic": ImageNetResNet((1, 2, 1, 1), CLASSES),
    "resnet_bottleneck": ImageNetResNet((2, 1, 1, 1), CLASSES, bottleneck=True),
    "mobilenet_v1": MobileNetV1(CLASSES, width=0.25),
    "mobilenet_v2": MobileNetV2(CLASSES, 0.5, SMALL_V2, dropout=0.0),
    "efficientnet": EfficientNet(CLASSES, 0.5, 1.0, 0.0, 0.0, SMALL_EFFICIENTNET, momentum=0.99, epsilon=1e-3),
    "bit": BiT((1, 2, 1, 1), CLASSES),
    "vit": ViT(24, 2, 3, CLASSES),
    "deit": ViT(24, 2, 3, CLASSES, distilled=True),
}


def _generator(name, seed=0):
    return np.random.default_rng(zlib.crc32(name.encode(), seed))


def tensor(name, shape, seed=0):
    """Draws the tensor of this name: of a size that keeps activations near 1, variances and scales about 1."""
    rng = _generator(name, seed)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        values = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        values = 0.1 * rng.standard_normal(shape)
    else:
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return values.astype(np.float32)


def images():
    """Draws the batch."""
    return _generator("image").standard_normal((BATCH, *IMAGE_SHAPE)).astype(np.float32)


def drawn(module, shape):
    """Variables of any module for images of this shape, without compiling what draws its own."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    shapes = flax.traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), image), sep="/")
    names = {"kernel": "kernel", "scale": "weight", "var": "running_var"}
    values = {path: tensor(path + names.get(path.rpartition("/")[2], ""), leaf.shape) for path, leaf in shapes.items()}
    return jax.tree.map(jax.numpy.asarray, flax.traverse_util.unflatten_dict(values, sep="/"))


def projection(name, values):
    """One number for an array: its product with a drawn one, divided by the root of its size."""
    values = np.asarray(values, np.float64)
    return float(values @ _generator(f"{name}/projection").standard_normal(values.shape) / np.sqrt(values.size))
