"""Permission to create: in order, never more than the limit, and a token for nobody who does not send."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import Limits
from kie_async._core.verdicts import Verdict
from kie_async._io.runtime import Runtime
from kie_async._io.submitting.admission import PERMIT_LIFETIME, Admission, Permit
from kie_async._io.timers import Timers
from kie_async.testing import VirtualLoop
from kie_async.testing.truth import busiest_window

if TYPE_CHECKING:
    from collections.abc import Callable


def an_admission(
    *, patience: float = 900.0, max_age: float = 3600.0, creates: int = 3, window: float = 10.0, in_flight: int = 5
) -> Admission:
    loop = asyncio.get_running_loop()
    limits = Limits(creates=creates, window=window, in_flight=in_flight)
    patiences = {Verdict.MAINTENANCE: patience, Verdict.RATE_LIMITED: max_age}
    return Admission(limits, timeouts=patiences, loop=loop, runtime=Runtime(loop), timers=Timers(loop))


async def granted(admission: Admission, place: int = 0) -> Permit:
    permit = await admission.acquire_permit(place, since=anyio.current_time())
    assert isinstance(permit, Permit)
    return permit


async def asked(admission: Admission, *places: int) -> list[asyncio.Task[Permit]]:
    """Ask for so many permits, and let the queue take them in."""
    tasks = [asyncio.create_task(granted(admission, place), name=f"place {place}") for place in places]
    await anyio.sleep(0.001)
    return tasks


def done(tasks: list[asyncio.Task[Permit]]) -> list[str]:
    return [task.get_name() for task in tasks if task.done() and not task.cancelled()]


async def emptied(admission: Admission) -> None:
    """Take all tokens and spend them now."""
    for _ in range(admission.bucket.limit):
        (await granted(admission, -1)).finish(Verdict.ACCEPTED)


async def test_permits_are_granted_by_place_and_not_by_who_asks_first() -> None:
    """A job that comes back to the queue stands where it stood."""
    admission = an_admission()
    await emptied(admission)
    tasks = await asked(admission, 5, 3, 9, 1, 4)
    assert ([], 5) == (done(tasks), admission.waiting)
    await anyio.sleep(10.0)

    assert ["place 3", "place 1", "place 4"] == done(tasks)
    for task in tasks:
        if task.done():
            task.result().finish(Verdict.ACCEPTED)
    await anyio.sleep(10.0)
    assert 5 == len(done(tasks))
    assert 0 == admission.waiting


async def test_of_equal_places_the_first_to_ask_goes_first() -> None:
    admission = an_admission(creates=1)
    await emptied(admission)
    order: list[int] = []

    async def one(number: int) -> None:
        permit = await granted(admission, 7)
        order.append(number)
        permit.finish(Verdict.ACCEPTED)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(one, number)
    assert [0, 1, 2, 3, 4] == order


async def test_a_token_comes_back_a_window_after_the_answer() -> None:
    """Not after the sending: the service may have counted the request as late as that."""
    admission = an_admission(creates=1)
    permit = await granted(admission)
    await anyio.sleep(4.0)
    permit.finish(Verdict.ACCEPTED)
    await granted(admission)

    assert 14.0 <= anyio.current_time() <= 14.01


async def test_a_token_that_was_not_used_comes_back_at_once() -> None:
    admission = an_admission(creates=1)
    (await granted(admission)).finish(Verdict.UNSENT)
    await granted(admission)

    assert anyio.current_time() < 0.01


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.UNSENT])
async def test_whatever_was_sent_costs_its_token(verdict: Verdict) -> None:
    admission = an_admission(creates=2)
    (await granted(admission)).finish(verdict)

    assert 1 == admission.bucket.available(anyio.current_time())
    assert 0 == admission.bucket.leased


async def test_what_a_dead_process_had_sent_counts_and_of_more_than_there_are_tokens_the_latest() -> None:
    """Each for a window, and a second more: it was written down before it was sent."""
    admission, wall = an_admission(creates=3), Runtime(asyncio.get_running_loop()).wall()
    admission.restore_creates(wall - ago for ago in (10.8, 10.7, 10.4, 2.0, 1.0))
    began_at, times = anyio.current_time(), list[float]()
    for _ in range(4):
        permit = await granted(admission)
        times.append(round(anyio.current_time() - began_at, 2))
        permit.finish(Verdict.ACCEPTED)

    assert [0.6, 9.0, 10.0, 10.6] == times


async def test_waiters_who_leave_cost_no_token() -> None:
    """All who stay get theirs, at the same instants as if nobody had been in between."""
    admission = an_admission()
    await emptied(admission)
    tasks = await asked(admission, *range(30))
    for task in tasks[::2]:
        task.cancel()
    await anyio.sleep(10.0)

    assert ["place 1", "place 3", "place 5"] == done(tasks)
    assert 12 == admission.waiting
    for task in tasks:
        task.cancel()
    await anyio.sleep(0.001)
    assert 0 == admission.waiting


async def test_a_grant_that_meets_a_cancellation_is_given_back() -> None:
    """In whichever turn of the loop the two meet: the token goes to the next one."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    met = 0
    for turn in range(1, 12):
        admission = an_admission(creates=1)
        permit = await granted(admission)
        first, second = await asked(admission, 1, 2)
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
        assert (0, 0) == (admission.bucket.leased, admission.waiting)
    assert 3 < met < 11


