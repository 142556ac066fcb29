"""Tap paths: their grammar, the choice among what a forward pass has recorded, and the error that lists what there is.

A path names a *site* and, where needed, one of its calls and one layer of a stack:

=====================  ========================================================================================
``"a/b"``              the output of module ``a/b``'s call (its first element if it is a tuple), or the value that
                       module ``a`` sows as ``b``
``"a/b:in"``           the first input of that call
``"a/b.method"``       the output of another method; ``".features"`` is a method of the top module
``"a/b#1"``            the second call, where there are several
``"layers[3]/dense"``  the layer 3 of a stack that runs in a scan (or was vmapped); -1 is the last
=====================  ========================================================================================

The suffixes come in this order: ``"layers[3]/dense.method#1:in"``.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax

from jaxkd.networks._recording import Record, Sites

_INDEX = re.compile(r"\[(-?\d+)\]")
_CALL = re.compile(r"#(\d+)(?=(?::in)?$)")
_ROLE = re.compile(r"(\w+)(?:\[(-?\d+)\])?")


class UnknownTapError(KeyError):
    """A tap path that names nothing, or more than one thing; the message lists the paths there are."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which turns a message of several lines into one.
        return str(self.args[0])


class Tap(NamedTuple):
    """A parsed path: ``"layers[3]/dense#1:in"`` is ``Tap("layers/dense:in", (3,), 1)``."""

    site: str
    indices: tuple[int, ...]
    call: int | None


def parse(path: str) -> Tap:
    """Splits a path into its site, the layers of stacks and the call it asks for."""
    call = _CALL.search(path)
    site = _CALL.sub("", path)
    return Tap(_INDEX.sub("", site), tuple(map(int, _INDEX.findall(site))), int(call[1]) if call else None)


