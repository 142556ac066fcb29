"""Tensors by name from whatever weights come in: a file, a folder laid out as on a model hub, a hub's cache."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.models.pretrained._torch_file import read_torch

_FILES = ("model.safetensors", "pytorch_model.bin")


def read(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of pretrained weights, as they are there. Needs no network, and no PyTorch.

    Args:
      path: a ``.safetensors`` file; a PyTorch file (``.pth``, ``.pt``, ``.th``, ``.bin``) of either format; a folder
        with ``model.safetensors`` or ``pytorch_model.bin``, whole or in shards with their index; or the folder of a
        model in a hub's cache (``models--.../``), of which the revision that ``refs/main`` names is taken.

    Returns:
      Arrays by name. bfloat16 ones have ``ml_dtypes``' dtype, which is JAX's.

    Raises:
      FileNotFoundError: if there is no such file, or a folder has none of those.
      ModuleNotFoundError: for a ``.safetensors`` file without the ``safetensors`` library.
      ValueError: if a file is damaged, or is none of those. Pickles are read but never run: what they may hold is
        tensors, numbers and strings, and anything else is refused.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there are no weights at {path}")
    if path.is_dir():
        return _read_folder(path)
    try:
        return _read_file(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def safetensors() -> Any:
    """Returns the module ``safetensors``.

    Raises:
      ModuleNotFoundError: if it is not installed, with what installs it.
    """
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError as error:
        if error.name != "safetensors":
            raise
        raise ModuleNotFoundError(
            '.safetensors files need the safetensors library: pip install "jaxkd[train]"', name="safetensors"
        ) from None
    return safetensors


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a ``.safetensors`` file.

    Returns:
      ``(arrays by name, the file's metadata)``.

    Raises:
      ValueError: if the file is damaged.
    """
    library = safetensors()
    try:
        with library.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except library.SafetensorError as error:
        raise ValueError(f"it is no sound .safetensors file ({error})") from None


def _read_file(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(9)
    # By what is in it: a name says nothing. safetensors first, whose header's length may be any bytes.
    if start[8:] == b"{":
        return read_safetensors(path)[0]
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return read_torch(path)
    raise ValueError("it is neither a .safetensors nor a PyTorch file")


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    if (folder / "snapshots").is_dir():
        main = folder / "refs" / "main"
        revision = main.read_text().strip() if main.is_file() else ""
        if not revision or not (folder / "snapshots" / Path(revision).name).is_dir():
            raise FileNotFoundError(f"{folder}: its refs/main names no revision that is in its snapshots")
        folder = folder / "snapshots" / Path(revision).name
    for name in _FILES:
        if (folder / name).is_file():
            return read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder / f"{name}.index.json")
    raise FileNotFoundError(f"{folder}: it has neither {' nor '.join(_FILES)}, nor an index of shards of them")


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    """Reads the files that an index names, and only from its own folder."""
    try:
        places = json.loads(index.read_text())["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{index}: it is no index of shards") from None
    tensors: dict[str, np.ndarray] = {}
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{index}: it names the shard {str(name)[:100]!r}, which is not beside it: refused")
        tensors |= read(index.parent / name)
    if set(tensors) != set(places):
        odd = sorted(set(tensors) ^ set(places))
        raise ValueError(f"{index}: the index and its shards differ in {', '.join(odd[:5])}")
    return tensors
