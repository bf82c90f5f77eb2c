"""
The rows of a table: read as they are needed, given their keys, and turned into outcomes.

A generator may read a file or query a database. It is therefore read in a thread of its own: one row at a time at
first, and several at once while it proves fast. The same thread closes it, so a connection that it opens may be
bound to its thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import attrs

from kie_async import errors
from kie_async._core.lifecycle import ENDED
from kie_async._io.runtime import OwnThread
from kie_async._io.submitting.intake import ImageChangedError
from kie_async._keys import ContentKey, DefaultKeys, TableKey, check_key, retry_key
from kie_async.outcomes import Done, Failed, InDoubt, Skipped
from kie_async.states import JobState

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async._core.budget_ledger import Reservation
    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.submitting.intake import Intake
    from kie_async.records import Generation, TaskRecord
    from kie_async.requests.base import Request

__all__ = ["Row", "RowInput", "RowKeys", "RowSource", "Table", "job_fields"]

#: One element of a table, and a table.
RowInput: TypeAlias = "Request | tuple[str, Request]"
Table: TypeAlias = Iterable[RowInput] | AsyncIterable[RowInput]
#: Rows, True if they were the last ones, and the source's error.
_Batch: TypeAlias = tuple[list[RowInput], bool, Exception | None]

#: The largest batch that is read from a generator, in rows, and the time within which a batch counts as fast.
_BATCH, _FAST_BATCH = 64, 0.005
#: The time within which a generator must close, in seconds, and one that was still at work on a row.
_CLOSE_TIMEOUT, _HANGING_TIMEOUT = 5.0, 1.0


@attrs.define(eq=False, kw_only=True)
class Row:
    """
    A row that was read.

    Attributes:
        index: The row's position in the table.

        key: The row's key.

        own_key: The caller's key, or None if the key is made of the content.

        request: The request.

        fingerprint: The fingerprint of the request.

        renamed: The number of times that the row got a new key because its files had changed.

        retry: The number of the current retry, over all runs; 0 for the first job.

        retries: The number of retries in this run.

        counted_retry: The last retry that was counted; a retry that is started twice counts once.

        other_intents: The row's other intents in the journal: failed jobs, and jobs that were not accepted.

        reservation: The credits reserved for the job; None if nothing is, or if another row with this key counts.

        job: The job, once there is one.

        started_here: True if this run has started the job, and may cancel it.

        cancel_requested: True if this run has asked for the job to be cancelled before it is sent.

        wait_given_up: True if this run no longer waits for another one to send the job.

        stall_checked: True if the task was polled once more after it stalled.

        unsent_counted: True if the row counts among those that were read and not sent.

        replayed: True if the job had ended before this run asked for it.

        last_failure: The error of the last job that failed and was retried.

        scope: The scope in which the row is followed.
    """

    index: int
    key: str
    request: Request
    own_key: str | None = None
    fingerprint: str = ""
    renamed: int = 0
    retry: int = 0
    retries: int = 0
    counted_retry: int = 0
    other_intents: list[Intent] = attrs.field(factory=list)
    reservation: Reservation | None = None
    job: LiveJob | None = None
    started_here: bool = False
    cancel_requested: bool = False
    wait_given_up: bool = False
    stall_checked: bool = False
    unsent_counted: bool = False
    replayed: bool = False
    last_failure: errors.KieError | None = None
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)

    def again(self, index: int) -> Row:
        """Return the same row without a job, at another position."""
        return Row(
            index=index,
            key=self.key,
            own_key=self.own_key,
            request=self.request,
            fingerprint=self.fingerprint,
            renamed=self.renamed,
        )

    @property
    def journal_key(self) -> str:
        """The journal's key of the current job."""
        return retry_key(self.key, self.retry)

    @property
    def state(self) -> JobState | None:
        """The state of the job, or None without a job."""
        return None if self.job is None else self.job.state

    @property
    def unsent(self) -> bool:
        """True if nothing was sent that may have been accepted."""
        intent = None if self.job is None else self.job.final.row
        if intent is None:
            return True
        return intent.state in (JobState.INTENT, JobState.CANCELLED) and not intent.ambiguous_attempts

    @property
    def has_ended(self) -> bool:
        """True if the job has reached a final state in the journal."""
        return self.state in ENDED

    @property
    def started_elsewhere(self) -> bool:
        """True if another run, another process, or a ``submit()`` is known to have started the job."""
        return self.job is not None and (not self.started_here or self.job.final is not self.job or self.job.remote)

    def done(self, generation: Generation, files: tuple[Path, ...]) -> Done:
        """Return the outcome of a task that has succeeded and whose files are on disk."""
        return Done(generation=generation, files=files, **self._fields(generation))

    def failed(self, error: errors.KieError, generation: Generation | None = None) -> Failed:
        """Return the outcome of a row without a result, or without its files."""
        # A run may keep thousands of errors; their tracebacks through this package would only take memory.
        return Failed(error=error.with_traceback(None), generation=generation, **self._fields(generation))

    def in_doubt(self, error: errors.SubmitInDoubtError) -> InDoubt:
        """Return the outcome of an unresolved job."""
        return InDoubt(error=error, job=error.job, **self._fields(None))

    def skipped(self, *, late: bool) -> Skipped:
        """Return the outcome of a row that was not sent: *late* because of ``stop_after``, else of the budget."""
        return Skipped(reason="stop_after" if late else "budget", key=self.key, request=self.request)

    def _fields(self, generation: Generation | None) -> dict[str, Any]:
        job = self.job
        record = generation.record if generation is not None else None if job is None else job.last_record()
        return {
            "key": self.key,
            "request": self.request,
            "replayed": self.replayed,
            "retries": self.retries,
            **job_fields(None if job is None else job.row, record),
        }


