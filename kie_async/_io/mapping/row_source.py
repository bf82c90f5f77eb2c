"""
Reading the rows of a table as they are needed: from a list, from a generator, from an async one.

A generator may read a file or ask a database, so it is read in a worker thread. It is read one row at a time at first,
and several at once while it turns out to be fast.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.to_thread
import attrs

from kie_async.errors import ConfigurationError

if TYPE_CHECKING:
    from kie_async.requests.base import Request

__all__ = ["Given", "RowSource"]

#: What a table consists of.
Given: TypeAlias = "Request | tuple[str, Request]"

#: So many rows are read in one go at most, and only if that takes no longer than so many seconds.
_MOST, _SWIFTLY = 64, 0.005
#: For how long it is waited for an async generator that is told to end.
_CLOSING = 5.0


@attrs.define(eq=False)
class _Go:
    """What one go has read, and how it ended."""

    rows: list[Given] = attrs.field(factory=list)
    error: Exception | None = None
    over: bool = False


class RowSource:
    """
    Reads rows, each once.

    Args:
        rows: Anything that can be iterated over.

    Raises:
        ConfigurationError: If it cannot.
    """

    def __init__(self, rows: Iterable[Given] | AsyncIterable[Given]) -> None:
        self._source = rows
        # Any other sequence may read a file for each row: it is read as a generator is.
        self._there = isinstance(rows, (list, tuple))
        self._sync: Iterator[Given] | None = None
        self._async: AsyncIterator[Given] | None = None
        if isinstance(rows, AsyncIterable):
            self._async = aiter(rows)
        elif _is_table(rows):
            self._sync = iter(rows)
        else:
            msg = (
                f"map() takes requests, or pairs of a key and a request, and a {type(rows).__name__} was given. Pass a"
                " list, a generator or an async generator of them."
            )
            raise ConfigurationError(msg)
        self._swift = 1
        self._error: Exception | None = None
        self.over = False

    async def read(self, most: int) -> list[Given]:
        """
        The next rows, at least one and at most *most*; none at the end.

        Raises:
            Exception: What the source raises, after the rows that came before.
        """
        if self._error is not None:
            error, self._error = self._error, None
            self.over = True
            raise error
        if self.over:
            return []
        if self._sync is None:
            return await self._next()
        if self._there:
            rows = list(islice(self._sync, most))
            self.over = not rows
            return rows
        began_at = anyio.current_time()
        # Whoever leaves does not wait for a source that hangs.
        go = await anyio.to_thread.run_sync(_some, self._sync, min(most, self._swift), abandon_on_cancel=True)
        swiftly = anyio.current_time() - began_at <= _SWIFTLY
        self._swift = min(_MOST, 2 * self._swift) if swiftly else 1
        self._error = go.error
        self.over = go.over
        return go.rows if go.rows or go.error is None else await self.read(most)

    async def close(self) -> None:
        """End an async generator that was not read to its end."""
        if self._async is not None and (close := getattr(self._async, "aclose", None)) is not None:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _CLOSING), suppress(RuntimeError):
                await close()

    async def _next(self) -> list[Given]:
        if self._async is None:
            return []
        try:
            return [await anext(self._async)]
        except StopAsyncIteration:
            self.over = True
            return []
        except Exception:
            self.over = True
            raise


def _is_table(rows: object) -> bool:
    return isinstance(rows, Iterable) and not isinstance(rows, (str, bytes, Mapping))


def _some(rows: Iterator[Given], most: int) -> _Go:
    go = _Go()
    try:
        for _ in range(most):
            go.rows.append(next(rows))
    except StopIteration:
        go.over = True
    except Exception as error:  # noqa: BLE001 (the source's own, raised where the rows are taken)
        go.error = error
    return go
