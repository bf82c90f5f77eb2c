"""
The rows of a table, read as they are needed, and the key of each row.

A generator may read a file or query a database. It is therefore read in a worker thread: one row at a time at first,
and several at once while it proves fast.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.to_thread

from kie_async._io.mapping.row import Row
from kie_async._keys import DefaultKeys, check_key
from kie_async.errors import ConfigurationError

if TYPE_CHECKING:
    from kie_async._io.submitting.intake import Intake
    from kie_async.requests.base import Request

__all__ = ["RowInput", "RowKeys", "RowSource"]

#: One element of a table.
RowInput: TypeAlias = "Request | tuple[str, Request]"

#: The largest batch that is read from a generator, in rows, and the time within which a batch counts as fast.
_BATCH, _FAST_BATCH = 64, 0.005
#: The time within which an async generator must close, in seconds.
_CLOSE_TIMEOUT = 5.0


class RowSource:
    """
    A reader of a table that returns each row once.

    Args:
        rows: Any iterable or async iterable of rows.

    Raises:
        ConfigurationError: If *rows* is not a table.
    """

    def __init__(self, rows: Iterable[RowInput] | AsyncIterable[RowInput]) -> None:
        # Any other sequence may read a file for each row, so it is read as a generator is.
        self._in_memory = isinstance(rows, (list, tuple))
        self._sync: Iterator[RowInput] = iter(())
        self._async: AsyncIterator[RowInput] | None = None
        if isinstance(rows, AsyncIterable):
            self._async = aiter(rows)
        elif _is_table(rows):
            self._sync = iter(rows)
        else:
            msg = (
                f"Invalid table of type {type(rows).__name__}: expected a list, a generator or an async generator of"
                " requests, or of pairs of a key and a request."
            )
            raise ConfigurationError(msg)
        self._batch = 1
        self._error: Exception | None = None
        self._exhausted = False

    async def read(self, most: int) -> list[RowInput]:
        """
        Return the next rows, at least one and at most *most*; none at the end.

        Raises:
            Exception: The source's own error, after the rows that preceded it.
        """
        if self._error is not None:
            error, self._error = self._error, None
            self._exhausted = True
            raise error
        if self._exhausted:
            return []
        if self._async is not None:
            self._exhausted = True  # unless there is another row, which has no error
            with suppress(StopAsyncIteration):
                row = await anext(self._async)
                self._exhausted = False
                return [row]
            return []
        if self._in_memory:
            rows = list(islice(self._sync, most))
            self._exhausted = not rows
            return rows
        started_at = anyio.current_time()
        # A caller that leaves must not wait for a source that hangs.
        rows, self._exhausted, self._error = await anyio.to_thread.run_sync(
            _read_batch, self._sync, min(most, self._batch), abandon_on_cancel=True
        )
        fast = anyio.current_time() - started_at <= _FAST_BATCH
        self._batch = min(_BATCH, 2 * self._batch) if fast else 1
        return rows if rows or self._error is None else await self.read(most)

    async def close(self) -> None:
        """Close an async generator that was not read to its end."""
        if self._async is not None and (close := getattr(self._async, "aclose", None)) is not None:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _CLOSE_TIMEOUT), suppress(RuntimeError):
                await close()


class RowKeys:
    """
    The keys of one table's rows, assigned in the table's order.

    Args:
        intake: Checks and fingerprints requests.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._default_keys = DefaultKeys()

    def make_row(self, given: RowInput, index: int) -> Row:
        """Return a row; without a key of the caller's, its key is its number until ``identify()``."""
        key: str | None
        request: Request
        match given:
            case tuple((key, request)):
                pass
            case _:
                key, request = None, given
        return Row(index=index, key=f"row {index + 1}" if key is None else str(key), own_key=key, request=request)

    async def identify(self, row: Row) -> None:
        """
        Check a row's request, and set the row's fingerprint and key.

        Raises:
            KieError: If the request or the key is invalid.
        """
        check_key(row.own_key)
        if row.own_key is None and isinstance(row.request, tuple):
            msg = (
                f"Invalid row {row.index + 1}, a tuple of {len(row.request)}: expected a request, or a pair of a"
                " key and a request. Nothing was sent for it."
            )
            raise ConfigurationError(msg)
        await self._intake.check_request(row.request)
        row.fingerprint = await self._intake.compute_fingerprint(row.request)
        if row.own_key is None:
            row.key = self._default_keys.next_key(row.fingerprint)

    async def assign_key(self, row: Row) -> None:
        """
        Set a row's key only: if the key is the caller's, the images are not read.

        Raises:
            KieError: If the key, or a request that was read for its key, is invalid.
        """
        if row.own_key is None:
            await self.identify(row)
        else:
            check_key(row.own_key)


def _is_table(rows: object) -> bool:
    return isinstance(rows, Iterable) and not isinstance(rows, (str, bytes, Mapping))


def _read_batch(rows: Iterator[RowInput], most: int) -> tuple[list[RowInput], bool, Exception | None]:
    """Return up to *most* rows, True if they were the last ones, and the source's error."""
    batch: list[RowInput] = []
    try:
        for _ in range(most):
            batch.append(next(rows))  # noqa: PERF401 (those before an error are kept)
    except StopIteration:
        return batch, True, None
    except Exception as error:  # noqa: BLE001 (the source's own, raised where the rows are taken)
        return batch, False, error
    return batch, False, None
