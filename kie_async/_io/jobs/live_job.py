"""What one event loop knows of one job beyond its row: its owner, its slot, its last record, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async._core.lifecycle import Intent, load_record
from kie_async._io.journals.journal import Changes
from kie_async._io.timers import Timer
from kie_async.errors import KieError
from kie_async.records import TaskRecord
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async._io.polling.watchlist import Watch

__all__ = ["UNANSWERED", "LiveJob", "Registry", "StopReason", "Submission"]

#: The states in which a create has not been answered; None while there is no row.
UNANSWERED = (None, JobState.INTENT, JobState.SENDING)

#: Changes that a slow reader of ``Job.updates()`` has not taken yet; a task has a handful of states.
MAX_UPDATES = 64


class StopReason(Enum):
    """Why an owner is asked to end before its create is accepted."""

    CANCELLED = auto()  #: The caller has left.
    ACCOUNT = auto()  #: The account cannot pay.
    CLOSED = auto()  #: The client closes.


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Submission:
    """
    What a job needs on its way to a taskId, and not for the hours after that.

    Attributes:
        place: Its place in the queue.

        began_at: When it was asked for, by the loop.

        outlasts_maintenance: Whether it waits behind maintenance for as long as it takes.

        may_pay_again: Called before an ambiguous create is sent again; returns False if the budget does not allow it.

        stop: Why the owner should end, as soon as nothing is on the wire.

        on_wire: Whether a byte of a create may have left, and its answer has not been read.

        scope: What can be cancelled of the owner while nothing is on the wire.
    """

    position: int = 0
    requested_at: float = 0.0
    outlasts_maintenance: bool = False
    may_pay_again: Callable[[], bool] | None = None
    stop_reason: StopReason | None = None
    on_wire: bool = False
    scope: anyio.CancelScope | None = None

    def cancel_unless_on_wire(self) -> None:
        """Cancel the owner, unless a create may be on the wire."""
        if self.scope is not None and not self.on_wire:
            self.scope.cancel()


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class LiveJob:
    """
    A job that somebody waits for, or that something may still happen to.

    Attributes:
        id: The job's own id; for a task of which this journal knows nothing, its taskId.

        key: The caller's key.

        fingerprint: The identity of the request, where it is known already.

        row: Its row, once it is journaled; None for a task of somebody else.

        written: Whether its owner has it in the journal, or has found it there.

        unwritten: Where the journal could not be written: the row as it holds it, then each move that it lacks, with
            the row as it is by then and what else has changed.

        successor: The job that this one turned out to be; everybody goes on with that.

        record: The service's last word.

        error: Why it goes no further: refused, withdrawn, halted.

        trouble: Why it cannot be looked at just now; the task itself is not concerned.

        submission: What its owner here needs to bring it to a taskId; None while it has none.

        remote: Whether another process works on it.

        holds_slot: Whether it holds a slot.

        accepted_at: When its task was accepted, by the loop.

        unseen: Whether the service has said that it does not know its task.

        called_back: Whether a callback for it has come.

        empty_looks: How often in a row the service has said "success" without a result.

        watch: What is known of its task for the looks at it, while it is looked at.

        due_at: The instant at which it stalls while its task runs; set by the tracker's ``DeadlineQueue``.

        timers: Its other deadlines.
    """

    id: str
    key: str | None = None
    fingerprint: str | None = None
    row: Intent | None = None
    journaled: bool = False
    unjournaled: list[tuple[Intent, Changes | None]] | None = None
    successor: LiveJob | None = None
    record: TaskRecord | None = None
    error: KieError | None = None
    wait_error: KieError | None = None
    submission: Submission | None = None
    remote: bool = False
    holds_slot: bool = False
    accepted_at: float = 0.0
    not_visible: bool = False
    callback_received: bool = False
    empty_polls: int = 0
    due_at: float | None = None
    watch: Watch | None = None
    timers: tuple[Timer, ...] = ()
    waiters: int = 0
    _change_waiters: list[asyncio.Future[None]] = attrs.field(factory=list, init=False)
    _end_waiters: list[asyncio.Future[None]] = attrs.field(factory=list, init=False)
    _readers: list[deque[TaskRecord]] | None = attrs.field(default=None, init=False)

    @classmethod
    def from_row(cls, row: Intent) -> LiveJob:
        """The job of a row that was found in the journal."""
        return cls(id=row.id, key=row.key, fingerprint=row.fingerprint, row=row, journaled=True)

    @property
    def foreign(self) -> bool:
        """Whether its task was created by somebody else."""
        return not self.id.startswith("kj_")

    @property
    def final(self) -> LiveJob:
        """This job, or the one that it turned out to be."""
        return self if self.successor is None else self.successor.final

    @property
    def own_id(self) -> str | None:
        """Its id, if that is one of ours."""
        return None if self.foreign else self.id

    @property
    def has_submission(self) -> bool:
        """Whether an owner is bringing it to a taskId."""
        return self.submission is not None

    @property
    def in_progress(self) -> bool:
        """Whether somebody is bringing it on: an owner here, or another process."""
        return self.has_submission or self.remote

    @property
    def state(self) -> JobState | None:
        """The state of its row, or None while it has none."""
        return None if self.row is None else self.row.state

    @property
    def task_id(self) -> str | None:
        """The service's id, as far as it is known."""
        if self.foreign:
            return self.id
        return None if self.row is None else self.row.task_id

    def last_record(self) -> TaskRecord | None:
        """The service's last word, as it was seen here or written down."""
        if self.record is None and self.row is not None and self.row.record is not None:
            self.record = load_record(self.row.record)
        return self.record

    @property
    def readers(self) -> int:
        """How many read its changes."""
        return 0 if self._readers is None else len(self._readers)

    @property
    def proceeding(self) -> bool:
        """Whether all goes as it should and has not ended: whoever waits for the end has no reason to look."""
        if self.wait_error is not None or self.successor is not None:
            return False
        return self.state is JobState.SUBMITTED or (self.in_progress and self.state in UNANSWERED)

    async def wait_for_change(self) -> None:
        """Wait for the next change; leaving the wait disturbs no other waiter."""
        waiter = self.add_waiter(self._change_waiters)
        try:
            await waiter
        finally:
            self.remove_waiter(waiter, self._change_waiters)

    def add_waiter(self, waiters: list[asyncio.Future[None]] | None = None) -> asyncio.Future[None]:
        """
        Return a future that is done at the next change that takes the job from its course.

        ``remove_waiter`` follows, whatever becomes of the wait.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._end_waiters if waiters is None else waiters).append(waiter)
        self.waiters += 1
        return waiter

    def remove_waiter(self, waiter: asyncio.Future[None], waiters: list[asyncio.Future[None]] | None = None) -> None:
        """End a wait."""
        self.waiters -= 1
        with suppress(ValueError):  # it was woken
            (self._end_waiters if waiters is None else waiters).remove(waiter)

    def wake_waiters(self) -> None:
        """Wake everybody who waits for a change."""
        woken = [*self._change_waiters]
        self._change_waiters.clear()
        if self._end_waiters and not self.proceeding:
            woken += self._end_waiters
            self._end_waiters.clear()
        for waiter in woken:
            if not waiter.done():  # else its waiter is just leaving
                waiter.set_result(None)

    def update_record(self, record: TaskRecord) -> None:
        """Take the service's last word, and wake everybody if it says something new."""
        if record == self.record:
            return
        self.record = record
        for reader in self._readers or ():
            reader.append(record)
        self.wake_waiters()

    def add_reader(self) -> deque[TaskRecord]:
        """A queue that every further change is put into, the oldest falling out if nobody takes them."""
        record = self.last_record()
        reader: deque[TaskRecord] = deque(() if record is None else (record,), maxlen=MAX_UPDATES)
        if self._readers is None:
            self._readers = []
        self._readers.append(reader)
        return reader

    def drop_reader(self, reader: deque[TaskRecord]) -> None:
        """Stop filling a queue."""
        readers = [other for other in self._readers or () if other is not reader]
        self._readers = readers or None


