"""The interface of all journals: they keep the rows of intents and change their states by compare-and-set only."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

import anyio.lowlevel
import attrs

from kie_async._core.acknowledged import Repair
from kie_async._core.budget_ledger import SeenPrices
from kie_async._core.callback_token import account_of, callback_secret
from kie_async._core.durations import Kind
from kie_async._core.job_errors import load_error
from kie_async._core.lifecycle import UNFINISHED, Intent, SourceFile, encode_for_journal
from kie_async._urls import service_origin
from kie_async.budget import BudgetInfo
from kie_async.errors import JournalError
from kie_async.policy import Limits
from kie_async.states import JobInfo, JobState
from kie_async.statistics import WorkerInfo

if TYPE_CHECKING:
    from kie_async._core.account_state import AccountState

__all__ = [
    "PAGE",
    "AccountChange",
    "Changes",
    "Journal",
    "Service",
    "WorkerReport",
    "illegal_transition",
    "in_pages",
    "job_info",
    "load_worker",
    "read_job_infos",
    "read_keys",
    "read_pages",
]

_T = TypeVar("_T")

#: The number of rows that are read, adopted or deleted at a time: a few milliseconds, for which others wait.
PAGE = 200
#: The number of keys that are read at a time.
_KEYS = 10 * PAGE


class Changes(TypedDict, total=False):
    """The fields of a row, other than its state, that may change."""

    sources: tuple[SourceFile, ...]
    input: str
    callback_url: str | None
    attempts: int
    ambiguous_attempts: int
    sending_at: float | None
    task_id: str | None
    accepted_at: float | None
    record: str | None
    credits: float | None
    error: str | None
    duplicate_task_ids: tuple[str, ...]
    callback_task_ids: tuple[str, ...]
    saved: tuple[str, ...]
    owner: str | None
    budget: str | None
    price: float | None


@attrs.frozen
class Service:
    """
    The service that a client speaks to, and its account there.

    Attributes:
        origin: The service; see ``service_origin``.

        account: The fingerprint of the API key.

        callback_secret: The secret of the account's callback tokens.

        account_name: The caller's name of the account; workers with the same name share its limits.
    """

    origin: str = ""
    account: str = ""
    callback_secret: bytes = attrs.field(default=b"", repr=False)
    account_name: str = "default"

    @classmethod
    def of(cls, base_url: str, api_key: str, account_name: str = "default") -> Service:
        """Return the service of a base URL, and the account of an API key, by its name."""
        return cls(service_origin(base_url), account_of(api_key), callback_secret(api_key), account_name)


@attrs.frozen
class AccountChange(Generic[_T]):
    """
    The result of a change of the account's state.

    Attributes:
        result: The result of the function that has changed it.

        now: The shared time of the change.

        earliest: An instant of the event loop's clock before that time was read.

        latest: One after it was read.
    """

    result: _T
    now: float
    earliest: float
    latest: float


@attrs.frozen(kw_only=True)
class WorkerReport:
    """
    The figures that a worker reports with each heartbeat; see ``WorkerInfo``.

    It consists of what JSON has, so that a journal stores it as one text and needs to know nothing of it.
    """

    watched: int = 0
    in_flight: int = 0
    wanting: int = 0
    jobs: Mapping[str, int] = attrs.field(factory=dict)
    slots: int = 0
    polls_per_second: float = 0.0
    recovers: bool = False
    limits: Limits = attrs.field(factory=Limits)

    def dump(self) -> str:
        """Return the text to store, for ``load_worker``."""
        return encode_for_journal(attrs.asdict(self))


def load_worker(
    name: str, host: str, pid: int, started_at: float, heartbeat_at: float, report: str | None
) -> WorkerInfo:
    """Return a worker as the journal has it; *report* is the text of its last heartbeat, or None before the first."""
    figures: dict[str, Any] = {} if report is None else json.loads(report)
    # Figures that a newer version reports are left out.
    reported = ("watched", "in_flight", "wanting", "jobs", "slots", "polls_per_second", "recovers")
    known = {field: figures[field] for field in reported if field in figures}
    limits = None if report is None else Limits(**figures["limits"])
    return WorkerInfo(
        name=name, host=host, pid=pid, started_at=started_at, heartbeat_at=heartbeat_at, limits=limits, **known
    )


class Journal(Protocol):
    """
    A store of intents, and the list of the workers that share it.

    It lists the intents of all services, finds them by id, and forgets them. Everything else (keys, claims, orphans,
    prices) concerns the intents of its own service only.

    Every method raises ``JournalError`` if it fails; then nothing was changed.
    """

    #: The service of the client that uses the journal; new rows get its origin and its account.
    service: Service
    #: Called in the event loop with the rows that were written again because the journal had gone back in time.
    on_restored: Callable[[Sequence[Repair]], None] | None
    #: The account's state in a journal that no other process can share: the client changes it in place. Else unused.
    account_state: AccountState | None

    @property
    def durable(self) -> bool:
        """True if rows outlive the process."""
        ...

    async def open(self) -> None:
        """Open the journal; called before anything else, once by each client in each event loop."""
        ...

    async def close(self) -> None:
        """Finish pending writes and close; called once for each ``open``."""
        ...

    def release(self) -> None:
        """Begin to close, without an event loop: what waits is written soon, and then the rows can be claimed."""
        ...

    async def add(self, intent: Intent) -> Intent:
        """Add a new row and return it; if its key exists already, change nothing and return the row of that key."""
        ...

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        """
        Change the state of a row if its state, its number of attempts and its owner are still those of *seen*.

        Only its owner sends a row: the state becomes SENDING only if this worker is the owner of *seen*. A row that is
        SENDING takes no task of another row of its service: what an answer to its create names proves nothing.

        Args:
            seen: The row as the caller knows it.

            state: The new state.

            at: The current time, in seconds since the epoch.

            account_epoch: Change the row only if the account's state still has this epoch; None for any.

            **changes: Other fields to change in the same write.

        Returns:
            The changed row, or None if it had been changed by another caller, if another row has the task, if another
            worker's row was to be sent, or if the account's state has another epoch.

        Raises:
            BudgetExceededError: If the new state is SENDING, and the row's budget has no room for the create.
        """
        ...

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        """Change fields of a row, but not its state; return None if the row does not exist."""
        ...

    async def get(self, job_id: str) -> Intent | None:
        """Return the row with an id."""
        ...

    async def by_key(self, key: str) -> Intent | None:
        """Return the row with a caller's key."""
        ...

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        """Return the rows that have one of the callers' keys."""
        ...

    async def identity(self) -> str:
        """Return the id that the journal got when it was made, which a copy shares; empty for one in memory."""
        ...

    async def has_keys(self) -> bool:
        """Return True if any row has a caller's key, or had one and was dropped."""
        ...

    async def keys(self, prefix: str, *, after: str = "", limit: int) -> Sequence[tuple[str, JobState]]:
        """
        Return callers' keys with the states of their rows, sorted.

        Args:
            prefix: The characters with which the keys begin.

            after: Only keys that are greater.

            limit: The largest number of keys to return.
        """
        ...

    async def dropped_keys(self, keys: Collection[str]) -> Sequence[str]:
        """Return those of the callers' keys whose rows were dropped to save memory; nothing else is known of them."""
        ...

    async def by_task(self, task_id: str) -> Intent | None:
        """Return the row of a task."""
        ...

    async def rows(
        self, states: Collection[JobState] | None = None, *, after: int = 0, limit: int | None = None
    ) -> Sequence[Intent]:
        """
        Return rows, oldest first.

        Args:
            states: Only rows in one of these states; None for all.

            after: Only rows with a larger ``number``.

            limit: The largest number of rows to return; None for all. ``read_pages`` reads a page at a time.
        """
        ...

    async def rows_named_by_callbacks(self, *, after: int = 0, limit: int | None = None) -> Sequence[Intent]:
        """Return the rows for which callbacks have named tasks that are not proved yet; see ``rows``."""
        ...

    async def find_changed(self, seen: Collection[Intent]) -> Mapping[str, Intent | None]:
        """
        Find the rows that differ from the given ones.

        Args:
            seen: Rows as the caller knows them.

        Returns:
            By their ids, the rows that another transition, update or owner has changed, in their current version; None
            for a deleted row.
        """
        ...

    async def forget(self, *, before: float) -> int:
        """
        Delete the ended rows that last changed before the instant *before*, and return their number.

        A job of ``map()`` stays while a retry of its row is unfinished or newer: without it, the row would be paid
        again.

        It deletes a few at a time, so that an error or a cancellation may leave some of them.
        """
        ...

    async def forgotten_until(self) -> float:
        """Return the latest change of a row that ``forget`` has deleted, in seconds since the epoch."""
        ...

    async def mark_delivered(self, job_id: str) -> None:
        """
        Record that the caller of an ended row has its result.

        A journal with bounded memory may drop such rows, the oldest first; their keys are still not paid again.
        """
        ...

    async def recent_durations(self, limit: int) -> Sequence[tuple[Kind, float]]:
        """Return the kind and the duration in seconds of the latest rows whose task has ended, oldest first."""
        ...

    async def open_budget(self, name: str, credits: float) -> BudgetInfo:
        """
        Return a named budget, which is created if it does not exist.

        Raises:
            ConfigurationError: If it has another limit than *credits*.
        """
        ...

    async def raise_budget(self, name: str, credits: float) -> BudgetInfo:
        """
        Raise the limit of a named budget to *credits*, and return it.

        Raises:
            ConfigurationError: If there is no such budget, or its limit is higher.
        """
        ...

    async def budgets(self) -> Sequence[BudgetInfo]:
        """Return all named budgets, by name."""
        ...

    async def uncharged_rows(self, budget: str) -> Sequence[Intent]:
        """Return the rows of a named budget that may have been paid and whose cost is not known."""
        ...

    async def seen_prices(self, model: str, price_class: str) -> SeenPrices:
        """Return the prices that tasks of a price class, and all tasks of its model, have had."""
        ...

    async def change_account(
        self, change: Callable[[str | None, float], tuple[str | None, int, _T]]
    ) -> AccountChange[_T]:
        """
        Change the state of the account, which all workers of this service and account name share.

        The disk is not waited for: a power cut may lose the change, but not if it loses nothing that follows.

        Args:
            change: Gets the state as text (None at first) and the shared time in seconds; returns the new text (None to
                change nothing), its epoch, and a result. It is called in another thread, and again if another worker
                has changed the state meanwhile, so it depends on its arguments only.
        """
        ...

    def owns(self, row: Intent) -> bool:
        """Return True if this process owns the row."""
        ...

    async def is_owner_alive(self, row: Intent) -> bool:
        """Return True if the owner of a row is alive: this process, or another one."""
        ...

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        """
        Take over open rows that are free, or whose owner has ended.

        Args:
            job_ids: Only these; None for all.

            adopt_key: True to take over unsent rows of another API key, too; they are sent with the present one.

            after: Only rows with a larger ``number``.

            limit: The largest number of rows to return, and to take over; None for all.

        Returns:
            The open rows (of these) that this process owns now, oldest first, including those it owned before.
        """
        ...

    async def take_over(self, *, adopt_key: bool = False, limit: int) -> Sequence[Intent]:
        """
        Take over open rows whose owner has ended, but not those that were given up.

        Args:
            adopt_key: See ``claim``.

            limit: The largest number of rows to take over.

        Returns:
            The rows that this call has taken over, oldest first; none if there are none to take.
        """
        ...

    async def has_expired_owners(self) -> bool:
        """
        Return True while open rows belong to workers whose lease has expired, and this worker may not take them yet.

        After it was away itself, it gives the others the time for a heartbeat: they may have been away like itself.
        """
        ...

    async def hold(self, job_ids: Collection[str]) -> Sequence[Intent]:
        """
        Hold rows for a shared run of ``map()``, by compare-and-set, unless another worker that is alive holds them.

        A row whose outcome was yielded is not held again, unless it was rejected: that may be sent anew.

        Args:
            job_ids: The ids of the rows.

        Returns:
            Those of the rows that exist, with the present ``holder`` of each.
        """
        ...

    async def end_hold(self, job_id: str, yielded: JobState | None) -> None:
        """
        End the hold of a row.

        Args:
            job_id: The id of the row.

            yielded: The state whose outcome the run has yielded; None to leave the row to other workers, if this one
                holds it.
        """
        ...

    async def count_orphans(self) -> Mapping[JobState, int]:
        """Count the open rows whose owner is not alive, by state."""
        ...

    async def count_unsent_of_other_keys(self) -> int:
        """Count the unsent rows without a living owner that ``claim`` leaves, because of their API key."""
        ...

    async def older_callback_secrets(self) -> Sequence[bytes]:
        """Return the secrets of callback tokens that were made under other API keys of this service."""
        ...

    @property
    def heartbeat_interval(self) -> float:
        """The interval between two heartbeats of a worker, in seconds."""
        ...

    @property
    def lease(self) -> float | None:
        """The time in seconds without a heartbeat after which others take a worker for ended; None: they know it."""
        ...

    @property
    def worker(self) -> str:
        """
        The name of this worker, the owner of its rows; it is made at ``open`` and never used again.

        ``heartbeat`` changes it if other workers may have taken this one for ended. Then ``owns`` is False for all rows
        of the old name, which can be claimed like those of any worker that has ended.
        """
        ...

    async def heartbeat(self, report: WorkerReport) -> Sequence[WorkerInfo]:
        """
        Extend this worker's lease, and store its report; nothing is lost if that is not on the disk yet.

        If its lease has expired, or its entry is gone, it enters under a new name; see ``worker``. Entries of workers
        that have ended are removed.

        Returns:
            The workers of this service and account name that are alive, including this one, by their names.
        """
        ...

    async def workers(self) -> Sequence[WorkerInfo]:
        """Return what ``heartbeat`` returns, without a heartbeat; this worker is listed once it has sent one."""
        ...

    async def wait_for_change(self) -> Collection[str] | None:
        """
        Wait until another worker may have changed rows since the previous call; since ``open`` in the first call.

        One call at a time. If it is cancelled, the next call returns what this one would have returned.

        Returns:
            The ids of the changed rows; None if any row may have changed.
        """
        ...


