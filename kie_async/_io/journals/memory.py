"""The journal in memory: its rows outlive an event loop, but not the process."""

from __future__ import annotations

import asyncio
import os
import platform
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import NoReturn, TypeVar, Unpack, cast

import anyio
import attrs

from kie_async._core.account_state import AccountState
from kie_async._core.acknowledged import Repair
from kie_async._core.budget_ledger import (
    PriceMemory,
    SeenPrices,
    changed_budget,
    check_create,
    may_cost_more,
    opened_budget,
    raised_budget,
)
from kie_async._core.durations import Kind
from kie_async._core.lifecycle import ENDED, OPEN, Intent, can_follow, has_yielded
from kie_async._io.journals.journal import Changes, Service, WorkerReport, illegal_transition, load_worker
from kie_async._io.journals.rows import keep_duplicates
from kie_async._io.runtime import Runtime
from kie_async._keys import row_key
from kie_async.budget import BudgetInfo
from kie_async.errors import JournalError, KeyConflictError
from kie_async.states import JobState
from kie_async.statistics import WorkerInfo

__all__ = ["MemoryJournal"]

_T = TypeVar("_T")

#: The owner of the rows that are not free.
_HERE = "this process"


class MemoryJournal:
    """
    A journal whose rows are in a dict. See ``Journal`` for the methods.

    Args:
        keep_ended: The number of ended rows to keep of those that no key will ask for: rows without a key, and
            delivered ones. Beyond it, the rows that ended first are dropped. Other rows with a key stay until
            ``forget``. Of a dropped key the hash stays (about 70 bytes), so that it is refused and not paid again.

        service: The service of the client, the only one that uses the journal.
    """

    durable = False
    lease: float | None = None
    heartbeat_interval: float = 3.0

    def __init__(self, *, keep_ended: int = 10_000, service: Service | None = None) -> None:
        self.service: Service = service or Service()
        self.on_restored: Callable[[Sequence[Repair]], None] | None = None  # never called: the rows are here
        self._rows: dict[str, Intent] = {}
        self._by_key: dict[str, str] = {}
        self._by_task: dict[str, str] = {}
        self._droppable: dict[str, None] = {}  # an ordered set
        self._keep_ended = keep_ended
        self._dropped_keys: set[int] = set()
        self._prices = PriceMemory()
        self._budgets: dict[str, BudgetInfo] = {}
        self._last_number = 0
        self._opened_at = 0.0
        self.account_state: AccountState | None = None
        self._workers: Sequence[WorkerInfo] = ()

    async def open(self) -> None:
        self._opened_at = Runtime(asyncio.get_running_loop()).wall()

    async def close(self) -> None:
        """Do nothing: the rows stay for the next event loop."""

    def release(self) -> None:
        """Do nothing."""

    async def add(self, intent: Intent) -> Intent:
        if intent.key is not None and (known := await self.by_key(intent.key)) is not None:
            return known
        if intent.id in self._rows:
            msg = f"{intent.id} is in the journal already."
            raise JournalError(msg, job_id=intent.id)
        self._last_number += 1
        row = self._rows[intent.id] = attrs.evolve(
            intent,
            number=self._last_number,
            owner=_HERE,
            origin=self.service.origin,
            account=self.service.account,
        )
        if row.key is not None:
            self._by_key[row.key] = row.id
        return row

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        if not can_follow(seen.state, state):
            raise illegal_transition(seen, state)
        row = self._rows.get(seen.id)
        if row is None or (row.state, row.attempts, row.owner) != (seen.state, seen.attempts, seen.owner):
            return None
        if state is JobState.SENDING and not self.owns(seen):
            return None
        if account_epoch is not None and self.account_state is not None and account_epoch != self.account_state.epoch:
            return None
        other = self._rows[self._by_task.get(changes.get("task_id") or "", row.id)]
        if row.state is JobState.SENDING and other.id != row.id and other.origin == row.origin:
            return None
        if state is JobState.INTENT:
            changes.setdefault("owner", _HERE)
        changed = _changed(row, at, changes, state=state)
        if state is JobState.SENDING and changed.budget is not None:
            info = changed_budget(self._budgets[changed.budget], row, changed)
            check_create(info, changed, self._uncharged(changed.budget) if changed.price is None else ())
        return self._put(changed)

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        row = self._rows.get(job_id)
        return None if row is None else self._put(_changed(row, at, changes))

    async def get(self, job_id: str) -> Intent | None:
        return self._rows.get(job_id)

    async def by_key(self, key: str) -> Intent | None:
        known = self._by_key.get(key)
        if known is None and hash(key) in self._dropped_keys:
            msg = (
                f"The job of key {key!r} ended earlier in this process and is not paid again; the journal in memory"
                f" keeps the last {self._keep_ended} only. Use KieClient(journal='kie.db') to read such results again."
            )
            raise KeyConflictError(msg)
        return None if known is None else self._rows[known]

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        return [self._rows[self._by_key[key]] for key in keys if key in self._by_key]

    async def identity(self) -> str:
        return ""

    async def has_keys(self) -> bool:
        return bool(self._by_key) or bool(self._dropped_keys)

    async def keys(self, prefix: str, *, after: str = "", limit: int) -> Sequence[tuple[str, JobState]]:
        found = sorted(key for key in self._by_key if key.startswith(prefix) and key > after)
        return [(key, self._rows[self._by_key[key]].state) for key in found[:limit]]

    async def dropped_keys(self, keys: Collection[str]) -> Sequence[str]:
        return [key for key in keys if key not in self._by_key and hash(key) in self._dropped_keys]

    async def by_task(self, task_id: str) -> Intent | None:
        known = self._by_task.get(task_id)
        return None if known is None else self._rows[known]

    async def rows(
        self, states: Collection[JobState] | None = None, *, after: int = 0, limit: int | None = None
    ) -> Sequence[Intent]:
        return self._page(lambda row: states is None or row.state in states, after, limit)

    async def rows_named_by_callbacks(self, *, after: int = 0, limit: int | None = None) -> Sequence[Intent]:
        return self._page(lambda row: bool(row.callback_task_ids), after, limit)

    async def find_changed(self, seen: Collection[Intent]) -> Mapping[str, Intent | None]:
        now = {row.id: self._rows.get(row.id) for row in seen}
        return {row.id: now[row.id] for row in seen if now[row.id] != row}

    async def forget(self, *, before: float) -> int:
        old = {row.id: row for row in self._rows.values() if row.state in ENDED and row.updated_at < before}
        needed = {row_key(row.key) for row in self._rows.values() if row.key and row.id not in old}
        forgotten = [row.id for row in old.values() if row.key is None or row_key(row.key) not in needed]
        for job_id in forgotten:
            self._drop(job_id)
        return len(forgotten)

    async def forgotten_until(self) -> float:
        """Return 0: a row that is not here may never have been."""
        return 0.0

    async def mark_delivered(self, job_id: str) -> None:
        row = self._rows.get(job_id)
        if row is not None and row.state in ENDED:
            self._make_droppable(row)

    async def recent_durations(self, limit: int) -> Sequence[tuple[Kind, float]]:  # noqa: ARG002 (there are none)
        """Return nothing: the client that has the rows knows the durations."""
        return ()

    async def open_budget(self, name: str, credits: float) -> BudgetInfo:
        self._budgets[name] = opened = opened_budget(self._budgets.get(name), name, credits)
        return opened

    async def raise_budget(self, name: str, credits: float) -> BudgetInfo:
        self._budgets[name] = raised = raised_budget(self._budgets.get(name), name, credits)
        return raised

    async def budgets(self) -> Sequence[BudgetInfo]:
        return [self._budgets[name] for name in sorted(self._budgets)]

    async def uncharged_rows(self, budget: str) -> Sequence[Intent]:
        return self._uncharged(budget)

    async def seen_prices(self, model: str, price_class: str) -> SeenPrices:
        return self._prices.seen(model, price_class)

    def owns(self, row: Intent) -> bool:
        """Return True, unless the row is free: no other process has these rows."""
        return row.owner is not None

    async def is_owner_alive(self, row: Intent) -> bool:
        """Return True, unless the row is free: this process is alive."""
        return row.owner is not None

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,  # noqa: ARG002 (there is one key)
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        """Own the free rows, and return the open rows; there are no other owners."""
        found = self._page(lambda row: row.state in OPEN and (job_ids is None or row.id in job_ids), after, limit)
        return [
            row if row.owner is not None else self._put(attrs.evolve(row, owner=_HERE, version=row.version + 1))
            for row in found
        ]

    async def hold(self, job_ids: Collection[str]) -> Sequence[Intent]:
        """Hold the rows; there are no other workers."""
        for row in [self._rows[job_id] for job_id in job_ids if job_id in self._rows]:
            if row.state is JobState.REJECTED or not has_yielded(row):
                self._put(attrs.evolve(row, holder=_HERE, yielded=None, version=row.version + 1))
        return [self._rows[job_id] for job_id in job_ids if job_id in self._rows]

    async def end_hold(self, job_id: str, yielded: JobState | None) -> None:
        if (row := self._rows.get(job_id)) is not None:
            holder = None if yielded is None else _HERE
            self._put(attrs.evolve(row, holder=holder, yielded=yielded, version=row.version + 1))

    async def take_over(self, *, adopt_key: bool = False, limit: int) -> Sequence[Intent]:  # noqa: ARG002
        """Return nothing: there are no other owners."""
        return ()

    async def has_expired_owners(self) -> bool:
        """Return False: there are no other workers."""
        return False

    async def count_orphans(self) -> Mapping[JobState, int]:
        """Return nothing: there are no other owners."""
        return {}

    async def count_unsent_of_other_keys(self) -> int:
        """Return 0: one client has these rows, and it has one key."""
        return 0

    async def older_callback_secrets(self) -> Sequence[bytes]:
        """Return nothing: one client has these rows, and it has one key."""
        return ()

    async def change_account(self, change: Callable[[str | None, float], tuple[str | None, int, _T]]) -> NoReturn:  # noqa: ARG002
        """Refuse: the client changes ``account_state`` in place."""
        msg = "The journal in memory has no shared state. This is a bug: please report it."
        raise JournalError(msg)

    @property
    def worker(self) -> str:
        """The owner of the rows that are not free."""
        return _HERE

    async def heartbeat(self, report: WorkerReport) -> Sequence[WorkerInfo]:
        runtime = Runtime(asyncio.get_running_loop())
        self._workers = [
            load_worker(_HERE, platform.node(), os.getpid(), self._opened_at, runtime.wall(), report.dump())
        ]
        return self._workers

    async def workers(self) -> Sequence[WorkerInfo]:
        return self._workers

    async def wait_for_change(self) -> Collection[str] | None:
        """Wait until it is cancelled: no other process writes."""
        await anyio.sleep_forever()
        return None

    def _page(self, wanted: Callable[[Intent], bool], after: int, limit: int | None) -> list[Intent]:
        rows = list(self._rows.values())
        first = bisect_right(rows, after, key=lambda row: row.number)
        return list(islice(filter(wanted, islice(rows, first, None)), limit))

    def _put(self, row: Intent) -> Intent:
        self._pay(self._rows.get(row.id), row)
        self._rows[row.id] = row
        self._prices.add(row)
        for task_id in (row.task_id, *row.duplicate_task_ids):
            if task_id is not None:
                self._by_task[task_id] = row.id
        if row.state in ENDED and row.key is None:
            self._make_droppable(row)
        elif row.state not in ENDED:
            self._droppable.pop(row.id, None)
        return row

    def _pay(self, before: Intent | None, row: Intent) -> None:
        if before is not None and before.budget is not None:
            self._budgets[before.budget] = changed_budget(self._budgets[before.budget], before, None)
        if row.budget is not None:
            self._budgets[row.budget] = changed_budget(self._budgets[row.budget], None, row)

    def _uncharged(self, budget: str) -> list[Intent]:
        return [row for row in self._rows.values() if row.budget == budget and may_cost_more(row)]

    def _make_droppable(self, row: Intent) -> None:
        self._droppable[row.id] = None
        if len(self._droppable) > self._keep_ended:
            first = self._rows[next(iter(self._droppable))]
            self._drop(first.id)
            if first.key is not None:
                self._dropped_keys.add(hash(first.key))

    def _drop(self, job_id: str) -> None:
        self._droppable.pop(job_id, None)
        row = self._rows.pop(job_id)
        if row.key is not None:
            del self._by_key[row.key]
        for task_id in (row.task_id, *row.duplicate_task_ids):
            if task_id is not None:
                self._by_task.pop(task_id, None)


def _changed(row: Intent, at: float, changes: Changes, *, state: JobState | None = None) -> Intent:
    kept = keep_duplicates(changes, row) if "duplicate_task_ids" in changes else changes
    return attrs.evolve(row, state=state or row.state, updated_at=at, version=row.version + 1, **cast("Changes", kept))
