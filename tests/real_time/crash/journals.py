"""Wrappers of a journal: one with a kill point at each write, and three with a bug each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, Unpack

import anyio
import attrs

from kie_async._core.account_state import AccountState
from kie_async._core.acknowledged import Repair
from kie_async._core.budget_ledger import SeenPrices
from kie_async._core.durations import Kind
from kie_async._core.lifecycle import OPEN, Intent
from kie_async._io.journals.journal import AccountChange, Changes, Journal, Service, WorkerReport
from kie_async.budget import BudgetInfo
from kie_async.states import JobState
from kie_async.statistics import WorkerInfo
from tests.real_time.crash.kill_points import KillPoints

__all__ = ["BUGS", "InstrumentedJournal"]

_T = TypeVar("_T")


class _JournalProxy:
    """
    A journal that forwards every call.

    Args:
        inner: The real journal.
    """

    def __init__(self, inner: Journal) -> None:
        self.inner = inner

    @property
    def durable(self) -> bool:
        return self.inner.durable

    @property
    def service(self) -> Service:
        return self.inner.service

    @service.setter
    def service(self, service: Service) -> None:
        self.inner.service = service

    @property
    def on_restored(self) -> Callable[[Sequence[Repair]], None] | None:
        return self.inner.on_restored

    @on_restored.setter
    def on_restored(self, on_restored: Callable[[Sequence[Repair]], None] | None) -> None:
        self.inner.on_restored = on_restored

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    def release(self) -> None:
        self.inner.release()

    async def add(self, intent: Intent) -> Intent:
        return await self.inner.add(intent)

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        return await self.inner.transition(seen, state, at=at, account_epoch=account_epoch, **changes)

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        return await self.inner.update_fields(job_id, at=at, **changes)

    async def get(self, job_id: str) -> Intent | None:
        return await self.inner.get(job_id)

    async def by_key(self, key: str) -> Intent | None:
        return await self.inner.by_key(key)

    async def by_keys(self, keys: Collection[str]) -> Sequence[Intent]:
        return await self.inner.by_keys(keys)

    async def identity(self) -> str:
        return await self.inner.identity()

    async def keys(self, prefix: str, *, after: str = "", limit: int) -> Sequence[tuple[str, JobState]]:
        return await self.inner.keys(prefix, after=after, limit=limit)

    async def has_keys(self) -> bool:
        return await self.inner.has_keys()

    async def dropped_keys(self, keys: Collection[str]) -> Sequence[str]:
        return await self.inner.dropped_keys(keys)

    async def by_task(self, task_id: str) -> Intent | None:
        return await self.inner.by_task(task_id)

    async def rows(
        self, states: Collection[JobState] | None = None, *, after: int = 0, limit: int | None = None
    ) -> Sequence[Intent]:
        return await self.inner.rows(states, after=after, limit=limit)

    async def rows_named_by_callbacks(self, *, after: int = 0, limit: int | None = None) -> Sequence[Intent]:
        return await self.inner.rows_named_by_callbacks(after=after, limit=limit)

    async def find_changed(self, seen: Collection[Intent]) -> Mapping[str, Intent | None]:
        return await self.inner.find_changed(seen)

    async def forget(self, *, before: float) -> int:
        return await self.inner.forget(before=before)

    async def forgotten_until(self) -> float:
        return await self.inner.forgotten_until()

    async def mark_delivered(self, job_id: str) -> None:
        await self.inner.mark_delivered(job_id)

    async def open_budget(self, name: str, credits: float) -> BudgetInfo:
        return await self.inner.open_budget(name, credits)

    async def raise_budget(self, name: str, credits: float) -> BudgetInfo:
        return await self.inner.raise_budget(name, credits)

    async def budgets(self) -> Sequence[BudgetInfo]:
        return await self.inner.budgets()

    async def uncharged_rows(self, budget: str) -> Sequence[Intent]:
        return await self.inner.uncharged_rows(budget)

    async def seen_prices(self, model: str, price_class: str) -> SeenPrices:
        return await self.inner.seen_prices(model, price_class)

    async def recent_durations(self, limit: int) -> Sequence[tuple[Kind, float]]:
        return await self.inner.recent_durations(limit)

    async def hold(self, job_ids: Collection[str]) -> Sequence[Intent]:
        return await self.inner.hold(job_ids)

    async def end_hold(self, job_id: str, yielded: JobState | None) -> None:
        await self.inner.end_hold(job_id, yielded)

    def owns(self, row: Intent) -> bool:
        return self.inner.owns(row)

    async def is_owner_alive(self, row: Intent) -> bool:
        return await self.inner.is_owner_alive(row)

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        return await self.inner.claim(job_ids, adopt_key=adopt_key, after=after, limit=limit)

    async def take_over(self, *, adopt_key: bool = False, limit: int) -> Sequence[Intent]:
        return await self.inner.take_over(adopt_key=adopt_key, limit=limit)

    async def has_expired_owners(self) -> bool:
        return await self.inner.has_expired_owners()

    @property
    def lease(self) -> float | None:
        return self.inner.lease

    async def count_orphans(self) -> Mapping[JobState, int]:
        return await self.inner.count_orphans()

    async def count_unsent_of_other_keys(self) -> int:
        return await self.inner.count_unsent_of_other_keys()

    async def older_callback_secrets(self) -> Sequence[bytes]:
        return await self.inner.older_callback_secrets()

    @property
    def account_state(self) -> AccountState | None:
        return self.inner.account_state

    @account_state.setter
    def account_state(self, state: AccountState | None) -> None:
        self.inner.account_state = state

    async def change_account(
        self, change: Callable[[str | None, float], tuple[str | None, int, _T]]
    ) -> AccountChange[_T]:
        return await self.inner.change_account(change)

    @property
    def heartbeat_interval(self) -> float:
        return self.inner.heartbeat_interval

    @property
    def worker(self) -> str:
        return self.inner.worker

    async def heartbeat(self, report: WorkerReport) -> Sequence[WorkerInfo]:
        return await self.inner.heartbeat(report)

    async def workers(self) -> Sequence[WorkerInfo]:
        return await self.inner.workers()

    async def wait_for_change(self) -> Collection[str] | None:
        return await self.inner.wait_for_change()


class InstrumentedJournal(_JournalProxy):
    """
    A journal with kill points before and after each write.

    Args:
        inner: The real journal.

        kill_points: The kill points.
    """

    def __init__(self, inner: Journal, kill_points: KillPoints) -> None:
        super().__init__(inner)
        self._kill_points = kill_points

    async def add(self, intent: Intent) -> Intent:
        self._kill_points.pass_point("journal: before it is added")
        row = await self.inner.add(intent)
        self._kill_points.pass_point("journal: after it is added")
        return row

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        self._kill_points.pass_point(f"journal: before {state}")
        row = await self.inner.transition(seen, state, at=at, account_epoch=account_epoch, **changes)
        self._kill_points.pass_point(f"journal: after {state}")
        return row

    async def update_fields(self, job_id: str, *, at: float, **changes: Unpack[Changes]) -> Intent | None:
        self._kill_points.pass_point("journal: before it is noted")
        row = await self.inner.update_fields(job_id, at=at, **changes)
        self._kill_points.pass_point("journal: after it is noted")
        return row

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        self._kill_points.pass_point("journal: before they are claimed")
        rows = await self.inner.claim(job_ids, adopt_key=adopt_key, after=after, limit=limit)
        self._kill_points.pass_point("journal: after they are claimed")
        return rows


# -- bugs -------------------------------------------------------------------------------------------------------------


class _JournalsAfterResponse(_JournalProxy):
    """A bug: SENDING is written together with the next move instead of before the first byte."""

    def __init__(self, inner: Journal) -> None:
        super().__init__(inner)
        self._unwritten: dict[str, tuple[Intent, float]] = {}

    async def transition(
        self, seen: Intent, state: JobState, *, at: float, account_epoch: int | None = None, **changes: Unpack[Changes]
    ) -> Intent | None:
        if state is JobState.SENDING:
            self._unwritten[seen.id] = seen, at
            return attrs.evolve(seen, state=state, updated_at=at, **changes)
        if (unwritten := self._unwritten.pop(seen.id, None)) is not None:
            before, began_at = unwritten
            written = await self.inner.transition(
                before, JobState.SENDING, at=began_at, attempts=seen.attempts, sending_at=seen.sending_at
            )
            if written is None:
                return None
        return await self.inner.transition(seen, state, at=at, account_epoch=account_epoch, **changes)


class _ResendsSending(_JournalProxy):
    """A bug: recovery treats SENDING as INTENT, so that the request is sent again."""

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        rows = []
        for row in await self.inner.claim(job_ids, adopt_key=adopt_key, after=after, limit=limit):
            if row.state is JobState.SENDING:
                moved = await self.inner.transition(row, JobState.INTENT, at=row.updated_at)
                rows.append(moved or row)
            else:
                rows.append(row)
        return rows


class _ClaimsWithoutChecking(_JournalProxy):
    """
    A claim in two steps, so that two processes that recover at the same time claim the same rows.

    The compare-and-set of each move prevents damage, so this alone is not a bug.
    """

    async def claim(
        self,
        job_ids: Collection[str] | None = None,
        *,
        adopt_key: bool = False,
        after: int = 0,
        limit: int | None = None,
    ) -> Sequence[Intent]:
        found = [
            row for row in await self.inner.rows(OPEN, after=after, limit=limit) if job_ids is None or row.id in job_ids
        ]
        # The other process looks, too, before either claims.
        await anyio.sleep(1.0)
        await self.inner.claim(job_ids, adopt_key=adopt_key, after=after, limit=limit)
        latest = [await self.inner.get(row.id) for row in found]
        return [row for row in latest if row is not None]

    def owns(self, row: Intent) -> bool:  # noqa: ARG002 (of all)
        return True


class _MovesWithoutComparing(_ClaimsWithoutChecking):
    """A bug: a move overwrites any state, without compare-and-set."""

    async def transition(
        self,
        seen: Intent,
        state: JobState,
        *,
        at: float,
        account_epoch: int | None = None,  # noqa: ARG002
        **changes: Unpack[Changes],
    ) -> Intent | None:
        # This call changes a row without comparing its state; here it changes the state itself.
        overwritten: dict[str, Any] = {"state": state, **changes}
        return await self.inner.update_fields(seen.id, at=at, **overwritten)


#: The bugs by name, and the claim in two steps.
BUGS: Mapping[str, Callable[[Journal], Journal]] = {
    "claim-without-check": _ClaimsWithoutChecking,
    "journal-after-response": _JournalsAfterResponse,
    "resend-sending": _ResendsSending,
    "no-compare-and-set": _MovesWithoutComparing,
}
