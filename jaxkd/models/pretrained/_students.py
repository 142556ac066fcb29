"""Students to take away: variables and what makes their module, in one ``.safetensors`` file."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxkd.models._registry import create
from jaxkd.models.pretrained._files import read_safetensors, safetensors
from jaxkd.models.pretrained._load import Problems, expected_variables

_METADATA = "jaxkd"


class Student(NamedTuple):
    """A model that was saved.

    Attributes:
      module: the model, ``create(config["model"], config["classes"])``.
      variables: its variables.
      config: what was saved with it.
    """

    module: nn.Module
    variables: dict[str, Any]
    config: dict[str, Any]


def save(path: str | PathLike[str], variables: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Saves variables as ``.safetensors``, each under its path ("params/stem/conv/kernel"), with their config.

    The file appears whole or not at all.

    Args:
      path: of the file, which must not exist yet.
      variables: a mapping of collections.
      config: what can be written as JSON; with at least ``"model"``, a name of the zoo, ``"classes"``, and
        ``"image_shape"``, (height, width, channels), () for a model of text. It becomes the metadata ``"jaxkd"``.

    Raises:
      FileExistsError: if there is such a file.
      ModuleNotFoundError: without the ``safetensors`` library.
      ValueError: if the config or the variables are not those of a model, or are not finite.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; give another path, nothing is overwritten")
    tensors = {"/".join(key): np.asarray(leaf) for key, leaf in flax.traverse_util.flatten_dict(variables).items()}
    _module(config, tensors)
    metadata = {_METADATA: json.dumps(dict(config))}
    data = safetensors().numpy.save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_student(path: str | PathLike[str]) -> Student:
    """Loads what `save` has saved.

    Args:
      path: of the file.

    Returns:
      The student: module, variables and config.

    Raises:
      FileNotFoundError: if there is no such file.
      ModuleNotFoundError: without the ``safetensors`` library.
      ValueError: if the file is damaged or was not saved by `save`, or its variables are not those of its model; the
        error lists which.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no student at {path}")
    try:
        tensors, metadata = read_safetensors(path)
        if _METADATA not in metadata:
            raise ValueError(f'it has no metadata "{_METADATA}": it is no saved student; weights of others: load')
        config = json.loads(metadata[_METADATA])
        module = _module(config, tensors)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    variables = {tuple(name.split("/")): jnp.asarray(array) for name, array in tensors.items()}
    return Student(module, flax.traverse_util.unflatten_dict(variables), config)


def _module(config: Any, tensors: Mapping[str, np.ndarray]) -> nn.Module:
    """Makes the module of a config, after checking that the tensors are its variables."""
    kinds = {"model": str, "classes": int, "image_shape": list | tuple}
    given = config if isinstance(config, Mapping) else {}
    lacking = [key for key, kind in kinds.items() if not isinstance(given.get(key), kind)]
    if lacking:
        raise ValueError(f"the config lacks {', '.join(lacking)}: without it nothing says which model this is")
    if not all(type(n) is int and n > 0 for n in config["image_shape"]):
        raise ValueError(f"the config's image_shape is {config['image_shape']}: it has to be (height, width, channels)")
    module = create(config["model"], config["classes"])
    expected = {"/".join(path): leaf for path, leaf in expected_variables(module, config["image_shape"]).items()}
    problems = Problems()
    for name, leaf in expected.items():
        if name in tensors:
            problems.compare(name, tensors[name], name, leaf.shape)
        else:
            problems.missing.append(name)
    problems.surplus.extend(set(tensors) - set(expected))
    problems.raise_any(config["model"])
    return module
