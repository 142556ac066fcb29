"""One compiled unit for all machines: a scan over a chunk of steps, under jit with shardings, shard_map or pmap.

The step code is the same in all three. ``jit`` over a mesh is the way: the compiler sees the global batch, so BatchNorm
statistics and relational losses are global by themselves. Under ``shard_map`` and ``pmap`` (for code bases that still
use it) a step sees its device's part of the batch and the name of the axis, BatchNorm statistics are those of a device
unless the model names the axis, and they are averaged after the step.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd.learners import Learner
from jaxkd.networks import Batch, PyTree

Mode = Literal["jit", "shard_map", "pmap"]

# A parameter smaller than this is replicated: gathering it costs more than the memory it takes.
_FSDP_SMALLEST = 2**12


class Data(Protocol):
    """What the runner needs of a data order; ``jaxkd.data.Batches`` is one."""

    batch_size: int
    batch_axis: int

    @property
    def source(self) -> Mapping[str, Any] | tuple[()]:
        """Arrays by name that are put on the device once; ``()`` if there are none."""

    def chunk(self, start: int, length: int) -> Mapping[str, Any]:
        """Arrays by name, at least one: what steps ``start`` to ``start + length - 1`` need, stacked.

        The batch is at ``batch_axis``.
        """

    def fetch(self, source: Any, x: Mapping[str, Any]) -> Batch:
        """The batch, from the source and one step of a chunk; runs inside the compiled program."""


def make_mesh(data: int | None = None, fsdp: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes ``"data"`` and ``"fsdp"``; the batch is split over both, parameters over the second.

    The axes are Auto: the compiler propagates shardings. (JAX's default, Explicit, makes them part of the types, and
    ordinary models do not type-check.)

    Args:
      data: devices along ``"data"``; by default all that ``fsdp`` leaves.
      fsdp: devices along ``"fsdp"``.
      devices: by default all there are.

    Raises:
      ValueError: if the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    data = len(devices) // fsdp if data is None else data
    if data * fsdp != len(devices) or data < 1 or fsdp < 1:
        raise ValueError(f"a mesh of data={data}, fsdp={fsdp} has {data * fsdp} devices, and there are {len(devices)}")
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=auto, devices=devices)


def fsdp_sharding(tree: PyTree, mesh: Mesh) -> PyTree:
    """Shardings that split every large leaf over ``"fsdp"``: its largest dimension that the axis divides.

    Args:
      tree: arrays or shapes: parameters, optimizer state, a teacher's variables.
      mesh: from ``make_mesh``.

    Returns:
      A tree of ``NamedSharding``; small leaves, those no dimension of which divides, and PRNG keys are replicated.
    """
    devices = mesh.shape["fsdp"]

    def sharding(x: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(x.shape) if size % devices == 0]
        if devices == 1 or x.size < _FSDP_SMALLEST or not divisible or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return NamedSharding(mesh, P())
        largest = max(divisible, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*(None,) * largest, "fsdp"))

    return jax.tree.map(sharding, tree)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A learner with its data, compiled.

    Attributes:
      chunk: ``(state, frozen, source, xs) -> (state, metrics)``: as many steps as ``xs`` has, metrics stacked on a
        leading axis [steps]. ``state`` is donated: use the one that comes back. One trace per length.
      mesh: the devices.
      mode: how the batch is split over them.
    """

    chunk: Any
    mesh: Mesh
    mode: Mode
    _batch_axis: int

    def put(self, tree: PyTree) -> PyTree:
        """State or frozen variables, on their devices: replicated, or split where the mesh has an fsdp axis.

        Always a copy, so that donating it takes nothing from the caller.
        """
        return jax.tree.map(_place, tree, fsdp_sharding(tree, self.mesh))

    def put_source(self, source: PyTree) -> PyTree:
        """A resident data set, on every device."""
        return jax.device_put(source, NamedSharding(self.mesh, P()))

    def put_chunk(self, xs: PyTree) -> PyTree:
        """A chunk's inputs (this process's part of them), split over the devices along the batch."""
        if self.mode == "pmap":
            return jax.tree.map(self._split, xs)
        sharding = NamedSharding(self.mesh, P(*(None,) * self._batch_axis, ("data", "fsdp")))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), xs)

    def _split(self, x: Any) -> Any:
        """[steps, ..., batch, ...] as [steps, ..., devices, batch of a device, ...]."""
        axis, local = self._batch_axis, len(self.mesh.local_devices)
        return x.reshape(*x.shape[:axis], local, x.shape[axis] // local, *x.shape[axis + 1 :])


def compile(learner: Learner, data: Data, *, mesh: Mesh | None = None, mode: Mode = "jit") -> Compiled:
    """Compiles a learner's steps over the batches of ``data``: teacher, student, loss and data in one program.

    Args:
      learner: any learner.
      data: where batches come from; its ``fetch`` runs inside the program.
      mesh: from ``make_mesh``; by default one device.
      mode: ``"jit"``: shardings, the compiler splits the work; parameters, optimizer and teacher may be sharded over
        ``"fsdp"``. ``"shard_map"``, ``"pmap"``: every device runs the step on its part of the batch, everything
        else is replicated.

    Raises:
      ValueError: if the devices do not divide the batch, for an unknown mode, for an fsdp axis without ``"jit"``.
    """
    mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
    if mode not in ("jit", "shard_map", "pmap"):
        raise ValueError(f'mode={mode!r}: there are "jit", "shard_map" and "pmap"')
    if mode != "jit" and mesh.shape["fsdp"] > 1:
        raise ValueError(f'parameters are sharded over fsdp={mesh.shape["fsdp"]} under mode="jit" only, not "{mode}"')
    if data.batch_size % mesh.size:
        raise ValueError(
            f"a batch of {data.batch_size} examples does not divide over {mesh.size} devices: "
            f"take {_nearest_multiple(data.batch_size, mesh.size)}, or fewer devices"
        )

    def steps(
        state: PyTree, frozen: PyTree, source: PyTree, xs: PyTree, axis_name: Any = None
    ) -> tuple[PyTree, Mapping[str, jax.Array]]:
        def body(state: PyTree, x: PyTree) -> tuple[PyTree, Mapping[str, jax.Array]]:
            return learner.step(state, frozen, data.fetch(source, x), axis_name=axis_name)

        return jax.lax.scan(body, state, xs)

    def mapped(state: PyTree, frozen: PyTree, source: PyTree, xs: PyTree) -> tuple[PyTree, Mapping[str, jax.Array]]:
        return steps(state, frozen, source, xs, axis_name="data")

    def sharded(state: PyTree, frozen: PyTree, source: PyTree, xs: PyTree) -> tuple[PyTree, Mapping[str, jax.Array]]:
        state, metrics = steps(state, frozen, source, xs)
        # What comes out is laid out like what went in: the next chunk must not compile anew.
        return jax.lax.with_sharding_constraint(state, fsdp_sharding(state, mesh)), metrics

    chunk: Any
    if mode == "pmap":
        axes = (None, None, None, data.batch_axis)
        devices = None if mesh.size == jax.device_count() else list(mesh.devices.flat)
        chunk = jax.pmap(mapped, "data", in_axes=axes, out_axes=(None, None), donate_argnums=0, devices=devices)
    elif mode == "shard_map":
        batch = P(*(None,) * data.batch_axis, "data")
        in_specs, out_specs = (P(), P(), P(), batch), (P(), P())
        chunk = jax.jit(jax.shard_map(mapped, mesh=mesh, in_specs=in_specs, out_specs=out_specs), donate_argnums=0)
    else:
        chunk = jax.jit(sharded, donate_argnums=0)
    return Compiled(chunk, mesh, mode, data.batch_axis)


def _place(x: Any, sharding: NamedSharding) -> jax.Array:
    """A copy of an array on the devices of a mesh, also where some of them are another process's."""
    if not sharding.is_fully_addressable and isinstance(x, jax.Array) and x.is_fully_addressable:
        # Every process holds the whole: device_put takes that from the host only, and no keys.
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(_place(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
        x = np.asarray(x)
    return jnp.copy(jax.device_put(x, sharding))


def _nearest_multiple(size: int, of: int) -> str:
    below = size // of * of
    return f"{below} or {below + of}" if below else str(of)
