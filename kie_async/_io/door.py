"""``Door``: what an adapter to a web server needs to hand callbacks in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

import attrs

__all__ = ["Door"]


class _Refuse(Protocol):
    def __call__(self, why: str, *, status: int) -> tuple[int, bytes]: ...


@attrs.frozen(kw_only=True)
class Door:
    """
    The way in.

    Attributes:
        admits: Whether a path ends with a token of ours; asked before a body is read.

        handle: Takes a callback by its path, headers and body, and returns status and body of the answer.

        refuse: Reports a callback that is not taken, and returns status and body of the answer.
    """

    admits: Callable[[str], bool]
    handle: Callable[[str, Mapping[str, str] | Iterable[tuple[str, str]], bytes], Awaitable[tuple[int, bytes]]]
    refuse: _Refuse
