"""One pytree of arrays in one directory: written by Orbax, read back only if every byte is the one that was written."""

import hashlib
import json
import math
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxkd.training._orbax import epath, ocp, ts

__all__ = [
    "CheckpointError",
    "CheckpointMismatchError",
    "LeafSpec",
    "Manifest",
    "describe_mismatch",
    "leaf_specs",
    "one_line",
    "read_manifest",
    "read_tree",
    "tree_hash",
    "write_tree",
]

Path = tuple[str | int, ...]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or what is on the disk cannot be trusted."""


class CheckpointMismatchError(CheckpointError):
    """A sound checkpoint that belongs to another config, another teacher or another program."""


class LeafSpec(NamedTuple):
    """What a leaf looks like on the disk; a typed PRNG key is its `uint32` data and the name of its `impl`."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    impl: str | None

    @property
    def name(self) -> str:
        return "/".join(map(str, self.path))

    def __str__(self) -> str:
        array = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        return array if self.impl is None else f"{self.impl} key {array}"


class Manifest(NamedTuple):
    """The small JSON beside the arrays: `header` is the caller's, `digests[name]` the SHA-256 of each written slice."""

    header: dict[str, Any]
    leaves: list[LeafSpec]
    digests: dict[str, dict[str, str]]


def tree_hash(tree: Any) -> str:
    """SHA-256 of the content of a pytree of arrays: the paths, dtypes, shapes and bytes of its leaves.

    The same for NumPy and JAX leaves, for any sharding and for any containers with the same keys. Typed PRNG keys count
    by their data and implementation. On several hosts every process has to call it: an array that spans processes is
    gathered, one leaf at a time.

    Args:
      tree: pytree of arrays, such as the variables of a teacher.

    Returns:
      64 hexadecimal digits.

    Raises:
      TypeError: a leaf is not an array.
    """
    digest = hashlib.sha256()
    for spec, leaf in sorted(zip(leaf_specs(tree), jax.tree.leaves(tree), strict=True), key=lambda pair: pair[0].name):
        array = _raw(leaf)
        if _spans_processes(array):
            array = multihost_utils.process_allgather(array, tiled=True)
        digest.update(_canonical([spec.name, spec.shape, spec.dtype, spec.impl]))
        digest.update(_bytes(np.asarray(array)))
    return digest.hexdigest()


def write_tree(directory: epath.Path, tree: Any, header: Mapping[str, Any]) -> Any:
    """Starts to write `tree` and `header` to `directory`, which appears whole or not at all.

    The values are copied to the host before this returns (the caller may donate its buffers); hashing and writing go on
    in the background. An array that spans processes stays with Orbax, which writes each host's part.

    Returns:
      Orbax's response; `.result()` waits and raises what went wrong.
    """
    specs = leaf_specs(tree)
    raw = [_raw(leaf) for leaf in jax.tree.leaves(tree)]
    # All transfers start before the first is waited for. The copy matters on CPU, where device_get returns a view that
    # would keep the buffer from being donated.
    visible = jax.device_get([None if _spans_processes(x) else x for x in raw])
    arrays = [x if host is None else np.array(host) for x, host in zip(raw, visible, strict=True)]
    slices = [_own_slices(array) for array in arrays]
    # Orbax refuses empty arrays; their whole content is in the manifest.
    stored = {spec.path: array for spec, array in zip(specs, arrays, strict=True) if math.prod(spec.shape)}
    parts: dict[str, Any] = {"manifest": _ManifestWriter(dict(header), specs, slices)}
    if stored:
        parts["arrays"] = _nest(stored)
    # The format that `_read_arrays` knows, whatever Orbax's default becomes.
    context = ocp.Context()
    context.array.saving.use_ocdbt = True
    context.array.saving.use_zarr3 = True
    with context:
        return ocp.save_checkpointables_async(directory, parts)


def read_manifest(directory: epath.Path) -> Manifest:
    """Reads and verifies the manifest of `directory`.

    Raises:
      CheckpointError: it is missing, incomplete or altered; the message is one line without the directory.
    """
    processes, manifest = _parse_manifest(directory / "manifest" / "process_0.json")
    for process in range(1, processes):
        _, other = _parse_manifest(directory / "manifest" / f"process_{process}.json")
        if other[:2] != manifest[:2]:
            raise CheckpointError("the manifests of its processes contradict each other")
        for name, entries in other.digests.items():
            manifest.digests[name].update(entries)
    return manifest


def describe_mismatch(manifest: Manifest, like: Any) -> str | None:
    """The first leaf in which the stored tree and `like` differ, with both sides; None if they agree."""
    stored = {spec.name: spec for spec in manifest.leaves}
    wanted = {spec.name: spec for spec in leaf_specs(like)}
    for name in [*wanted, *(name for name in stored if name not in wanted)]:
        there, here = stored.get(name), wanted.get(name)
        if there is None or here is None or there[1:] != here[1:]:
            return f"leaf {name} is {there or 'missing'} in the checkpoint and {here or 'missing'} in the program"
    return None