def illegal_transition(row: Intent, state: JobState) -> JournalError:
    """Return the error for a transition that the lifecycle does not have."""
    msg = f"An intent cannot change from {row.state} to {state}. This is a bug: please report it."
    return JournalError(msg, job_id=row.id, task_id=row.task_id)


def in_pages(items: Collection[_T]) -> Iterator[list[_T]]:
    """Yield the parts of a collection that one call of a journal's thread may take."""
    remaining = iter(items)
    while part := list(islice(remaining, PAGE)):
        yield part


async def read_pages(read: Callable[[int], Awaitable[Sequence[Intent]]]) -> AsyncGenerator[Sequence[Intent]]:
    """
    Yield all rows of a query, a page at a time.

    Args:
        read: Reads a page; called with the number of the last row so far.
    """
    after = 0
    while page := await read(after):
        yield page
        after = page[-1].number


async def read_keys(journal: Journal, prefix: str) -> dict[str, JobState]:
    """Return the callers' keys that begin with *prefix*, sorted, with the states of their rows."""
    found: dict[str, JobState] = {}
    while page := await journal.keys(prefix, after=next(reversed(found), ""), limit=_KEYS):
        found.update(page)
    return found


#: The fields of a JobInfo, and where a row has them.
_INFO_FIELDS = {
    "job_id": "id",
    "state": "state._value_",
    "model": "model",
    "created_at": "created_at",
    "updated_at": "updated_at",
    "task_id": "task_id",
    "key": "key",
    "credits": "credits",
    "error": "error",
    "duplicates": "duplicate_task_ids",
    "origin": "origin",
}
_info_values: Callable[[Intent], tuple[Any, ...]] = attrgetter(*_INFO_FIELDS.values())


