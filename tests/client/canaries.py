"""Search an error for secrets, as the error trackers do that show the variables of every frame, and deeper."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from types import BuiltinFunctionType, FrameType, FunctionType, MethodType, ModuleType

__all__ = ["canaries_in", "find_canaries", "frames_of"]

#: What a walk does not enter: code, and the machinery through which both ends of a connection in a test are reached.
_CLOSED = (type, ModuleType, FunctionType, BuiltinFunctionType, FrameType)
_FOREIGN = ("tests.", "kie_async.testing", "asyncio", "_asyncio", "anyio", "socket", "ssl", "selectors", "threading")
_DEPTH = 14


@cache
def _spellings(canary: str) -> set[str]:
    """Return a text as it is, and as it looks within base64 at each offset."""
    encoded = {base64.b64encode(b" " * offset + canary.encode())[4:-4].decode() for offset in range(3)}
    return {canary, *encoded}


def find_canaries(text: str, canaries: tuple[str, ...]) -> list[str]:
    """Return the canaries that *text* contains, also as base64."""
    return [canary for canary in canaries if any(spelling in text for spelling in _spellings(canary))]


def frames_of(error: BaseException) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the place and the variables of each frame outside these tests, of an error and of all that it carries."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        waiting += [found.__cause__, found.__context__, *getattr(found, "exceptions", ())]
        for frame, line in traceback.walk_tb(found.__traceback__):
            if "/tests/" not in frame.f_code.co_filename:
                yield f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}", frame.f_locals


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """Yield what a value holds: items, attributes, and the object of a bound method."""
    if isinstance(value, Mapping):
        yield from ((repr(key), found) for key, found in [*value.items()])
        yield from (("key", key) for key in [*value])
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((str(index), found) for index, found in enumerate([*value]))
    elif isinstance(value, MethodType):
        yield "__self__", value.__self__
    else:
        names = {*getattr(value, "__dict__", {})}
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            names |= {slots} if isinstance(slots, str) else {*slots}
        for name in sorted(names - {"__weakref__", "__dict__"}):
            mangled = f"_{type(value).__name__.lstrip('_')}{name}" if name.startswith("__") else name
            yield name, getattr(value, mangled, None)


def canaries_in(value: object, canaries: tuple[str, ...]) -> list[str]:
    """Return the paths at which a value, or anything that it holds, shows a canary."""
    found: list[str] = []
    waiting: list[tuple[str, object, int]] = [("", value, 0)]
    seen: dict[int, object] = {}
    while waiting:
        path, current, depth = waiting.pop()
        if isinstance(current, (str, bytes, bytearray)):
            text = current if isinstance(current, str) else current.decode("latin-1")
        elif current is None or isinstance(current, (bool, int, float)) or id(current) in seen:
            continue
        else:
            seen[id(current)] = current
            text = "" if isinstance(current, (Mapping, list, tuple, set, frozenset)) else repr(current)
            closed = isinstance(current, _CLOSED) or type(current).__module__.startswith(_FOREIGN)
            if not closed and depth < _DEPTH:
                waiting += [(f"{path}.{name}", part, depth + 1) for name, part in _parts(current)]
        found += [f"{path}: {canary}" for canary in find_canaries(text, canaries)]
    return found
