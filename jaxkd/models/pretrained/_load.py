"""Pretrained weights into the zoo's models: all of them or none."""

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxkd._checks import shape_of
from jaxkd.models._inputs import inputs_of
from jaxkd.models._registry import create
from jaxkd.models.pretrained._files import read
from jaxkd.models.pretrained._names import classes, part_of, source, to_flax, weights


def load(
    model: str | nn.Module, path: str | PathLike[str], image_shape: tuple[int, int, int] = (224, 224, 3)
) -> dict[str, Any]:
    """Loads weights that torchvision, timm, Hugging Face or the code behind the CIFAR tables have saved.

    Residual networks, MobileNetV2 and EfficientNet have torchvision's names, BiT, MobileNetV1, ViT and DeiT timm's,
    models of text Hugging Face's. Of a BERT the heads that it was pretrained with are left out; its encoder alone is
    ``BERT(..., classes=None)``, from which ``init_from_teacher(..., keep=("classifier",))`` starts a classifier.

    Args:
      model: a model of the zoo, or the name of one, which then has as many classes (a language model: words) as the
        weights.
      path: what `read` takes.
      image_shape: (height, width, channels) of the images that the weights are for; for ViT and DeiT it says how many
        positions there are, for models of text nothing.

    Returns:
      The module's variables, ``{"params": ...}`` and perhaps ``"batch_stats"``, of the module's ``param_dtype``.

    Raises:
      FileNotFoundError, ModuleNotFoundError: as `read`.
      ValueError: if the file is refused, no foreign names are known for the model, or the weights do not fit it: the
        error lists missing, surplus and mis-shaped tensors, those that are no floats and those that are not finite.
    """
    tensors = read(path)
    if isinstance(model, str):
        any_number = create(model, 1)
        # Where the weights do not say, or the number is odd, the comparison below does.
        model = create(model, classes(any_number, weights(tensors, any_number)) or 1)
    try:
        return convert(model, tensors, image_shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def convert(
    module: nn.Module, tensors: Mapping[str, np.ndarray], image_shape: tuple[int, int, int] = (224, 224, 3)
) -> dict[str, Any]:
    """Makes a module's variables of foreign tensors; see `load`.

    Raises:
      ValueError: as `load`.
    """
    expected = expected_variables(module, image_shape)
    tensors = weights(tensors, module)
    used, problems, values = set(), Problems(), {}
    for path, leaf in expected.items():
        where = source(module, path[1:])
        name = where.name
        used.add(name)
        if name not in tensors:
            problems.missing.append(name)
            continue
        tensor = part_of(tensors[name], where)
        if path[-1] == "kernel":
            tensor = to_flax(tensor, len(leaf.shape), where.inputs_first)
        values[path] = tensor
        problems.compare(name, tensor, "/".join(path[1:]), leaf.shape)
    problems.surplus.extend(set(tensors) - used)
    problems.raise_any(type(module).__name__)
    dtypes = {path: expected[path].dtype for path in values}
    return flax.traverse_util.unflatten_dict({p: jnp.asarray(v, dtypes[p]) for p, v in values.items()})


def expected_variables(module: nn.Module, image_shape: tuple[int, int, int]) -> dict[tuple[str, ...], Any]:
    """Returns the shapes and dtypes of a module's variables, by their path with the collection first."""
    inputs = inputs_of(module, image_shape, words=1)
    return flax.traverse_util.flatten_dict(jax.eval_shape(module.init, jax.random.key(0), **inputs))


class Problems:
    """What is wrong with tensors, collected so that one error names all of it."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.surplus: list[str] = []
        self._misshaped: dict[str, str] = {}
        self._not_floats: dict[str, str] = {}
        self._not_finite: list[str] = []

    def compare(self, name: str, tensor: np.ndarray, path: str, shape: tuple[int, ...]) -> None:
        """Notes what keeps a tensor from being the variable at this path, of this shape."""
        if tensor.shape != shape:
            self._misshaped[name] = f"{name} makes {shape_of(tensor)}, {path} is [{','.join(map(str, shape))}]"
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            self._not_floats[name] = f"{name} is {tensor.dtype}"
        elif not np.isfinite(tensor).all() and name not in self._not_finite:
            self._not_finite.append(name)

    def raise_any(self, what: str) -> None:
        """Raises ValueError if there is anything wrong with the weights for ``what``."""
        kinds = {
            "missing": self.missing,
            "surplus": self.surplus,
            "mis-shaped": self._misshaped.values(),
            "no floats": self._not_floats.values(),
            "not finite": self._not_finite,
        }
        found = [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]
        if found:
            raise ValueError(f"these weights are not loaded, they do not fit {what}; " + "; ".join(found))


def _listed(names: Iterable[str]) -> str:
    names = sorted(set(names))
    return ", ".join(names[:10]) + (f" ... and {len(names) - 10} more" if len(names) > 10 else "")
