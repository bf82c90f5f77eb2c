"""Test admission: permits in order, never more than the limit, and no token for a create that is not sent."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from kie_async import InsufficientCreditsError, KieError, Limits, RetryPolicy
from kie_async._core.account_state import LEASE
from kie_async._core.token_buckets import LEAST_ROUND_TRIPS, UNANSWERED_TRAVEL
from kie_async._core.verdicts import Verdict
from kie_async._io.journals.memory import MemoryJournal
from kie_async._io.runtime import Runtime
from kie_async._io.submitting.admission import PERMIT_LIFETIME, Admission, Permit
from kie_async._io.timers import Timers
from kie_async.testing import VirtualLoop
from kie_async.testing.truth import busiest_window
from tests.core.traffic import available

if TYPE_CHECKING:
    from collections.abc import Callable

    from kie_async._core.adaptive_bucket import AdaptiveBucket
    from kie_async._io.runtime import Supervisor


def make_admission(
    *,
    maintenance_timeout: float = 900.0,
    max_age: float = 3600.0,
    creates: int = 3,
    window: float = 10.0,
    in_flight: int = 5,
    journal: MemoryJournal | None = None,
    on_pause: Callable[[KieError, float], None] = lambda *_: None,
) -> Admission:
    loop = asyncio.get_running_loop()
    return Admission(
        Limits(creates=creates, window=window, in_flight=in_flight),
        journal=journal or MemoryJournal(),
        retry=RetryPolicy(maintenance_timeout=maintenance_timeout, max_age=max_age),
        runtime=Runtime(loop),
        timers=Timers(loop),
        supervisor=cast("Supervisor", None),  # with a journal in memory, nothing runs beside the callers
        on_pause=on_pause,
    )


def bucket_of(admission: Admission) -> AdaptiveBucket:
    """Return the account's bucket, which a journal in memory has."""
    state = admission.journal.account_state
    assert state is not None
    return state.bucket


async def acquire(admission: Admission, place: int = 0) -> Permit:
    permit = await admission.acquire_permit(place, since=anyio.current_time())
    assert isinstance(permit, Permit)
    return permit


async def request_permits(admission: Admission, *places: int) -> list[asyncio.Task[Permit]]:
    """Request permits at these positions, and let the loop queue them."""
    tasks = [asyncio.create_task(acquire(admission, place), name=f"job {place}") for place in places]
    await anyio.sleep(0.001)
    return tasks


def granted_names(tasks: list[asyncio.Task[Permit]]) -> list[str]:
    return [task.get_name() for task in tasks if task.done() and not task.cancelled()]


async def use_all_tokens(admission: Admission) -> None:
    """Use all tokens now."""
    for _ in range(admission.tokens.limits.creates):
        (await acquire(admission, -1)).finish(Verdict.ACCEPTED)


async def test_permits_are_granted_by_position() -> None:
    """A job that returns to the queue keeps its position."""
    admission = make_admission()
    await use_all_tokens(admission)
    tasks = await request_permits(admission, 5, 3, 9, 1, 4)
    assert ([], 5) == (granted_names(tasks), admission.waiting)
    await anyio.sleep(10.0)

    assert ["job 3", "job 1", "job 4"] == granted_names(tasks)
    for task in tasks:
        if task.done():
            task.result().finish(Verdict.ACCEPTED)
    await anyio.sleep(10.0)
    assert 5 == len(granted_names(tasks))
    assert 0 == admission.waiting


async def test_equal_positions_are_first_come_first_served() -> None:
    admission = make_admission(creates=1)
    await use_all_tokens(admission)
    order: list[int] = []

    async def take_permit(number: int) -> None:
        permit = await acquire(admission, 7)
        order.append(number)
        permit.finish(Verdict.ACCEPTED)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(take_permit, number)
    assert [0, 1, 2, 3, 4] == order


async def test_token_returns_a_window_after_the_response() -> None:
    """Not after the request: the service may have counted it as late as its response."""
    admission = make_admission(creates=1)
    permit = await acquire(admission)
    await anyio.sleep(4.0)
    permit.finish(Verdict.ACCEPTED)
    await acquire(admission)

    assert 14.0 <= anyio.current_time() <= 14.01


async def test_unused_token_returns_at_once() -> None:
    admission = make_admission(creates=1)
    (await acquire(admission)).finish(Verdict.UNSENT)
    await acquire(admission)

    assert anyio.current_time() < 0.01


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.UNSENT])
async def test_every_sent_create_costs_its_token(verdict: Verdict) -> None:
    admission = make_admission(creates=2)
    (await acquire(admission)).finish(verdict)

    assert 1 == available(bucket_of(admission), anyio.current_time())
    assert 0 == admission.tokens.in_use