class Registry:
    """Finds a live job; it is here from before its row is written until it has ended."""

    def __init__(self) -> None:
        self._jobs: dict[str, LiveJob] = {}
        self._keys: dict[str, LiveJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[LiveJob]:
        return iter(list(self._jobs.values()))

    def add(self, job: LiveJob) -> None:
        """
        Take a job in, unless it is here.

        Raises:
            RuntimeError: If another job has its id: there is one for each row, or they would undo each other.
        """
        if self._jobs.setdefault(job.id, job) is not job:
            msg = f"{job.id} is here twice"
            raise RuntimeError(msg)
        if job.key is not None:
            self._keys[job.key] = job

    def remove(self, job: LiveJob) -> None:
        """Let a job go."""
        if self._jobs.get(job.id) is job:
            del self._jobs[job.id]
        if job.key is not None and self._keys.get(job.key) is job:
            del self._keys[job.key]

    def rename(self, job: LiveJob, job_id: str) -> None:
        """Give a job the id of the row that has its key already."""
        self.remove(job)
        job.id = job_id
        self.add(job)

    def get(self, job_id: str) -> LiveJob | None:
        """The job of an id of ours, or of a foreign taskId that is waited for."""
        return self._jobs.get(job_id)

    def by_key(self, key: str) -> LiveJob | None:
        """The job of a caller's key."""
        return self._keys.get(key)

    def by_task(self, task_id: str) -> LiveJob | None:
        """
        The job of a taskId that the journal does not know; all jobs are looked through.

        Only a row that could not be written is found here and not there: an index would cost every job 50 bytes.
        """
        return next((job for job in self._jobs.values() if job.task_id == task_id), None)