async def test_after_a_429_the_refused_one_goes_first() -> None:
    """By the next token that there is, before everybody who has waited meanwhile; its own token is burnt."""
    admission = an_admission(creates=2)
    first, second = await granted(admission, 1), await granted(admission, 2)
    first.finish(Verdict.ACCEPTED)
    second.finish(Verdict.RATE_LIMITED)
    tasks = await asked(admission, 3, 4, 2)
    assert [] == done(tasks)
    await anyio.sleep(9.9)
    assert [] == done(tasks)
    await anyio.sleep(0.2)

    assert ["place 2"] == done(tasks)
    assert 1 == admission.bucket.tokens
    for task in tasks:
        task.cancel()


async def test_a_client_that_is_refused_everything_asks_once_and_again_until_it_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A window after the burst, and then 2, 4, 8 … seconds after each refusal, up to a window; one at a time."""
    admission = an_admission(creates=5)
    permits = [await granted(admission) for _ in range(5)]
    for permit in permits:
        permit.finish(Verdict.RATE_LIMITED)
    granted_at = [anyio.current_time()]
    for _ in range(6):
        permit = await granted(admission)
        (other,) = await asked(admission, 9)
        assert not other.done()
        other.cancel()
        granted_at.append(anyio.current_time())
        permit.finish(Verdict.RATE_LIMITED)
    pauses = [later - earlier for earlier, later in pairwise(granted_at)]

    assert [10.0, 2.0, 4.0, 8.0, 10.0, 10.0] == [round(pause, 1) for pause in pauses]
    assert 1 == len(caplog.records), "of a burst, and of what follows, the first refusal says it all"
    (await granted(admission)).finish(Verdict.ACCEPTED)
    assert 1 == admission.bucket.tokens


@pytest.mark.parametrize("reason", [Verdict.RATE_LIMITED, Verdict.MAINTENANCE])
async def test_what_outlasts_the_patience_ends_the_wait(reason: Verdict) -> None:
    """Each waiter's counts from when it came, but not from before it began."""
    admission = an_admission(patience=100.0, max_age=100.0)
    early = anyio.current_time() - 1e4
    (await granted(admission)).finish(reason)
    ended_at: dict[str, float] = {}

    async def one(name: str, since: float) -> None:
        while isinstance(permit := await admission.acquire_permit(0, since=since), Permit):
            permit.finish(reason)
        assert reason is permit
        ended_at[name] = round(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(one, "early", early)
        await anyio.sleep(50.0)
        group.start_soon(one, "late", anyio.current_time())
    assert {"early": 100.0, "late": 150.0} == ended_at
    assert 0 == admission.waiting


@pytest.mark.parametrize("verdict", [v for v in Verdict if v not in (Verdict.RATE_LIMITED, Verdict.IN_DOUBT)])
async def test_what_is_answered_otherwise_is_not_refused_by_the_rate_limit(verdict: Verdict) -> None:
    """Nobody is told after an hour of maintenance that it was the rate limit."""
    admission = an_admission()
    (await granted(admission)).finish(Verdict.RATE_LIMITED)
    (await granted(admission)).finish(verdict)

    assert (admission.bucket.refused_since is None) is (verdict is not Verdict.UNSENT)


async def test_a_create_that_was_written_gives_its_token_back_without_an_answer() -> None:
    """1.25 of the longest round trip of a look after it was written, and when one is answered that was sent later."""
    admission = an_admission(creates=1)
    admission.record_round_trip(0.4)
    permit = await granted(admission)
    (task,) = await asked(admission, 1)
    await anyio.sleep(2.0)
    permit.record_write()
    await anyio.sleep(0.3)
    admission.record_round_trip(0.4)
    await anyio.sleep(5.0)
    again = (await asked(admission, 2))[0]
    admission.record_round_trip(0.4)
    await anyio.sleep(20.0)

    assert ["place 1"] == done([task, again])
    assert 17.3 <= task.result().granted_at <= 17.31
    permit.finish(Verdict.ACCEPTED)
    assert 1 == admission.bucket.leased
    task.result().finish(Verdict.UNSENT)
    await again


async def test_a_token_that_was_not_written_does_not_come_back_by_itself() -> None:
    """It may be written at any time."""
    admission = an_admission(creates=1)
    admission.record_round_trip(0.4)
    permit = await granted(admission)
    (task,) = await asked(admission, 1)
    await anyio.sleep(100.0)

    assert not task.done()
    permit.finish(Verdict.UNSENT)
    await anyio.sleep(0.001)
    assert task.done()


async def test_retry_after_holds_the_gate() -> None:
    admission = an_admission()
    (await granted(admission)).finish(Verdict.RATE_LIMITED, retry_after=30.0)
    await granted(admission)

    assert 30.0 <= anyio.current_time() <= 30.1


async def test_a_permit_does_not_keep() -> None:
    """A slow disk between token and wire must not bunch what was spread out."""
    admission = an_admission()
    permit = await granted(admission)
    assert permit.is_usable()
    await anyio.sleep(PERMIT_LIFETIME + 1.0)
    assert not permit.is_usable()
    permit.finish(Verdict.UNSENT)


@pytest.mark.parametrize("verdict", [Verdict.MAINTENANCE, Verdict.ACCOUNT])
async def test_what_was_granted_before_the_gate_closed_is_not_good_any_more(verdict: Verdict) -> None:
    """POSTs begun after a 402 was read: none, not even by those who hold their permits already."""
    admission = an_admission()
    first, second = await granted(admission), await granted(admission)
    first.finish(verdict)

    assert not second.is_usable()
    second.finish(Verdict.UNSENT)
    await anyio.sleep(100.0)
    probe = await granted(admission)
    assert (True, True) == (probe.probe, probe.is_usable())
    probe.finish(Verdict.ACCEPTED)


async def test_behind_maintenance_one_probe_a_minute_goes() -> None:
    admission = an_admission(creates=100)
    (await granted(admission)).finish(Verdict.MAINTENANCE)
    probed_at: list[float] = []

    async def one(place: int) -> None:
        while True:
            permit = await granted(admission, place)
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
            group.start_soon(one, place)
    gaps = [later - earlier for earlier, later in pairwise([0.0, *probed_at])]

    assert 6 == len(probed_at)
    assert all(60.0 <= gap <= 60.0 * 1.1 + 3.1 for gap in gaps)
    assert 0 == admission.bucket.leased


async def test_behind_an_account_that_cannot_pay_one_goes_at_a_time() -> None:
    admission = an_admission(creates=100)
    assert (await granted(admission)).finish(Verdict.ACCOUNT)
    tasks = await asked(admission, 1, 2, 3)
    assert ["place 1"] == done(tasks)
    assert not tasks[0].result().finish(Verdict.UNSENT)
    await anyio.sleep(0.001)
    assert ["place 1", "place 2"] == done(tasks)
    tasks[1].result().finish(Verdict.ACCEPTED)
    await anyio.sleep(0.001)

    assert 3 == len(done(tasks))
    assert not tasks[2].result().probe
    tasks[2].result().finish(Verdict.ACCEPTED)


async def test_what_was_spent_counts_on_in_the_next_event_loop() -> None:
    """By the wall clock; and a clock that was set back stretches nothing."""
    first = an_admission()
    (await granted(first)).finish(Verdict.ACCEPTED)
    await anyio.sleep(4.0)
    (await granted(first)).finish(Verdict.ACCEPTED)
    lent = await granted(first)
    await anyio.sleep(1.0)
    spent = first.token_return_times()
    assert 3 == len(spent)
    lent.finish(Verdict.UNSENT)

    second = an_admission()
    second.restore_tokens([*spent, Runtime(asyncio.get_running_loop()).wall() - 5.0])
    assert 0 == second.bucket.available(anyio.current_time())
    started_at = anyio.current_time()
    granted_at: list[float] = []
    for _ in range(3):
        await granted(second)
        granted_at.append(round(anyio.current_time() - started_at))
    assert [5.0, 9.0, 10.0] == granted_at

    third = an_admission(creates=1)
    third.restore_tokens([Runtime(asyncio.get_running_loop()).wall() + 1e6])
    before = anyio.current_time()
    await granted(third)
    assert anyio.current_time() - before <= 10.1


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_no_window_holds_more_than_the_limit(seed: int) -> None:
    """
    A storm of answers of every kind, of lost ones, of callers who leave, over a network with a latency of its own.

    As the service sees it: no ten seconds hold more arrivals than the limit. At the end nothing is lent or queued, and
    all that has not been burnt is there.
    """
    rng = random.Random(seed)
    admission = an_admission(creates=5)
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
        permit = await granted(admission, place)
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

    async def one(place: int, patience: Callable[[], float]) -> None:
        nonlocal finished
        with anyio.move_on_after(patience()):
            while not await send(place):
                pass
        finished += 1

    async with anyio.create_task_group() as group:
        for place in range(150):
            group.start_soon(one, place, lambda: rng.choice([1e6, 1e6, rng.uniform(0.0, 300.0)]))
            await anyio.sleep(rng.choice([0.0, 0.0, 1.0]))

    assert 150 == finished
    assert len(arrivals) > 75
    assert busiest_window(sorted(arrivals), 10.0) <= 5
    assert (0, 0) == (admission.bucket.leased, admission.waiting)
    await anyio.sleep(10.0)
    assert admission.bucket.tokens == admission.bucket.available(anyio.current_time())