async def test_cancelled_waiters_cost_no_token() -> None:
    """The other waiters get permits at the same instants as without the cancelled ones."""
    admission = make_admission()
    await use_all_tokens(admission)
    tasks = await request_permits(admission, *range(30))
    for task in tasks[::2]:
        task.cancel()
    await anyio.sleep(10.0)

    assert ["job 1", "job 3", "job 5"] == granted_names(tasks)
    assert 12 == admission.waiting
    for task in tasks:
        task.cancel()
    await anyio.sleep(0.001)
    assert 0 == admission.waiting


async def test_permit_granted_while_cancelled_is_returned() -> None:
    """The token goes to the next waiter, in whichever turn of the loop the two coincide."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    met = 0
    for turn in range(1, 12):
        admission = make_admission(creates=1)
        permit = await acquire(admission)
        first, second = await request_permits(admission, 1, 2)
        loop.at_turn(loop.turns + 4, lambda permit=permit: permit.finish(Verdict.UNSENT))  # type: ignore[misc]  # its default
        loop.at_turn(loop.turns + turn, first.cancel)
        for _ in range(20):
            await asyncio.sleep(0)
        met += first.cancelled()
        if not first.cancelled():
            first.result().finish(Verdict.UNSENT)
            await anyio.sleep(0.001)

        assert second.done(), f"turn {turn}"
        second.result().finish(Verdict.UNSENT)
        assert (0, 0) == (admission.tokens.in_use, admission.waiting)
    assert 3 < met < 11


async def test_refused_job_goes_first_after_429() -> None:
    """It gets the next token, before all later jobs; its own token has expired."""
    admission = make_admission(creates=2)
    first, second = await acquire(admission, 1), await acquire(admission, 2)
    first.finish(Verdict.ACCEPTED)
    second.finish(Verdict.RATE_LIMITED)
    tasks = await request_permits(admission, 3, 4, 2)
    assert [] == granted_names(tasks)
    await anyio.sleep(9.9)
    assert [] == granted_names(tasks)
    await anyio.sleep(0.2)

    assert ["job 2"] == granted_names(tasks)
    assert 1 == bucket_of(admission).tokens
    for task in tasks:
        task.cancel()


async def test_probes_continue_while_all_creates_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One probe at a time: a window after the burst, then 2, 4, 8 … seconds after each refusal, up to a window."""
    admission = make_admission(creates=5)
    permits = [await acquire(admission) for _ in range(5)]
    for permit in permits:
        permit.finish(Verdict.RATE_LIMITED)
    granted_at = [anyio.current_time()]
    for _ in range(6):
        permit = await acquire(admission)
        (other,) = await request_permits(admission, 9)
        assert not other.done()
        other.cancel()
        granted_at.append(anyio.current_time())
        permit.finish(Verdict.RATE_LIMITED)
    pauses = [later - earlier for earlier, later in pairwise(granted_at)]

    assert [10.0, 2.0, 4.0, 8.0, 10.0, 10.0] == [round(pause, 1) for pause in pauses]
    assert 1 == len(caplog.records), "one warning for a burst and the probes after it"
    (await acquire(admission)).finish(Verdict.ACCEPTED)
    assert 1 == bucket_of(admission).tokens


@pytest.mark.parametrize("reason", [Verdict.RATE_LIMITED, Verdict.MAINTENANCE])
async def test_timeout_ends_the_wait(reason: Verdict) -> None:
    """The timeout counts from the request of the job, but not from before the condition began."""
    admission = make_admission(maintenance_timeout=100.0, max_age=100.0)
    early = anyio.current_time() - 1e4
    (await acquire(admission)).finish(reason)
    ended_at: dict[str, float] = {}

    async def take_permit(name: str, since: float) -> None:
        while isinstance(permit := await admission.acquire_permit(0, since=since), Permit):
            permit.finish(reason)
        assert reason is permit
        ended_at[name] = round(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(take_permit, "early", early)
        await anyio.sleep(50.0)
        group.start_soon(take_permit, "late", anyio.current_time())
    assert {"early": 100.0, "late": 150.0} == ended_at
    assert 0 == admission.waiting


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in (Verdict.RATE_LIMITED, Verdict.IN_DOUBT)])
async def test_other_verdicts_end_the_refusal_timeout(verdict: Verdict) -> None:
    """After an hour of maintenance, the rate limit is not named as the reason."""
    admission = make_admission()
    (await acquire(admission)).finish(Verdict.RATE_LIMITED)
    (await acquire(admission)).finish(verdict)

    assert (admission.tokens.refused_since is None) is (verdict is not Verdict.UNSENT)


