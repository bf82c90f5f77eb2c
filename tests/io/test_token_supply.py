"""Test how the workers of a journal share the account: leases, turns, the gate, and workers that end or freeze."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio
import attrs
import pytest

from kie_async import InsufficientCreditsError, JournalError, KieError, Limits, RetryPolicy
from kie_async._core.account_state import LEASE, AccountState, SharedLimits
from kie_async._core.verdicts import Verdict
from kie_async._io.journals.journal import AccountChange, Service
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.runtime import Runtime, Supervisor
from kie_async._io.submitting.admission import Admission, Permit
from kie_async._io.timers import Timers
from kie_async.testing.truth import busiest_window

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

_T = TypeVar("_T")
WINDOW, LIMIT = 10.0, 20


@attrs.define
class Account:
    """
    The state that all journals of an account share, and the service, which counts arrivals in a sliding log.

    Attributes:
        text: The account's state.

        changes: The number of its changes.

        broken: The error of every change; None if the journals work.

        gone: The workers that say nothing any more.

        limit: The creates that the service takes in a window.

        verdict: The verdict on creates that are within the limit.

        arrivals: The instants and workers of accepted creates.

        refused: The instants of creates that the rate limit has refused.
    """

    text: str | None = None
    changes: int = 0
    broken: JournalError | None = None
    gone: set[str] = attrs.field(factory=set)
    limit: int = LIMIT
    verdict: Verdict = Verdict.ACCEPTED
    arrivals: list[tuple[float, str]] = attrs.field(factory=list)
    refused: list[float] = attrs.field(factory=list)
    _log: deque[float] = attrs.field(factory=deque)

    def count(self, worker: str) -> Verdict:
        """Count a create that arrives now."""
        now = anyio.current_time()
        while self._log and self._log[0] + WINDOW <= now:
            self._log.popleft()
        if len(self._log) >= self.limit:
            self.refused.append(now)
            return Verdict.RATE_LIMITED
        self._log.append(now)
        self.arrivals.append((now, worker))
        return self.verdict

    def created(self, since: float = 0.0, until: float = 1e9) -> int:
        """Return the number of accepted creates between two instants."""
        return sum(since <= at < until for at, _ in self.arrivals)

    def spread(self, jobs: int) -> float:
        """
        Return by how much the workers' shares differ, as a part of the largest.

        They count from the second window on until the first worker has created all its *jobs*.
        """
        counts, total = Counter[str](), Counter[str]()
        for at, worker in self.arrivals:
            total[worker] += 1
            counts[worker] += at > self.arrivals[0][0] + WINDOW
            if total[worker] == jobs:
                break
        return 1 - min(counts.values()) / max(counts.values())

    def used(self) -> float:
        """Return the part of the limit that was used after the first window's creates."""
        instants = [at for at, _ in self.arrivals]
        return (len(instants) - LIMIT) / ((instants[-1] - instants[LIMIT - 1]) * LIMIT / WINDOW)


class SharedJournal(MemoryJournal):
    """The journal of one worker: only the account's state is in it, a change takes a few milliseconds."""

    durable = True

    def __init__(self, account: Account, name: str) -> None:
        super().__init__(service=Service("https://api.example", account="key"))
        self._account = account
        self._name = name

    @property
    def worker(self) -> str:
        return self._name

    async def change_account(  # type: ignore[override]
        self, change: Callable[[str | None, float], tuple[str | None, int, _T]]
    ) -> AccountChange[_T]:
        await anyio.sleep(0.002)
        if self._name in self._account.gone:
            await anyio.sleep_forever()
        if self._account.broken is not None:
            raise self._account.broken.copy()
        now = anyio.current_time()
        # Two databases never have the same clock as the loop.
        text, _, result = change(self._account.text, now + 1000.0)
        self._account.changes += 1
        self._account.text = text or self._account.text
        await anyio.sleep(0.002)
        return AccountChange(result, now + 1000.0, now - 0.001, now + 0.001)


