"""Reads the pickles in checkpoints without running them.

Unpickling calls whatever a file names. Here no unpickler is involved: the standard library's `pickletools` decodes the
stream, and the few opcodes that state dicts consist of are interpreted below, with the functions they may name given
by the caller.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_LITERALS |= {"BINSTRING", "SHORT_BINSTRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


def read_object(stream: IO[bytes], names: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """Reads one pickled object and leaves the stream behind it.

    Args:
      stream: at the pickle's first byte.
      names: by full name (``"collections.OrderedDict"``) what a stream may name; what is callable in it may be called.
      persistent: makes an object of a persistent id.

    Returns:
      The object: dicts, lists, tuples, numbers, strings, and what ``names`` and ``persistent`` make.

    Raises:
      ValueError: if the stream names anything else, has an opcode that state dicts have no need of, or is damaged.
    """
    try:
        return _interpret(stream, names, persistent)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__} where it was read)") from None


def _interpret(stream: IO[bytes], names: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        match opcode.name:
            case name if name in _LITERALS:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _CONTAINERS:
                stack.append(_CONTAINERS[name]())
            case "MARK":
                stack.append(_MARK)
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case name if name in _TUPLES:
                stack[-_TUPLES[name] :] = [tuple(_top(stack, _TUPLES[name]))]
            case "APPEND" | "APPENDS" as name:
                items = [stack.pop()] if name == "APPEND" else _since_mark(stack)
                _expect(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS" as name:
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _since_mark(stack)
                for key, value in zip(items[::2], items[1::2], strict=True):
                    _expect(dict, stack[-1])[_expect((str, int), key)] = value
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_named(names, argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                function, owner = _expect(str, stack.pop()), _expect(str, stack.pop())
                stack.append(_named(names, f"{owner}.{function}"))
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "REDUCE":
                arguments = _expect(tuple, stack.pop())
                stack.append(stack.pop()(*arguments))
            case "BUILD":
                stack.pop()  # the attributes that a state dict has beside its items: versions of its modules
                _expect(dict, stack[-1])
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"its pickle has the opcode {name}, which no state dict needs: refused")
    raise ValueError("its pickle has no end")


def _named(names: Mapping[str, Any], name: str) -> Any:
    if name not in names:
        raise ValueError(f"its pickle names {name[:100]!r}, which is no part of a state dict: refused, nothing was run")
    return names[name]


def _since_mark(stack: list[Any]) -> list[Any]:
    """Takes what is above the last mark off the stack, and the mark."""
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _top(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise IndexError
    return stack[-count:]


def _expect(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value