async def test_written_create_returns_its_token_early() -> None:
    """After 1.25 of the longest round trip of a poll, once a later poll has been answered."""
    admission = make_admission(creates=1)
    for _ in range(LEAST_ROUND_TRIPS):
        admission.record_round_trip(0.4)
    permit = await acquire(admission)
    (task,) = await request_permits(admission, 1)
    await anyio.sleep(2.0)
    permit.record_write()
    await anyio.sleep(0.3)
    admission.record_round_trip(0.4)
    await anyio.sleep(5.0)
    again = (await request_permits(admission, 2))[0]
    admission.record_round_trip(0.4)
    await anyio.sleep(20.0)

    assert ["job 1"] == granted_names([task, again])
    assert 17.3 <= task.result().granted_at <= 17.31
    permit.finish(Verdict.ACCEPTED)
    assert 1 == admission.tokens.in_use
    task.result().finish(Verdict.UNSENT)
    await again


async def test_create_without_an_answer_may_arrive_later() -> None:
    """The end of its connection does not stop it: its token returns a window after it must have arrived."""
    admission = make_admission(creates=1)
    permit = await acquire(admission)
    (task,) = await request_permits(admission, 1)
    permit.record_write()
    written_at = anyio.current_time()
    permit.finish(Verdict.IN_DOUBT)
    await anyio.sleep(20.0)

    granted_after = task.result().granted_at - written_at
    assert 10.0 + UNANSWERED_TRAVEL <= granted_after <= 10.01 + UNANSWERED_TRAVEL
    task.result().finish(Verdict.UNSENT)


async def test_unwritten_token_does_not_return() -> None:
    """Its create may be written at any time."""
    admission = make_admission(creates=1)
    for _ in range(LEAST_ROUND_TRIPS):
        admission.record_round_trip(0.4)
    permit = await acquire(admission)
    (task,) = await request_permits(admission, 1)
    await anyio.sleep(100.0)

    assert not task.done()
    permit.finish(Verdict.UNSENT)
    await anyio.sleep(0.001)
    assert task.done()


async def test_retry_after_closes_the_gate() -> None:
    admission = make_admission()
    (await acquire(admission)).finish(Verdict.RATE_LIMITED, retry_after=30.0)
    await acquire(admission)

    assert 30.0 <= anyio.current_time() <= 30.1


async def test_permit_expires() -> None:
    """A slow disk between token and wire must not bunch creates."""
    admission = make_admission()
    permit = await acquire(admission)
    assert permit.is_usable()
    await anyio.sleep(PERMIT_LIFETIME + 1.0)
    assert not permit.is_usable()
    permit.finish(Verdict.UNSENT)


@pytest.mark.parametrize("verdict", [Verdict.MAINTENANCE, Verdict.ACCOUNT])
async def test_closed_gate_invalidates_earlier_permits(verdict: Verdict) -> None:
    """After a 402 was read no create is sent, not even with a permit granted before."""
    admission = make_admission()
    first, second = await acquire(admission), await acquire(admission)
    first.finish(verdict)

    assert not second.is_usable()
    second.finish(Verdict.UNSENT)
    await anyio.sleep(100.0)
    probe = await acquire(admission)
    assert (True, True) == (probe.probe, probe.is_usable())
    probe.finish(Verdict.ACCEPTED)


async def test_one_probe_a_minute_during_maintenance() -> None:
    admission = make_admission(creates=100)
    (await acquire(admission)).finish(Verdict.MAINTENANCE)
    probed_at: list[float] = []

    async def take_permit(place: int) -> None:
        while True:
            permit = await acquire(admission, place)
            if permit.probe:
                probed_at.append(anyio.current_time())
                await anyio.sleep(3.0)
                permit.finish(Verdict.MAINTENANCE if len(probed_at) < 6 else Verdict.ACCEPTED)
            else:
                permit.finish(Verdict.ACCEPTED)
                return
            if len(probed_at) >= 6:
                return

    async with anyio.create_task_group() as group:
        for place in range(20):
            group.start_soon(take_permit, place)
    gaps = [later - earlier for earlier, later in pairwise([0.0, *probed_at])]

    assert 6 == len(probed_at)
    assert all(60.0 <= gap <= 60.0 * 1.1 + 3.1 for gap in gaps)
    assert 0 == admission.tokens.in_use