@attrs.define
class Worker:
    """A worker: its admission, and the refusals by the account that it was told."""

    name: str
    account: Account
    admission: Admission
    paused: list[KieError]
    told: list[Verdict] = attrs.field(factory=list)

    async def create(self, place: int) -> Verdict:
        """Send one create, until the rate limit admits it."""
        random = Runtime(asyncio.get_running_loop()).random
        while True:
            permit = await self.admission.acquire_permit(place, since=anyio.current_time(), outlasts_maintenance=True)
            assert isinstance(permit, Permit)
            await anyio.sleep(0.005)  # SENDING is journaled
            if not permit.is_usable():
                permit.finish(Verdict.UNSENT)
                continue
            permit.record_write()
            await anyio.sleep(random.uniform(0.02, 0.2))
            verdict = self.account.count(self.name)
            await anyio.sleep(random.uniform(0.02, 0.2))
            error = InsufficientCreditsError("No credits.", code=402) if verdict is Verdict.ACCOUNT else None
            permit.finish(verdict, error=error)
            if verdict is not Verdict.RATE_LIMITED:
                self.told.append(verdict)
                return verdict

    async def create_many(self, number: int) -> None:
        """Send creates, all of them requested at once."""
        async with anyio.create_task_group() as group:
            for place in range(number):
                group.start_soon(self.create, place)


@asynccontextmanager
async def open_worker(account: Account, name: str, limits: Limits | None = None) -> AsyncGenerator[Worker]:
    """Yield a worker, which closes at the end."""
    loop = asyncio.get_running_loop()
    timers, paused = Timers(loop), list[KieError]()

    async def nothing() -> None:
        """Do nothing."""

    async def leave() -> None:
        """Close the admission after the exchanges have ended, as the engine does."""
        if name not in account.gone:
            await admission.close()

    supervisor = Supervisor(loop, enter=nothing, ending=timers.close, leave=leave, abandon=timers.close)
    await supervisor.wait_ready()
    admission = Admission(
        limits or Limits(),
        journal=SharedJournal(account, name),
        retry=RetryPolicy(),
        runtime=Runtime(loop),
        timers=timers,
        supervisor=supervisor,
        on_pause=lambda error, _: paused.append(error),
    )
    try:
        yield Worker(name, account, admission, paused)
    finally:
        with anyio.CancelScope(shield=True):
            await supervisor.end_all()


@asynccontextmanager
async def open_workers(account: Account, number: int) -> AsyncGenerator[list[Worker]]:
    """Yield workers."""
    if not number:
        yield []
        return
    async with open_workers(account, number - 1) as others, open_worker(account, f"w{number}") as worker:
        yield [*others, worker]


async def run_all(workers: list[Worker], number: int) -> None:
    """Let each worker send creates."""
    async with anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(worker.create_many, number)


@pytest.mark.parametrize(("number", "jobs"), [(1, 23), (2, 12), (8, 10)])
async def test_no_worker_leases_more_than_it_needs(number: int, jobs: int) -> None:
    """A lease that begins later is not wanted again: one too many keeps its token from the others for a second."""
    account = Account()
    async with open_workers(account, number) as workers:
        await run_all(workers, jobs)
        state, limits = AccountState.load(account.text or ""), SharedLimits(LIMIT, WINDOW)
        (lease,) = state.exchange("another", anyio.current_time() + 2000.0, limits=limits, wanted=1).leases

    assert number * jobs == len(account.arrivals) == lease.number - 1


