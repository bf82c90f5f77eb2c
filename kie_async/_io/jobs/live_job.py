"""
``LiveJob``: the state of one job in one event loop, beyond its row; ``Registry`` finds it by id or key.

The design load is 10,000 tasks in flight: 20 creates in 10 seconds and a ``max_age`` of an hour make 7,200. So a
``LiveJob`` has slots, and what is needed only while it is submitted is kept in a ``Submission``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async._core.lifecycle import Intent, load_record
from kie_async._io.journals.journal import Changes
from kie_async._io.timers import Timer
from kie_async.errors import KieError
from kie_async.records import JSON, TaskRecord
from kie_async.states import JobState

if TYPE_CHECKING:
    from kie_async._io.polling.watchlist import Watch

__all__ = ["UNANSWERED", "LiveJob", "Registry", "StopReason", "Submission", "Unwritten"]

#: The states before the answer to a create; None while the job has no row.
UNANSWERED = (None, JobState.INTENT, JobState.SENDING)
_IN_DOUBT = (JobState.IN_DOUBT, JobState.UNRESOLVED)

#: The number of changes kept for a slow reader of ``Job.updates()``; a task has a handful of states.
MAX_UPDATES = 64


class StopReason(Enum):
    """The reasons to end a submission before its create is accepted."""

    CANCELLED = auto()  #: The caller has left.
    ACCOUNT = auto()  #: The account cannot pay.
    CLOSED = auto()  #: The client closes.


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Submission:
    """
    The part of a job's state that is needed only while it is being submitted.

    Attributes:
        position: The position in the queue.

        requested_at: The instant of the request, by the loop's clock.

        outlasts_maintenance: True if the job waits for the end of maintenance without a timeout.

        may_pay_again: Called before an ambiguous create is sent again; returns False if the budget does not allow it.

        key_of_content: True if the job's key is made of its content, and must not be used for any other.

        upload_again: Uploads the images of the request again and returns the input to send, once their uploads have
            expired.

        budget: The name of the budget that pays for the job, or None.

        price: The price of each create in that budget; None if it is unknown.

        shared: True if a shared run of ``map()`` holds the row.

        stop_reason: The reason to end the submission as soon as nothing is on the wire, or None.

        on_wire: True from the first byte of a create until its response has been read.

        scope: The cancel scope of the part that may be cancelled while nothing is on the wire.
    """

    position: int = 0
    requested_at: float = 0.0
    outlasts_maintenance: bool = False
    may_pay_again: Callable[[], bool] | None = None
    key_of_content: bool = False
    upload_again: Callable[[], Awaitable[Mapping[str, JSON]]] | None = None
    budget: str | None = None
    price: float | None = None
    shared: bool = False
    stop_reason: StopReason | None = None
    on_wire: bool = False
    scope: anyio.CancelScope | None = None

    def again(self) -> Submission:
        """Return a new submission with the same options."""
        return Submission(
            outlasts_maintenance=self.outlasts_maintenance,
            may_pay_again=self.may_pay_again,
            key_of_content=self.key_of_content,
            budget=self.budget,
            price=self.price,
            shared=self.shared,
        )

    def cancel_unless_on_wire(self) -> None:
        """Cancel the submission, unless a create may be on the wire."""
        if self.scope is not None and not self.on_wire:
            self.scope.cancel()


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class Unwritten:
    """
    The transitions of a row that could not be written.

    Attributes:
        row: The row as the journal holds it.

        steps: Each missing transition: the row after it and its other changes.

        lock: Held while they are written.
    """

    row: Intent
    steps: list[tuple[Intent, Changes]]
    lock: anyio.Lock = attrs.field(factory=anyio.Lock)


@attrs.define(eq=False, kw_only=True, weakref_slot=False)
class LiveJob:
    """
    A job that is awaited here, or that may still change.

    Attributes:
        id: The job's own id; the taskId for a task that this journal does not know.

        key: The caller's key.

        fingerprint: The fingerprint of the request, where it is known already.

        row: The row in the journal; None before it is written, and for a task that this journal does not know.

        journaled: True once the submission has written the row, or found it.

        unwritten: After a failed write: the missing transitions. Until they are written, this job is the only truth
            about its row.

        successor: The job with the same key that replaces this one.

        record: The latest record of the task.

        error: The error that ended the job: rejected, cancelled, or stopped.

        wait_error: An error for all waits while the task itself is not affected.

        submission: The running submission, or None.

        remote: True if another process owns the job.

        submitted_here: True if a submission here has worked on the job: this process may send it.

        holds_slot: True if the job holds a slot.

        accepted_at: The instant of acceptance, by the loop's clock.

        not_visible: True if the service's latest answer was that it does not know the task.

        overdue: The instant from which the last poll before the job is stalled is awaited, or None.

        callback_received: True if a callback for the job has arrived.

        empty_polls: The number of consecutive polls that reported success without a result.

        unusable_polls: The number of consecutive polls without a record of the task.

        watch: The state of its polling, while it is polled.

        due_at: The instant at which it stalls while its task runs; set by the tracker's ``DeadlineQueue``.

        timers: Its other deadlines.

        waiters: The number of waits for the job.
    """

    id: str
    key: str | None = None
    fingerprint: str | None = None
    row: Intent | None = None
    journaled: bool = False
    unwritten: Unwritten | None = None
    successor: LiveJob | None = None
    record: TaskRecord | None = None
    error: KieError | None = None
    wait_error: KieError | None = None
    submission: Submission | None = None
    remote: bool = False
    submitted_here: bool = False
    holds_slot: bool = False
    accepted_at: float = 0.0
    not_visible: bool = False
    overdue: float | None = None
    callback_received: bool = False
    empty_polls: int = 0
    unusable_polls: int = 0
    due_at: float | None = None
    watch: Watch | None = None
    timers: tuple[Timer, ...] = ()
    waiters: int = 0
    _change_waiters: list[asyncio.Future[None]] = attrs.field(factory=list, init=False)
    _end_waiters: list[asyncio.Future[None]] = attrs.field(factory=list, init=False)
    _readers: list[deque[TaskRecord]] = attrs.field(factory=list, init=False)

    @classmethod
    def from_row(cls, row: Intent) -> LiveJob:
        """Return the job of a row that was found in the journal."""
        return cls(id=row.id, key=row.key, fingerprint=row.fingerprint, row=row, journaled=True)

    @property
    def foreign(self) -> bool:
        """True if this journal does not know the task."""
        return not self.id.startswith("kj_")

    @property
    def final(self) -> LiveJob:
        """This job, or the one that replaces it."""
        return self if self.successor is None else self.successor.final

    @property
    def own_id(self) -> str | None:
        """The job's own id; None for a foreign task."""
        return None if self.foreign else self.id

    @property
    def has_submission(self) -> bool:
        """True while a submission here works on the job."""
        return self.submission is not None

    @property
    def in_progress(self) -> bool:
        """True while a submission here, or another process, works on the job."""
        return self.has_submission or self.remote

    @property
    def awaits_answer(self) -> bool:
        """
        True while its create may still be answered, also if it is about to be sent anew.

        A row is in doubt while its create is on the wire here if another worker has taken this one for ended.
        """
        states = (*UNANSWERED, JobState.CANCELLED, JobState.REJECTED, JobState.IN_DOUBT)
        return self.in_progress and self.state in (states if self.has_submission else UNANSWERED)

    @property
    def is_answered(self) -> bool:
        """True if a caller with its key gets this job as it is; otherwise its row says who may send it."""
        return self.has_submission or self.task_id is not None or (not self.remote and self.state in _IN_DOUBT)

    @property
    def state(self) -> JobState | None:
        """The state of its row; None while it has none."""
        return None if self.row is None else self.row.state

    @property
    def task_id(self) -> str | None:
        """The service's id, as far as it is known."""
        if self.foreign:
            return self.id
        return None if self.row is None else self.row.task_id

    def learn(self, row: Intent) -> bool:
        """
        Take over a row that was read from the journal or written to it, unless the job knows a later one.

        Every row passes through here, since it may be outdated by the time that its reader continues.

        Returns:
            True if the row is later than the known one; then the job must be resumed by it.
        """
        if self.unwritten is not None or (self.row is not None and row.version <= self.row.version):
            return False
        self.row = row
        return True

    def last_record(self) -> TaskRecord | None:
        """Return the latest record, from memory or from the row."""
        if self.record is None and self.row is not None and self.row.record is not None:
            self.record = load_record(self.row.record)
        return self.record

    @property
    def readers(self) -> int:
        """The number of readers of its changes."""
        return len(self._readers)

    @property
    def proceeding(self) -> bool:
        """True while the job proceeds without an error and has not ended: waits for its end need not be woken."""
        if self.wait_error is not None or self.successor is not None:
            return False
        return self.state is JobState.SUBMITTED or (self.in_progress and self.state in UNANSWERED)

    async def wait_for_change(self) -> None:
        """Wait for the next change; cancelling the wait disturbs no other waiter."""
        waiter = self.add_waiter(self._change_waiters)
        try:
            await waiter
        finally:
            self.remove_waiter(waiter, self._change_waiters)

    def add_waiter(self, waiters: list[asyncio.Future[None]] | None = None) -> asyncio.Future[None]:
        """
        Return a future that is done at the next change after which the job is not ``proceeding``.

        Each call is followed by one of ``remove_waiter``, also when the wait is cancelled.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._end_waiters if waiters is None else waiters).append(waiter)
        self.waiters += 1
        return waiter

    def remove_waiter(self, waiter: asyncio.Future[None], waiters: list[asyncio.Future[None]] | None = None) -> None:
        """End a wait that ``add_waiter`` has begun."""
        self.waiters -= 1
        with suppress(ValueError):  # it was woken
            (self._end_waiters if waiters is None else waiters).remove(waiter)

    def wake_waiters(self) -> None:
        """Wake all waits for a change and, if the job is not ``proceeding``, all waits for its end."""
        woken = [*self._change_waiters]
        self._change_waiters.clear()
        if self._end_waiters and not self.proceeding:
            woken += self._end_waiters
            self._end_waiters.clear()
        for waiter in woken:
            if not waiter.done():  # else it is being cancelled
                waiter.set_result(None)

    def update_record(self, record: TaskRecord) -> None:
        """Store a record and pass it on to all readers and waiters, if it differs from the latest one."""
        if record == self.record:
            return
        self.record = record
        for reader in self._readers:
            reader.append(record)
        self.wake_waiters()

    def add_reader(self) -> deque[TaskRecord]:
        """Return a queue that receives the latest record and all later ones; the oldest are dropped if it is full."""
        record = self.last_record()
        reader: deque[TaskRecord] = deque(() if record is None else (record,), maxlen=MAX_UPDATES)
        self._readers.append(reader)
        return reader

    def drop_reader(self, reader: deque[TaskRecord]) -> None:
        """Stop filling a queue."""
        self._readers = [other for other in self._readers if other is not reader]


class Registry:
    """The live jobs of one event loop; a job is in it from before its row is written until it has ended."""

    def __init__(self) -> None:
        self._jobs: dict[str, LiveJob] = {}
        self._keys: dict[str, LiveJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[LiveJob]:
        return iter(list(self._jobs.values()))

    def add(self, job: LiveJob) -> None:
        """
        Add a job, if it is not in the registry.

        Raises:
            RuntimeError: If another job has its id. There is one job for each row, so that no job undoes another's
                changes.
        """
        if self._jobs.setdefault(job.id, job) is not job:
            msg = f"The registry has another job with the id {job.id}. This is a bug: please report it."
            raise RuntimeError(msg)
        if job.key is not None:
            self._keys[job.key] = job

    def remove(self, job: LiveJob) -> None:
        """Remove a job."""
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
        """Return the job of an own id, or of a foreign taskId that is awaited."""
        return self._jobs.get(job_id)

    def by_key(self, key: str) -> LiveJob | None:
        """Return the job of a caller's key."""
        return self._keys.get(key)

    def latest(self, row: Intent) -> Intent:
        """Return the truth about a row that was read from the journal: the live job's row, if it is not written yet."""
        job = self.get(row.id)
        return row if job is None or job.row is None or job.unwritten is None else job.row

    def by_task(self, task_id: str) -> LiveJob | None:
        """
        Return the job of a taskId that the journal does not know, by a search of all jobs.

        It finds only jobs whose row could not be written: too few for an index, which takes 50 bytes a job.
        """
        return next((job for job in self._jobs.values() if job.task_id == task_id), None)