async def test_one_create_at_a_time_after_an_account_error() -> None:
    refusals = list[KieError]()
    admission = make_admission(creates=100, on_pause=lambda error, _: refusals.append(error))
    error = InsufficientCreditsError("No credits.", code=402)
    (await acquire(admission)).finish(Verdict.ACCOUNT, error=error)
    assert [(type(error), "No credits.")] == [(type(refusal), refusal.message) for refusal in refusals]
    tasks = await request_permits(admission, 1, 2, 3)
    assert ["job 1"] == granted_names(tasks)
    tasks[0].result().finish(Verdict.UNSENT)
    assert 1 == len(refusals)
    await anyio.sleep(0.001)
    assert ["job 1", "job 2"] == granted_names(tasks)
    tasks[1].result().finish(Verdict.ACCEPTED)
    await anyio.sleep(0.001)

    assert 3 == len(granted_names(tasks))
    assert not tasks[2].result().probe
    tasks[2].result().finish(Verdict.ACCEPTED)


async def test_used_tokens_count_for_the_next_client_of_the_journal() -> None:
    journal = MemoryJournal()
    first = make_admission(journal=journal)
    (await acquire(first)).finish(Verdict.ACCEPTED)
    await anyio.sleep(4.0)
    (await acquire(first)).finish(Verdict.ACCEPTED)
    await anyio.sleep(1.0)

    second = make_admission(journal=journal)
    assert 1 == available(bucket_of(second), anyio.current_time())
    started_at, granted_at = anyio.current_time(), list[float]()
    for _ in range(3):
        (await acquire(second)).finish(Verdict.ACCEPTED)
        granted_at.append(round(anyio.current_time() - started_at))
    assert [0.0, 5.0, 9.0] == granted_at


@pytest.mark.parametrize("seed", range(8))
async def test_no_window_exceeds_the_limit_in_a_storm(seed: int) -> None:
    """
    Send creates with every verdict, lost responses, cancelled callers and random latency.

    No ten seconds at the service hold more arrivals than the limit. At the end no token is leased, no waiter is queued,
    and all tokens that have not expired are available.
    """
    rng = random.Random(seed)
    admission = make_admission(creates=5)
    arrivals: list[float] = []
    finished = 0

    def verdict() -> Verdict:
        return rng.choices(
            [
                Verdict.ACCEPTED,
                Verdict.RATE_LIMITED,
                Verdict.REJECTED,
                Verdict.AMBIGUOUS,
                Verdict.IN_DOUBT,
                Verdict.UNSENT,
            ],
            [60, 3, 5, 5, 5, 5],
        )[0]

    async def send(place: int) -> bool:
        permit = await acquire(admission, place)
        said, sent = verdict(), False
        try:
            await anyio.sleep(rng.uniform(0.0, 0.05))
            if said is not Verdict.UNSENT and permit.is_usable():
                sent = True
                await anyio.sleep(rng.uniform(0.02, 0.2))
                arrivals.append(anyio.current_time())
                await anyio.sleep(rng.uniform(0.02, 0.2) + (60.0 if said is Verdict.IN_DOUBT else 0.0))
            else:
                said = Verdict.UNSENT
        except asyncio.CancelledError:
            permit.finish(Verdict.IN_DOUBT if sent else Verdict.UNSENT)
            raise
        permit.finish(said)
        return said in (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.IN_DOUBT)

    async def take_permit(place: int, timeout: Callable[[], float]) -> None:
        nonlocal finished
        with anyio.move_on_after(timeout()):
            while not await send(place):
                pass
        finished += 1

    async with anyio.create_task_group() as group:
        for place in range(150):
            group.start_soon(take_permit, place, lambda: rng.choice([1e6, 1e6, rng.uniform(0.0, 300.0)]))
            await anyio.sleep(rng.choice([0.0, 0.0, 1.0]))

    assert 150 == finished
    assert len(arrivals) > 75
    assert busiest_window(sorted(arrivals), 10.0) <= 5
    assert (0, 0) == (admission.tokens.in_use, admission.waiting)
    await anyio.sleep(10.0)
    assert bucket_of(admission).tokens == available(bucket_of(admission), anyio.current_time())


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "its loop was closed"])
async def test_engine_that_ends_keeps_no_tokens(*, closed: bool) -> None:
    """Its creates on the wire count until the last of them must have arrived; unused tokens are free at once."""
    journal = MemoryJournal()
    first = make_admission(journal=journal)
    for _ in range(2):
        (await acquire(first)).record_write()
    await first.close() if closed else first.abandon()
    second = make_admission(journal=journal)
    tasks = await request_permits(second, 1, 2, 3)

    await anyio.sleep(LEASE + 9.5)
    assert 1 == len(granted_names(tasks)), "a create may have arrived nine seconds after the engine's end"
    await anyio.sleep(1.0)
    assert 3 == len(granted_names(tasks))
