"""Reads tensors from PyTorch's files, ``.pth``, ``.pt``, ``.th`` or ``.bin``, with NumPy alone.

Since 1.6 such a file is a zip archive: a pickle ``data.pkl``, and a record ``data/<key>`` for each storage. Before, it
was a row of pickles (a magic number, the version, the machine, the object, the storages' keys), then the storages.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxkd.models.pretrained._pickle_stream import read_object

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: Mapping[str, np.dtype] = {
    "Float": np.dtype(np.float32),
    "Double": np.dtype(np.float64),
    "Half": np.dtype(np.float16),
    "BFloat16": np.dtype(jnp.bfloat16),
    "Long": np.dtype(np.int64),
    "Int": np.dtype(np.int32),
    "Short": np.dtype(np.int16),
    "Char": np.dtype(np.int8),
    "Byte": np.dtype(np.uint8),
    "Bool": np.dtype(np.bool_),
}


class Storage(NamedTuple):
    """Where the numbers of tensors are: the key of a flat array."""

    dtype: np.dtype
    key: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage: element (i, j ...) is number ``offset + i strides[0] + j strides[1] ...`` of it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Reads the state dict of a PyTorch file.

    It is the file's object itself, or that under ``"state_dict"`` or ``"model"``, or under its only key with tensors.
    The prefix ``module.`` is left out where all names have it.

    Args:
      path: of the file, in either format.

    Returns:
      Arrays by name, read-only views of the storages.

    Raises:
      ValueError: if the file is damaged, or holds what no state dict needs. Nothing in it is ever run.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        state, array_of = (_read_zip if zipped else _read_legacy)(path)
        tensors = _state_dict(state)
        return {name: _view(name, tensor, array_of(tensor.storage)) for name, tensor in tensors.items()}
    except (zipfile.BadZipFile, struct.error, EOFError, OSError, RuntimeError, OverflowError) as error:
        # What `zipfile` raises of headers that lie, and sizes no file can have.
        raise ValueError(f"it is damaged ({error})") from None


def _read_zip(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        records = {}
        for info in archive.infolist():
            # PyTorch compresses nothing: records are as large as they say, and together no larger than the file.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(
                    f"its record {info.filename[:100]!r} is compressed, which PyTorch's never are: refused"
                )
            records[info.filename.partition("/")[2]] = info
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise ValueError("its records claim more bytes than the file has: refused")
        if "data.pkl" not in records:
            raise ValueError("it is a zip archive, but without a data.pkl: PyTorch did not write it")
        read = {name: archive.read(info) for name, info in records.items() if name.split("/")[0] in _PARTS}
    if read.get("byteorder", b"little") != b"little":
        raise ValueError("its bytes are in big-endian order, which is not read")
    state = read_object(io.BytesIO(read["data.pkl"]), _NAMES, _storage)

    def array_of(storage: Storage) -> np.ndarray:
        if f"data/{storage.key}" not in read:
            raise ValueError(f"it has no storage {storage.key[:100]!r}")
        return _numbers(storage, read[f"data/{storage.key}"])

    return state, array_of


_PARTS = ("data.pkl", "byteorder", "data")


def _read_legacy(path: Path) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    stream = io.BytesIO(path.read_bytes())
    if read_object(stream, {}, _storage) != _MAGIC:
        raise ValueError("it is a pickle, but PyTorch did not write it")
    if read_object(stream, {}, _storage) != 1001:
        raise ValueError("it is of another version than 1001 of PyTorch's old format")
    machine = read_object(stream, {}, _storage)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("its bytes are in big-endian order, which is not read")
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        storage = _storage(identity)
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"its storage {storage.key[:100]!r} is of two kinds")
        return storage

    state = read_object(stream, _NAMES, persistent)
    keys = read_object(stream, {}, _storage)
    arrays = {}
    for key in keys if isinstance(keys, list) else ():
        if key not in storages:
            raise ValueError(f"it has a storage {str(key)[:100]!r} that no tensor is of")
        storage = storages[key]
        if int.from_bytes(stream.read(8), "little") != storage.size:
            raise ValueError(f"its storage {key[:100]!r} is of another size than its tensors say, or it is cut short")
        arrays[key] = _numbers(storage, stream.read(storage.size * storage.dtype.itemsize))

    def array_of(storage: Storage) -> np.ndarray:
        if storage.key not in arrays:
            raise ValueError(f"it has no storage {storage.key[:100]!r}")
        return arrays[storage.key]

    return state, array_of


def _storage(identity: Any) -> Storage:
    """Makes a storage of its persistent id: ("storage", dtype, key, device, size), in the old format with a view."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6):
        raise TypeError
    kind, dtype, key, _, size, *view = identity
    if kind != "storage" or not isinstance(dtype, np.dtype) or view not in ([], [None]):
        raise ValueError("its pickle refers to something else than a storage: refused")
    if not isinstance(key, str) or not isinstance(size, int) or size < 0:
        raise TypeError
    return Storage(dtype, key, size)


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    if items:
        raise TypeError
    return {}


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise TypeError
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


# All that a state dict's pickle may name.
_NAMES: Mapping[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
}


def _numbers(storage: Storage, data: bytes) -> np.ndarray:
    if len(data) != storage.size * storage.dtype.itemsize:
        raise ValueError(
            f"its storage {storage.key[:100]!r} has {len(data)} bytes where {storage.size} {storage.dtype} are promised"
        )
    return np.frombuffer(data, storage.dtype)


def _view(name: str, tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """Returns the tensor, after checking that all of it lies in the storage, and that it has no more numbers."""
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or len(shape) > 32 or 0 in shape:
        raise ValueError(f"its tensor {name[:100]!r} has the shape {list(shape)[:32]}: refused")
    end = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    if max(math.prod(shape), end) > len(numbers):
        raise ValueError(f"its tensor {name[:100]!r} of shape {list(shape)} is larger than its storage: refused")
    # Where an axis has one element its stride means nothing, and may be anything.
    steps = [stride * numbers.itemsize if n > 1 else 0 for n, stride in zip(shape, strides, strict=True)]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, steps, writeable=False)


def _state_dict(state: Any) -> dict[str, Tensor]:
    """Finds the tensors of a checkpoint."""
    inner = _tensors(state)
    if not inner and isinstance(state, dict):
        found = {key: tensors for key, value in state.items() if (tensors := _tensors(value))}
        usual = [key for key in ("state_dict", "model") if key in found]
        if len(found) > 1 and not usual:
            raise ValueError(
                f"it has tensors under several keys, {', '.join(map(repr, found))[:300]}: save one of them"
            )
        inner = found[(usual or list(found))[0]] if found else {}
    if not inner:
        raise ValueError("it has no tensors by name: save model.state_dict()")
    if all(name.startswith("module.") for name in inner):
        inner = {name.removeprefix("module."): tensor for name, tensor in inner.items()}
    return inner


def _tensors(value: Any) -> dict[str, Tensor]:
    items = value.items() if isinstance(value, dict) else ()
    return {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, Tensor)}