def read_tree(directory: epath.Path, manifest: Manifest, like: Any | None = None) -> Any:
    """Reads the arrays of `directory`, verifies every digest and places them.

    Every process reads and verifies the whole tree, so that a checkpoint written on one topology can be trusted on
    another; it has to fit into each host's memory.

    Args:
      directory: what `write_tree` wrote.
      manifest: its manifest.
      like: tree of arrays or `jax.ShapeDtypeStruct` with the structure of the stored one (`describe_mismatch`); a leaf
        with a sharding is placed on it, a NumPy leaf stays on the host. None: nested dictionaries of arrays on the
        default device, in which sequences are dictionaries by index.

    Returns:
      The tree.

    Raises:
      CheckpointError: a leaf is not what was written; the message is one line that names it.
    """
    hosts = _read_arrays(directory, manifest.leaves)
    for spec, host in zip(manifest.leaves, hosts, strict=True):
        _verify(spec, host, manifest.digests[spec.name])
    if like is None:
        return _nest(
            {s.path: _place(h, s.impl, None) for s, h in zip(manifest.leaves, hosts, strict=True)}, named=False
        )
    by_name = {spec.name: (spec, host) for spec, host in zip(manifest.leaves, hosts, strict=True)}
    leaves, treedef = jax.tree.flatten(like)
    placed = []
    for spec, leaf in zip(leaf_specs(like), leaves, strict=True):
        stored, host = by_name[spec.name]
        placed.append(_place(host, stored.impl, leaf))
    return jax.tree.unflatten(treedef, placed)


def one_line(error: BaseException) -> str:
    """What went wrong at the root of `error`, in one line of readable length."""
    while error.__cause__ is not None:
        error = error.__cause__
    # Behind this word TensorStore appends how it was configured.
    text = " ".join(str(error).split(" [tensorstore_spec")[0].split())
    if len(text) > 320:
        text = f"{text[:80]} ... {text[-240:]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _read_arrays(directory: epath.Path, specs: Sequence[LeafSpec]) -> list[np.ndarray]:
    # Read by TensorStore, as Orbax does. Orbax itself names no leaf in its errors, and abandons the reads behind the
    # first failing one on a closed event loop, for which asyncio prints pages.
    base = (directory / "arrays").as_uri() + "/"
    context = ts.Context()
    futures = {}
    for spec in specs:
        if math.prod(spec.shape):
            array = {"driver": "ocdbt", "base": base, "path": _name_on_disk(spec) + "/" if spec.path else ""}
            futures[spec.path] = ts.open({"driver": "zarr3", "kvstore": array}, context=context, read=True, open=True)
    hosts = []
    for spec in specs:
        try:
            stored = futures[spec.path].result() if spec.path in futures else None
            if stored is None:
                hosts.append(np.zeros(spec.shape, jnp.dtype(spec.dtype)))
            elif stored.shape != spec.shape:
                raise ValueError(f"its shape on the disk is {stored.shape}")
            else:
                hosts.append(stored.read().result())
        except (ValueError, OSError, NotImplementedError) as error:  # as which TensorStore reports damage
            raise CheckpointError(f"leaf {spec.name} cannot be read: {one_line(error)}") from error
    return hosts


class _ManifestWriter:
    """The part of a checkpoint that hashes its arrays in the background (Orbax's `StatefulCheckpointable`)."""

    def __init__(self, header: dict[str, Any], specs: Sequence[LeafSpec], slices: Sequence[dict[str, np.ndarray]]):
        self._header = header
        self._specs = specs
        self._slices = slices

    async def save(self, directory: Any) -> Awaitable[None]:
        async def hash_and_write() -> None:
            body = {
                "header": self._header,
                "processes": jax.process_count(),
                "leaves": [
                    {
                        "path": spec.path,
                        "shape": spec.shape,
                        "dtype": spec.dtype,
                        "impl": spec.impl,
                        "sha256": {index: hashlib.sha256(_bytes(x)).hexdigest() for index, x in slices.items()},
                    }
                    for spec, slices in zip(self._specs, self._slices, strict=True)
                ],
            }
            # The digest of the manifest itself: a flipped byte in a hash or a metric must not pass for the truth.
            text = _canonical({"body": body, "sha256": hashlib.sha256(_canonical(body)).hexdigest()}).decode()
            parent = await directory.await_creation()
            (parent / f"process_{jax.process_index()}.json").write_text(text)

        return hash_and_write()

    async def load(self, directory: Any) -> Awaitable[None]:
        raise NotImplementedError("manifests are read without Orbax")