@pytest.mark.parametrize("number", [1, 2, 8])
async def test_workers_use_the_limit_together_and_in_turn(number: int) -> None:
    account = Account()
    async with open_workers(account, number) as workers:
        await run_all(workers, 400 // number)

    assert [] == account.refused
    assert busiest_window([at for at, _ in account.arrivals], WINDOW) <= LIMIT
    assert account.used() >= 0.965
    assert number == 1 or account.spread(400 // number) <= 0.15
    assert account.changes <= 1.5 * 400, "two statements each"


async def test_creates_whose_reports_a_crash_has_lost_still_count() -> None:
    """The first worker back restores what it knew, in which the leases of the other have not ended."""
    account = Account()
    async with open_workers(account, 2) as (first, second):
        await first.create_many(1)
        await anyio.sleep(1.0)
        await second.create_many(19)
        await anyio.sleep(7.0)  # both have reported, the second one last
        account.text = None
        async with anyio.create_task_group() as group:
            group.start_soon(first.create_many, 1)
            await anyio.sleep(0.1)
            group.start_soon(second.create_many, 10)

    assert [] == account.refused


async def test_free_tokens_are_used_at_once_by_the_only_one_who_wants_them() -> None:
    account = Account()
    async with open_workers(account, 2) as (first, second):
        await first.create_many(4)
        await second.create_many(16)

    assert anyio.current_time() < 2.0
    assert 20 == account.created()


async def test_worker_that_disappears_costs_little(caplog: pytest.LogCaptureFixture) -> None:
    """It ends without a word while it holds leases, and others want them."""
    account = Account()
    async with open_workers(account, 8) as workers:
        async with anyio.create_task_group() as group:
            for worker in workers[1:]:
                group.start_soon(worker.create_many, 40)
            async with anyio.create_task_group() as ended:
                ended.start_soon(workers[0].create_many, 30)
                await anyio.sleep(25.0)
                account.gone.add(workers[0].name)
                ended.cancel_scope.cancel()
            gone_at = anyio.current_time()
        created = account.created(gone_at, gone_at + 40.0)

    assert [] == account.refused
    assert created >= 76
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_nothing_is_sent_while_the_journal_is_away() -> None:
    account = Account()
    async with open_workers(account, 4) as workers, anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(worker.create_many, 60)
        await anyio.sleep(25.0)
        account.broken = JournalError("The server is away.")
        account.broken.retryable = True
        await anyio.sleep(LEASE + 1.0)  # the leases at hand are used, or become too old
        away = account.created()
        await anyio.sleep(34.0)
        assert away == account.created()
        account.broken, back_at = None, anyio.current_time()
        await anyio.sleep(40.0)

        assert account.created(back_at, back_at + 3.0) > 0
        assert account.created(back_at, back_at + 40.0) >= 76
        assert [] == account.refused
        group.cancel_scope.cancel()


async def test_waits_end_if_the_journal_cannot_be_used() -> None:
    """A broken journal ends them at once; one that is away, after the time for which creates may stay unsent."""
    account = Account(broken=JournalError("The disk has failed."))
    async with open_worker(account, "w1") as worker:
        with pytest.raises(JournalError, match="disk"):
            await worker.create(0)
        assert anyio.current_time() < 0.1
        account.broken = JournalError("The server is away.")
        account.broken.retryable = True
        began_at = anyio.current_time()
        with pytest.raises(JournalError, match="away"):
            await worker.create(0)
        assert RetryPolicy().unsent_timeout <= anyio.current_time() - began_at <= RetryPolicy().unsent_timeout + 2.0
        account.broken = None
        await worker.create(0)


async def test_refusal_by_the_account_stops_all_workers() -> None:
    """Only creates on the wire are refused, too, and each worker learns why."""
    account = Account()
    async with open_workers(account, 4) as workers, anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(worker.create_many, 40)
        await anyio.sleep(15.0)
        account.verdict = Verdict.ACCOUNT
        await anyio.sleep(8.0)
        refused = sum(told is Verdict.ACCOUNT for worker in workers for told in worker.told)
        group.cancel_scope.cancel()

        assert [["No credits."]] * 4 == [[error.message for error in worker.paused[:1]] for worker in workers]
    assert 1 <= refused <= 20


async def test_maintenance_is_probed_once_a_minute_by_all_workers() -> None:
    account = Account(verdict=Verdict.MAINTENANCE)
    async with open_workers(account, 8) as workers, anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(_create_for_ever, worker)
        await anyio.sleep(60.0)
        before = account.created()
        await anyio.sleep(3600.0)
        assert account.created() - before <= 70
        account.verdict = Verdict.ACCEPTED
        back_at = anyio.current_time()
        await anyio.sleep(140.0)
        assert account.created(back_at + 80.0, back_at + 140.0) >= 110
        group.cancel_scope.cancel()


async def _create_for_ever(worker: Worker) -> None:
    while True:
        await worker.create(0)


async def test_lower_limit_is_learned_once_for_all_workers() -> None:
    account = Account(limit=12)
    async with open_workers(account, 8) as workers, anyio.create_task_group() as group:
        for worker in workers:
            group.start_soon(worker.create_many, 100)
        await anyio.sleep(600.0)
        group.cancel_scope.cancel()

    assert len(account.refused) <= 25
    assert account.created() >= 0.96 * 12 * 60


async def test_strictest_limits_count_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    account = Account()
    async with open_worker(account, "generous") as generous:
        async with open_worker(account, "strict", Limits(creates=5)) as strict:
            await strict.create_many(1)
            await generous.create_many(12)
            assert busiest_window([at for at, _ in account.arrivals], WINDOW) <= 5
        since = anyio.current_time()
        await generous.create_many(40)
        assert anyio.current_time() - since <= 30.0, "the strict worker has left"

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["Worker strict limits the account to 5 creates in 10 s"] == [text[:53] for text in warnings]
    assert "do not divide" in warnings[0]


async def test_worker_that_was_frozen_does_not_send_with_an_old_lease() -> None:
    account = Account()
    async with open_worker(account, "w1") as worker:
        permit = await worker.admission.acquire_permit(0, since=0.0)
        assert isinstance(permit, Permit)
        assert permit.is_usable()
        account.broken = JournalError("The worker stands still.")
        account.broken.retryable = True
        await anyio.sleep(LEASE + 0.5)
        account.broken = None
        assert not permit.is_usable()
        permit.finish(Verdict.UNSENT)
        assert Verdict.ACCEPTED is await worker.create(0)


async def test_lease_that_has_ended_is_not_renewed() -> None:
    """It counts as used since then; a create that is sent with it later would be one too many."""
    account = Account()
    async with open_worker(account, "w1") as worker:
        permit = await worker.admission.acquire_permit(0, since=0.0)
        assert isinstance(permit, Permit)
        account.broken = JournalError("The worker stands still.")
        account.broken.retryable = True
        await anyio.sleep(LEASE + 0.5)
        account.broken = None
        assert Verdict.ACCEPTED is await worker.create(1)
        await anyio.sleep(5.0)
        assert not permit.is_usable()
        permit.finish(Verdict.UNSENT)


async def test_creates_that_are_requested_during_an_exchange_are_not_forgotten() -> None:
    """The first one is alone when the leases are taken; the others are requested before it has one."""
    account = Account(limit=1000)
    async with open_worker(account, "w1", Limits(creates=1000)) as worker, anyio.create_task_group() as group:
        group.start_soon(worker.create, 0)
        await anyio.sleep(0.003)
        group.start_soon(worker.create_many, 300)
    assert anyio.current_time() < 5.0, "48 leases at a time"


@pytest.mark.parametrize("seconds", [0.001, 0.003])
async def test_worker_that_closes_during_its_first_exchange_keeps_no_token(seconds: float) -> None:
    account = Account()
    for number in range(5):
        async with open_worker(account, f"short{number}") as worker, anyio.create_task_group() as group:
            group.start_soon(worker.create_many, 20)
            await anyio.sleep(seconds)
            group.cancel_scope.cancel()
    began_at = anyio.current_time()
    async with open_worker(account, "long") as worker:
        await worker.create_many(20)

    assert anyio.current_time() < began_at + 1.0
