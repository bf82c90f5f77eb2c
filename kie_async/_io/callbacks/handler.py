"""``Door``: what an adapter to a web server needs to hand callbacks in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from kie_async._core.callback_token import CallbackToken

__all__ = ["CallbackHandler"]


class _Refuse(Protocol):
    def __call__(self, why: str, *, status: int) -> tuple[int, bytes]: ...


@attrs.frozen(kw_only=True)
class CallbackHandler:
    """
    The way in.

    Attributes:
        find: The token of ours that a path ends with, or None; asked before a body is read.

        take: Takes a callback by its token, its ``SIGNATURE_HEADERS`` with names in lower case, and its body; returns
            status and body of the answer.

        refuse: Reports a callback that is not taken, and returns status and body of the answer.
    """

    find: Callable[[str], CallbackToken | None]
    take: Callable[[CallbackToken, Mapping[str, str], bytes], Awaitable[tuple[int, bytes]]]
    refuse: _Refuse