def _parse_manifest(path: epath.Path) -> tuple[int, Manifest]:
    body = _verified_body(path)
    leaves = [LeafSpec(tuple(x["path"]), tuple(x["shape"]), x["dtype"], x["impl"]) for x in body["leaves"]]
    digests = {spec.name: x["sha256"] for spec, x in zip(leaves, body["leaves"], strict=True)}
    return body["processes"], Manifest(body["header"], leaves, digests)


def _verified_body(path: epath.Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
        body = document["body"]
        sound = document["sha256"] == hashlib.sha256(_canonical(body)).hexdigest()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError("it has no manifest: it is empty or was not completed") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"its manifest cannot be read: {one_line(error)}") from error
    if not sound:
        raise CheckpointError("its manifest's digest differs (a changed byte)")
    return dict(body)


def _verify(spec: LeafSpec, host: np.ndarray, digests: Mapping[str, str]) -> None:
    covered = 0
    for index, digest in digests.items():
        window = tuple(slice(start, stop) for start, stop in json.loads(index))
        part = host[window]
        covered += part.size
        if hashlib.sha256(_bytes(part)).hexdigest() != digest:
            raise CheckpointError(f"leaf {spec.name}: digest differs (a changed byte)")
    if host.dtype != jnp.dtype(spec.dtype):
        raise CheckpointError(f"leaf {spec.name}: its dtype on the disk is {host.dtype}, not {spec.dtype}")
    if covered != host.size:
        raise CheckpointError(f"leaf {spec.name}: digests cover {covered} of its {host.size} elements")


def _place(host: np.ndarray, impl: str | None, like: Any) -> Any:
    if isinstance(like, np.ndarray | np.generic):
        return host
    sharding = getattr(like, "sharding", None)
    # An uncommitted array stays one: committing it would change how jit sees it, and compile the step once more.
    if sharding is None or (isinstance(like, jax.Array) and not like.committed):
        array = jnp.asarray(host)
    else:
        array = jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
    return array if impl is None else jax.random.wrap_key_data(array, impl=impl)


def leaf_specs(tree: Any) -> list[LeafSpec]:
    """The leaves of a pytree of arrays, in its order; TypeError or ValueError for a tree that cannot be stored."""
    specs = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = tuple(_key(entry) for entry in path)
        name = "/".join(map(str, keys))
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            raise TypeError(
                f"leaf {name} is a {type(leaf).__name__}, not an array: make it one, such as jnp.asarray(it)"
            )
        shape, dtype, impl = leaf.shape, leaf.dtype, None
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            shape, dtype, impl = _key_layout(leaf)
        specs.append(LeafSpec(keys, tuple(shape), str(dtype), impl))
    joined = [_name_on_disk(spec) for spec in specs]
    if len(set(joined)) < len(joined):
        twice = next(name for i, name in enumerate(joined) if name in joined[:i])
        raise ValueError(f"two leaves have the same name {twice!r} on the disk: rename one of them")
    return specs


def _key_layout(key: Any) -> tuple[tuple[int, ...], Any, str]:
    # Traced, because key_impl takes keys but no ShapeDtypeStruct of keys.
    impls = []

    def trace(key: jax.Array) -> jax.Array:
        impls.append(str(jax.random.key_impl(key)))
        return jax.random.key_data(key)

    data = jax.eval_shape(trace, jax.ShapeDtypeStruct(key.shape, key.dtype))
    return data.shape, data.dtype, impls[0]


def _key(entry: Any) -> str | int:
    match entry:
        case jax.tree_util.DictKey(key=key) | jax.tree_util.FlattenedIndexKey(key=key):
            return key if isinstance(key, int) else str(key)
        case jax.tree_util.SequenceKey(idx=index):
            return index
        case jax.tree_util.GetAttrKey(name=name):
            return name
        case _:
            return str(entry)


def _name_on_disk(spec: LeafSpec) -> str:
    """How Orbax joins keys."""
    return ".".join(map(str, spec.path))


def _nest(flat: Mapping[Path, Any], *, named: bool = True) -> Any:
    """Nested dictionaries from leaves by path (a lone leaf has the path `()`); `named`: string keys, as on the disk."""
    root: dict[Any, Any] = {"": {}}
    for path, value in flat.items():
        *parents, last = ("", *(str(key) if named else key for key in path))
        node = root
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return root[""]


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _spans_processes(x: Any) -> bool:
    return isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)


def _own_slices(x: Any) -> dict[str, np.ndarray]:
    """The slices whose digest this process has to write, by their index in the whole array."""
    if isinstance(x, np.ndarray):
        return {_index(tuple(slice(None) for _ in x.shape), x.shape): x} if jax.process_index() == 0 else {}
    return {_index(s.index, x.shape): np.array(s.data) for s in x.addressable_shards if s.replica_id == 0}


def _index(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    return json.dumps([s.indices(size)[:2] for s, size in zip(index, shape, strict=True)], separators=(",", ":"))


def _bytes(x: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(x).reshape(-1).view(np.uint8))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