def _make_info(values: tuple[Any, ...]) -> JobInfo:
    fields = dict(zip(_INFO_FIELDS, values, strict=True))
    fields["state"] = JobState(fields["state"])
    if fields["error"] is not None:
        fields["error"] = load_error(fields["error"], job_id=fields["job_id"]).message
    return JobInfo(**fields)


class _JobInfos(Sequence[JobInfo]):
    """
    A sequence of snapshots, each of which is made when it is read.

    Until then it is a tuple of strings and numbers, which the garbage collector passes over: 250,000
    objects would take it 70 ms at a time, while the loop stands still.
    """

    def __init__(self, values: list[tuple[Any, ...]]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, index: int) -> JobInfo: ...

    @overload
    def __getitem__(self, index: slice) -> _JobInfos: ...

    def __getitem__(self, index: int | slice) -> JobInfo | _JobInfos:
        if isinstance(index, slice):
            return _JobInfos(self._values[index])
        return _make_info(self._values[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return repr(list(self))


async def read_job_infos(
    journal: Journal, *, unfinished: bool, latest: Callable[[Intent], Intent]
) -> Sequence[JobInfo]:
    """
    Return all jobs of a journal, oldest first.

    Args:
        journal: The journal.

        unfinished: True for only those that have not ended.

        latest: Returns the truth about a row, which may not be written yet.
    """
    states = UNFINISHED if unfinished else None
    values: list[tuple[Any, ...]] = []
    async with aclosing(read_pages(lambda after: journal.rows(states, after=after, limit=PAGE))) as pages:
        async for page in pages:
            rows = map(latest, page)
            values += [_info_values(row) for row in rows if states is None or row.state in states]
            await anyio.lowlevel.checkpoint()  # the journal in memory does not wait
    return _JobInfos(values)


def job_info(row: Intent) -> JobInfo:
    """Return the snapshot of a row that callers get."""
    return _make_info(_info_values(row))