def check_roles(roles: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Returns the roles with tuples of paths.

    Raises:
      TypeError: if a role is a bare string, which would be taken for one path a letter.
    """
    for role, paths in roles.items():
        if isinstance(paths, str):
            raise TypeError(f'role "{role}" is the string "{paths}": write ("{paths}",), a tuple of tap paths')
    return {role: tuple(paths) for role, paths in roles.items()}


def expand(name: str, roles: Mapping[str, Sequence[str]]) -> str:
    """Returns the path a tap name stands for: that of a role, if there is one of this name, else the name itself.

    Raises:
      UnknownTapError: if a role of several paths is asked for as a whole, or for a path it has not.
    """
    match = _ROLE.fullmatch(name)
    if not match or match[1] not in roles:
        return name
    paths, index = roles[match[1]], match[2]
    if index is None and len(paths) == 1:
        return paths[0]
    if index is None or not -len(paths) <= int(index) < len(paths):
        raise UnknownTapError(
            f'tap "{name}": the role has {len(paths)} paths, ask for one of ' + _roles({match[1]: paths})
        )
    return paths[int(index)]


def select(
    names: Iterable[str],
    roles: Mapping[str, Sequence[str]],
    sites: Sites,
    everything: Callable[[], tuple[Sites, str]],
) -> dict[str, jax.Array]:
    """Takes the taps that were asked for out of what a forward pass has recorded.

    Args:
      names: the taps, as they were asked for.
      roles: the network's roles.
      sites: what was recorded.
      everything: gives all there is to record (shapes suffice), and what else an error message should say; called for
        an error message only.

    Returns:
      Arrays by the names they were asked by.

    Raises:
      UnknownTapError: if a name is none of the sites, or more than one of their calls.
    """
    found = {}
    for name in names:
        path = expand(name, roles)
        tap = parse(path)
        depths = sites.get(tap.site, {})
        calls = depths.get(len(tap.indices))
        asked = f'tap "{name}"' if name == path else f'tap "{name}" ("{path}")'
        if calls is None and len(depths) == 1 and 0 in depths:
            raise UnknownTapError(
                f"{asked} asks for a layer, but is not in a stack: ask for {_canonical(tap, (), None)}"
            )
        if not calls:
            problem = f"{asked} is unknown"
            if depths:
                problem = f"{asked} has to say which layer: it is in a stack (one index for every stack around it)"
            raise UnknownTapError(_explain(problem, path, roles, *everything()))
        if tap.call is None and len(calls) > 1:
            options = " ... ".join(_canonical(tap, tap.indices, call) for call in (0, len(calls) - 1))
            raise UnknownTapError(f"{asked} is called {len(calls)} times: say which call, {options}")
        if (tap.call or 0) >= len(calls):
            raise UnknownTapError(f"{asked} is called {len(calls)} times: the last call is #{len(calls) - 1}")
        found[name] = _layer(asked, calls[tap.call or 0], tap.indices)
    return found


def _layer(asked: str, record: Record, indices: Sequence[int]) -> jax.Array:
    """Takes one layer's value out of the stacked ones."""
    place: list[int | slice] = [slice(None)] * record.value.ndim
    for axis, index in zip(record.axes, indices, strict=True):
        length = record.value.shape[axis]
        if not -length <= index < length:
            raise UnknownTapError(
                f"{asked}: layer {index} of a stack of {length} layers (0 to {length - 1}, -1 is the last)"
            )
        place[axis] = index
    return record.value[tuple(place)]


def _canonical(tap: Tap, indices: Sequence[int], call: int | None) -> str:
    """Writes a path again, for a message: the layers behind the first module."""
    stem, _, end = tap.site.partition(":")
    head, slash, rest = stem.partition("/")
    layers = "".join(f"[{index}]" for index in indices)
    number = "" if call is None else f"#{call}"
    return f'"{head}{layers}{slash}{rest}{number}{":in" if end else ""}"'


def _listing(sites: Sites) -> dict[str, list[int]]:
    """Returns the paths of all outputs and sown values, stacks and calls spelled out, with one layer's shape."""
    listing = {}
    for site, depths in sites.items():
        if site == "" or site.endswith(":in"):
            continue
        for depth, calls in depths.items():
            path = _with_layers(site, depth, calls[0].lengths, sites)
            for number, record in enumerate(calls):
                listing[path if len(calls) == 1 else f"{path}#{number}"] = record.shape
    return dict(sorted(listing.items()))


def _with_layers(site: str, depth: int, lengths: Sequence[int], sites: Sites) -> str:
    """Puts ``[0..n-1]`` behind the modules of a path that are the stacks."""
    parts, named, placed = site.split("/"), [], 0
    for end, part in enumerate(parts, 1):
        last = end == len(parts)
        around = depth if last else min(depth, max(sites.get("/".join(parts[:end]), {0: ()})))
        module, dot, method = part.partition(".") if last else (part, "", "")
        named.append(module + "".join(f"[0..{length - 1}]" for length in lengths[placed:around]) + dot + method)
        placed = max(placed, around)
    return "/".join(named)


def _roles(roles: Mapping[str, Sequence[str]]) -> str:
    """Writes roles as the tap names they give, with what these stand for."""
    return ", ".join(
        f'"{role}" = "{path}"' if len(paths) == 1 else f'"{role}[{number}]" = "{path}"'
        for role, paths in roles.items()
        for number, path in enumerate(paths)
    )


def _explain(problem: str, path: str, roles: Mapping[str, Sequence[str]], sites: Sites, note: str) -> str:
    listing = _listing(sites)
    last = path.rpartition("/")[2]
    close = [known for known in listing if known.rpartition("/")[2] == last]
    close += difflib.get_close_matches(path, [*listing, *roles], n=5)
    lines = [problem]
    if close:
        lines.append("close to it: " + ", ".join(f'"{known}"' for known in dict.fromkeys(close)))
    lines.append('taps there are (with ":in" behind it, a module\'s first input):')
    lines += [f"  {known}: {shape}" for known, shape in listing.items()] or ["  none"]
    if roles:
        lines.append("roles: " + _roles(roles))
    return "\n".join([*lines, note])
