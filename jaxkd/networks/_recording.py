"""What a forward pass leaves behind for taps: how the adapters for Flax write it down, and how it is read back."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Adapters sow under "tap|<level>|<method>", ":in" behind it for a first input; no model sows under such a name.
_SLOT = "tap|"

Sown = Mapping[tuple[str, ...], Any]
"""What was sown, by the module's path and the name."""


class Record(NamedTuple):
    """What one call has left.

    Attributes:
      value: the output, input or sown value, of all layers at once if it was inside of stacks.
      axes: the axes of the value that are layers, the outermost stack's first.
    """

    value: jax.Array
    axes: tuple[int, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """The number of layers of each stack, the outermost first."""
        return [self.value.shape[axis] for axis in self.axes]

    @property
    def shape(self) -> list[int]:
        """The shape of one layer's value."""
        return [n for axis, n in enumerate(self.value.shape) if axis not in self.axes]


Sites = Mapping[str, Mapping[int, Sequence[Record]]]
"""The calls of a forward pass by site and by the number of stacks around them: a scanned stack as a whole is the same
site as one of its layers, at another depth."""


def first_array(value: Any) -> Any:
    """Returns the value, or the first element of a (nested) tuple or list, if it is an array; else None."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct) else None


def slot(level: int, method: str, end: str) -> str:
    """Returns the name to sow an entry under: ``end`` is ``""`` for an output, ``":in"`` for a first input."""
    return f"{_SLOT}{level}|{method}{end}"


def is_slot(name: str) -> bool:
    """Tells what an adapter has sown from what a model has."""
    return name.startswith(_SLOT)


def entry(value: Any, *, keep: bool) -> tuple[Any, jax.Array]:
    """Returns what to sow for one call: its array, if there is one and it is to be kept, and a marker.

    The marker is an array of the value's rank with no element. A scan or vmap around the call puts its length into the
    marker's shape just where it puts the layers into the value's: that tells the stacks and their axes at no cost.
    """
    array = first_array(value)
    return array if keep else None, jnp.zeros((0,) * (0 if array is None else array.ndim), bool)


def read(sown: Sown) -> Sites:
    """Arranges entries and what the model itself has sown by site and depth.

    A value that the model has sown is in as many stacks as the module's own calls, of which there must be entries.
    """
    sites: dict[str, dict[int, list[Record]]] = {}
    stacks: dict[str, tuple[int, ...]] = {}
    # Level 0 first: it stands where a deeper level (a method's super()) is no deeper in stacks.
    for path, calls in sorted((item for item in sown.items() if is_slot(item[0][-1])), key=_level):
        owner, method = "/".join(path[:-1]), path[-1].split("|")[2]
        records = [Record(value, tuple(axis for axis, n in enumerate(marker.shape) if n)) for value, marker in calls]
        axes = records[0].axes
        stacks[owner] = max(stacks.get(owner, ()), axes, key=len)
        if all(record.value is not None for record in records):
            site = owner + method.removeprefix("__call__") if method.startswith("__call__") else f"{owner}.{method}"
            sites.setdefault(site, {}).setdefault(len(axes), records)
    for path, value in sown.items():
        arrays = [first_array(call) for call in (value if isinstance(value, tuple) else (value,))]
        if not is_slot(path[-1]) and all(array is not None for array in arrays):
            axes = stacks.get("/".join(path[:-1]), ())
            sites.setdefault("/".join(path), {}).setdefault(len(axes), [Record(array, axes) for array in arrays])
    return sites


def _level(item: tuple[tuple[str, ...], Any]) -> int:
    return int(item[0][-1].split("|")[1])