def job_fields(row: Intent | None, record: TaskRecord | None) -> dict[str, Any]:
    """
    Return the fields of an outcome that describe the job.

    Args:
        row: The job's row, or None if it was never journaled.

        record: The terminal record of its task, or None.
    """
    if row is None:
        return {}
    created_at = None if record is None else record.created_at
    if created_at is None:
        created_at = row.accepted_at if row.accepted_at is not None else row.sending_at
    ended_at = None if record is None else record.completed_at
    if ended_at is None and row.state in ENDED and row.state is not JobState.CANCELLED:
        ended_at = row.updated_at
    return {
        "job_id": row.id,
        "task_id": row.task_id,
        "state": row.state,
        "credits": row.credits,
        "seconds": None if record is None else record.seconds,
        "created_at": created_at,
        "ended_at": ended_at,
    }


class RowSource:
    """
    A reader of a table that returns each row once.

    Args:
        rows: Any iterable or async iterable of rows.

    Raises:
        ConfigurationError: If *rows* is not a table.
    """

    def __init__(self, rows: Table) -> None:
        self._sync: Iterator[RowInput] = iter(())
        self._source: _ThreadSource | None = None
        self._thread: OwnThread | None = None
        self._reading: asyncio.Future[_Batch] | None = None
        self._async: AsyncIterator[RowInput] | None = None
        # Any other sequence than these may read a file for each row, so it is read as a generator is.
        if isinstance(rows, AsyncIterable):
            self._async = aiter(rows)
        elif isinstance(rows, (list, tuple)):
            self._sync = iter(rows)
        elif _is_table(rows):
            self._source = _ThreadSource(rows)
        else:
            msg = (
                f"Invalid table of type {type(rows).__name__}: expected a list, a generator or an async generator of"
                " requests, or of pairs of a key and a request."
            )
            raise errors.ConfigurationError(msg)
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
        if self._source is None:
            rows = list(islice(self._sync, most))
            self._exhausted = not rows
            return rows
        started_at = anyio.current_time()
        thread = self._thread = self._thread or OwnThread("kie_async rows")
        self._reading = asyncio.get_running_loop().run_in_executor(thread, self._source.read, min(most, self._batch))
        # A caller that leaves must not wait for a source that hangs.
        rows, self._exhausted, self._error = await self._reading
        fast = anyio.current_time() - started_at <= _FAST_BATCH
        self._batch = min(_BATCH, 2 * self._batch) if fast else 1
        return rows if rows or self._error is None else await self.read(most)

    async def close(self) -> None:
        """Close a generator that was not read to its end, and end its thread; one that hangs is closed after that."""
        async_close, thread, source = getattr(self._async, "aclose", None), self._thread, self._source
        timeout = _HANGING_TIMEOUT if self._reading and self._reading.cancelled() else _CLOSE_TIMEOUT
        try:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + timeout), suppress(RuntimeError):
                if async_close is not None:
                    await async_close()
                elif thread is not None and source is not None:
                    await asyncio.get_running_loop().run_in_executor(thread, source.close)
        finally:
            if thread is not None:
                thread.shutdown()


class _ThreadSource:
    """
    A table that is opened, read and closed in one thread.

    Args:
        rows: The table.
    """

    def __init__(self, rows: Iterable[RowInput]) -> None:
        self._rows = rows
        self._iterator: Iterator[RowInput] | None = None

    def read(self, most: int) -> _Batch:
        """Return up to *most* rows, True if they were the last ones, and the source's error."""
        batch: list[RowInput] = []
        try:
            if self._iterator is None:
                self._iterator = iter(self._rows)
            for _ in range(most):
                batch.append(next(self._iterator))  # noqa: PERF401 (those before an error are kept)
        except StopIteration:
            return batch, True, None
        except Exception as error:  # noqa: BLE001 (the source's own, raised where the rows are taken)
            return batch, False, error
        return batch, False, None

    def close(self) -> None:
        """Close a generator, and drop all else: its own clean-up runs here if nothing else refers to it."""
        iterator, self._iterator, self._rows = self._iterator, None, ()
        if isinstance(iterator, Generator):
            iterator.close()


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
        return Row(
            index=index,
            key=f"row {index + 1}" if key is None else key if isinstance(key, TableKey) else str(key),
            own_key=key,
            request=request,
        )

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
            raise errors.ConfigurationError(msg)
        await self._intake.check_request(row.request)
        row.fingerprint = await self._intake.compute_fingerprint(row.request)
        if row.own_key is None:
            row.key = self._default_keys.next_key(row.fingerprint)
        elif isinstance(row.own_key, ContentKey) and not row.own_key.fits(row.fingerprint):
            raise ImageChangedError

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
