"""The poller: polls are paced, urgent ones go first, and a watched job is polled until it is unwatched."""

from __future__ import annotations

import asyncio
import json
import math
import random
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import anyio
import attrs
import pytest

from benchmarks.fixed_interval import FixedInterval
from kie_async import KieError, TransportError
from kie_async._core.durations import DurationsByKind
from kie_async._core.poll_results import PollResult, PollVerdict
from kie_async._core.polling import LagPolicy
from kie_async._io.http.transport import MAX_CONCURRENT, POLL_TIMEOUT, HttpResponse, Transport
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.polling.poller import Poller
from kie_async._io.polling.watchlist import Watchlist
from kie_async._io.runtime import Supervisor
from kie_async._io.timers import Timers
from kie_async.records import TaskRecord
from kie_async.states import JobState
from kie_async.testing.truth import busiest_window
from tests import profile
from tests.io.intents import make_intent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container

    from kie_async._core.polling import PollingPolicy


def record(task_id: str, state: str = "waiting") -> HttpResponse:
    data = {"taskId": task_id, "state": state}
    return HttpResponse(200, json.dumps({"code": 200, "msg": "success", "data": data}).encode())


REFUSED = HttpResponse(200, b'{"code":429,"msg":"slow down"}')


class Service:
    """A scripted transport that records when each task was polled."""

    def __init__(
        self,
        answer: Callable[[str, int], HttpResponse | Exception] | None = None,
        *,
        seconds: float = 0.05,
        timeouts: Container[int] = (),
    ) -> None:
        self.timeouts = timeouts
        self.asked: list[tuple[float, str]] = []
        self.running = 0
        self._answer = answer or (lambda task_id, _: record(task_id))
        self._seconds = seconds

    @property
    def asked_at(self) -> list[float]:
        return [at for at, _ in self.asked]

    async def poll(self, task_id: str, *, timeout: float) -> HttpResponse:
        self.asked.append((anyio.current_time(), task_id))
        nth = len(self.asked)
        self.running += 1
        try:
            with anyio.fail_after(timeout):
                await anyio.sleep(self._seconds if nth not in self.timeouts else math.inf)
        except TimeoutError:
            msg = "timed out"
            raise TransportError(msg) from None
        finally:
            self.running -= 1
        answer = self._answer(task_id, nth)
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def running_poller(
    service: Service,
    *,
    polls_per_second: float = 5.0,
    every: float = 10.0,
    policy: PollingPolicy | None = None,
    durations: DurationsByKind | None = None,
    on_round_trip: Callable[[float], None] = lambda _: None,
    loss_of: Callable[[LiveJob], float] = lambda _: 1.0,
) -> AsyncIterator[tuple[Poller, list[tuple[str | None, PollVerdict]]]]:
    """Yield a poller, and the results that it has reported."""
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    reported: list[tuple[str | None, PollVerdict]] = []

    async def on_poll(job: LiveJob, poll: PollResult) -> None:
        reported.append((job.task_id, poll.verdict))

    async def do_nothing() -> None:
        pass

    supervisor = Supervisor(loop, enter=do_nothing, ending=timers.close, leave=do_nothing, abandon=timers.close)
    watchlist = Watchlist(
        policy=policy or FixedInterval(every),
        durations=DurationsByKind() if durations is None else durations,
        timers=timers,
        loss_of=loss_of,
    )
    poller = Poller(
        transport=cast("Transport", service),
        polls_per_second=polls_per_second,
        watchlist=watchlist,
        loop=loop,
        timers=timers,
        supervisor=supervisor,
        on_poll=on_poll,
        on_round_trip=on_round_trip,
    )
    await supervisor.wait_ready()
    try:
        yield poller, reported
    finally:
        with anyio.CancelScope(shield=True):
            await supervisor.end_all()


def make_jobs(count: int) -> list[LiveJob]:
    jobs = []
    for number in range(count):
        row = make_intent(number, state=JobState.SUBMITTED, task_id=f"t{number}")
        jobs.append(LiveJob(id=row.id, row=row))
    return jobs


@pytest.mark.parametrize(
    ("polls_per_second", "seconds"), [(5.0, 0.05), (5.0, 3.0), (1.0, 0.5), (0.25, 0.05), (40.0, 0.0)]
)
async def test_polls_never_exceed_the_limit(polls_per_second: float, seconds: float) -> None:
    """With any latency and any number of due tasks."""
    service = Service(seconds=seconds)
    async with running_poller(service, polls_per_second=polls_per_second) as (poller, _):
        for job in make_jobs(100):
            poller.watchlist.watch(job)
        await anyio.sleep(120.0)
        window = max(1.0, 1.0 / polls_per_second)

        assert busiest_window(service.asked_at, window) <= max(1, polls_per_second)
        assert len(service.asked) >= 0.2 * 110.0 * polls_per_second / max(1.0, seconds)


async def test_polls_on_the_wire_are_bounded() -> None:
    """Also with a high limit. The timeout of a poll counts from when it is sent, not from when it is due."""
    service = Service(seconds=0.9)
    most = 0
    async with running_poller(service, polls_per_second=10_000.0, every=1.0) as (poller, reported):
        for job in make_jobs(1000):
            poller.watchlist.watch(job)
        while len(reported) < 1000:
            await anyio.sleep(0.1)
            most = max(most, service.running)
        assert anyio.current_time() > POLL_TIMEOUT

    assert MAX_CONCURRENT == most
    assert {PollVerdict.RECORD} == {verdict for _, verdict in reported}


async def test_every_task_has_its_turn() -> None:
    """None is skipped when more polls are due than the pacer allows."""
    service = Service()
    async with running_poller(service, polls_per_second=2.0, every=1.0) as (poller, reported):
        for job in make_jobs(20):
            poller.watchlist.watch(job)
        assert 20 == poller.watchlist.watched
        await anyio.sleep(61.0)
        counts = [sum(task_id == f"t{number}" for task_id, _ in reported) for number in range(20)]

        assert max(counts) - min(counts) <= 1
        assert sum(counts) == poller.polls


async def test_urgent_polls_go_first_in_order() -> None:
    service = Service()
    async with running_poller(service, polls_per_second=1.0, every=1.0) as (poller, _):
        for job in make_jobs(10):
            poller.watchlist.watch(job)
        await anyio.sleep(3.5)
        before = len(service.asked)
        async with anyio.create_task_group() as group:
            for name in ("a", "b", "c"):
                group.start_soon(poller.poll_now, name)
                await anyio.sleep(0.001)
        assert ["a", "b", "c"] == [task_id for _, task_id in service.asked[before : before + 3]]


async def test_an_urgent_poll_returns_or_raises() -> None:
    answers: dict[str, HttpResponse | Exception] = {
        "good": record("good", "success"),
        "other": record("another"),
        "page": HttpResponse(502, b"<html>"),
        "gone": TransportError("no answer"),
        "bug": ValueError("a bug"),
    }
    async with running_poller(Service(lambda task_id, _: answers[task_id])) as (poller, reported):
        good = await poller.poll_now("good")
        assert (PollVerdict.RECORD, "success") == (good.verdict, good.record.state if good.record else None)
        assert PollVerdict.UNREADABLE is (await poller.poll_now("other")).verdict
        assert PollVerdict.UNREADABLE is (await poller.poll_now("page")).verdict
        with pytest.raises(TransportError, match="no answer"):
            await poller.poll_now("gone")
        with pytest.raises(ValueError, match="a bug"):
            await poller.poll_now("bug")
        await poller.poll_now("good")
        assert [] == reported
        assert 0 == poller.pacer.in_use


async def test_cancelling_an_urgent_poll_affects_no_other() -> None:
    service = Service(seconds=0.9)
    async with running_poller(service, polls_per_second=1.0) as (poller, _):
        with anyio.move_on_after(0.5):
            await poller.poll_now("a")
        with anyio.move_on_after(0.5):
            await poller.poll_now("never sent")
        poll = await poller.poll_now("b")

        assert PollVerdict.RECORD is poll.verdict
        assert ["a", "b"] == [task_id for _, task_id in service.asked]
        assert 0 == poller.pacer.in_use


async def test_a_job_is_polled_until_it_is_unwatched() -> None:
    service = Service()
    (job,) = make_jobs(1)
    async with running_poller(service) as (poller, reported):
        poller.watchlist.watch(job)
        poller.watchlist.watch(job)
        await anyio.sleep(35.0)
        assert 3 == len(reported)
        poller.watchlist.unwatch(job)
        poller.watchlist.unwatch(job)
        await anyio.sleep(100.0)

        assert (3, 0) == (len(reported), poller.watchlist.watched)
        poller.watchlist.watch(job)
        await anyio.sleep(9.0)
        assert (4, 1) == (len(reported), poller.watchlist.watched)  # at once, since it may have ended already


@pytest.mark.parametrize("again", [False, True], ids=["for good", "and back"])
async def test_a_job_can_be_unwatched_during_a_poll(*, again: bool) -> None:
    """The result is still reported: it may be the end."""
    service = Service(seconds=0.9)
    (job,) = make_jobs(1)
    async with running_poller(service) as (poller, reported):
        poller.watchlist.watch(job)
        await anyio.sleep(10.5)
        assert 1 == service.running
        poller.watchlist.unwatch(job)
        if again:
            job.accepted_at = 10.5
            poller.watchlist.watch(job)
        await anyio.sleep(1.0)
        assert 1 == len(reported)
        assert (1 if again else 0) == poller.watchlist.watched
        await anyio.sleep(10.0)

        assert (2 if again else 1) == len(reported) == len(service.asked)


async def test_a_failed_poll_is_unreadable_and_repeated() -> None:
    def say(task_id: str, nth: int) -> HttpResponse | KieError:
        return TransportError("no answer") if nth == 1 else record(task_id)

    (job,) = make_jobs(1)
    async with running_poller(Service(say)) as (poller, reported):
        poller.watchlist.watch(job)
        await anyio.sleep(25.0)
        assert [("t0", PollVerdict.UNREADABLE), ("t0", PollVerdict.RECORD)] == reported


async def test_a_poll_with_an_unexpected_error_is_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For example in a trace hook of the caller's own session; after the usual interval."""
    service = Service(lambda task_id, nth: ValueError("a bug") if nth == 1 else record(task_id))
    (job,) = make_jobs(1)
    async with running_poller(service) as (poller, reported):
        poller.watchlist.watch(job)
        await anyio.sleep(25.0)

        assert [10, 20] == [math.floor(at) for at in service.asked_at]
        assert [("t0", PollVerdict.RECORD)] == reported
        assert 0 == poller.pacer.in_use
    assert 1 == len(caplog.records)


async def test_failed_polls_release_their_tokens() -> None:
    """After errors, timeouts and cancellations."""
    service = Service(
        lambda _, nth: TransportError("no answer") if nth <= 100 else record("t0"), timeouts=range(50, 60)
    )
    (job,) = make_jobs(1)
    async with running_poller(service, polls_per_second=100.0, every=1.0) as (poller, reported):
        poller.watchlist.watch(job)
        for _ in range(MAX_CONCURRENT):
            with anyio.move_on_after(0.01):
                await poller.poll_now("cancelled")
        await anyio.sleep(200.0)

        assert PollVerdict.RECORD is reported[-1][1]
        assert 0 == poller.pacer.in_use


async def test_a_refused_burst_slows_polls_once() -> None:
    """1, 2, 4 … up to 10 s; then one poll at a time probes whether the limit is over."""
    service = Service(lambda task_id, nth: REFUSED if nth <= 12 else record(task_id), seconds=0.0)
    async with running_poller(service, every=1.0) as (poller, reported):
        for job in make_jobs(5):
            poller.watchlist.watch(job)
        await anyio.sleep(100.0)
        refused_at = service.asked_at[:12]
        gaps = [math.floor(later - earlier) for earlier, later in pairwise(refused_at[4:])]

        assert [1, 2, 4, 8, 10, 10, 10] == gaps
        assert PollVerdict.RECORD is reported[-1][1]
        assert busiest_window(service.asked_at[13:], 1.0) == 5


async def test_polls_respect_retry_after() -> None:
    refused = HttpResponse(429, b'{"code":429,"msg":"slow down"}', retry_after=30.0)
    service = Service(lambda task_id, nth: refused if nth == 1 else record(task_id))
    async with running_poller(service) as (poller, _):
        await poller.poll_now("a")
        await poller.poll_now("b")
        first, second = service.asked_at
        assert 30.0 <= second - first <= 30.2


async def test_a_closed_poller_raises() -> None:
    async with running_poller(Service()) as (poller, _):
        pass
    with pytest.raises(KieError, match="closed"):
        await poller.poll_now("a")


# -- timeouts ----------------------------------------------------------------------------------------------------------


async def test_a_timeout_is_retried_and_blocks_no_other() -> None:
    """After the second timeout it doubles; the token returns a window after the timeout."""
    service = Service(timeouts=range(1, 4))
    (job,) = make_jobs(1)
    async with running_poller(service, polls_per_second=1.0) as (poller, reported):
        poller.watchlist.watch(job)
        await anyio.sleep(25.0)

        # Timeouts of 1, 1 and 2 s, each a second before its token returns.
        assert [10, 12, 14, 17] == [math.floor(at) for at in service.asked_at]
        assert [PollVerdict.UNREADABLE] * 3 + [PollVerdict.RECORD] == [verdict for _, verdict in reported]
        assert 0 == service.running == poller.pacer.in_use


async def test_the_timeout_resets_after_an_answer() -> None:
    service = Service(timeouts=(1, 2, 3, 5, 6))
    (job,) = make_jobs(1)
    async with running_poller(service) as (poller, _):
        poller.watchlist.watch(job)
        await anyio.sleep(30.0)

        # Timeouts of 1, 1 and 2 s at first; of 1 and 1 s the next time.
        assert [10.0, 11.0, 12.0, 14.0, 24.0, 25.0, 26.0] == [round(at, 1) for at in service.asked_at]


async def test_a_slow_service_is_polled_successfully() -> None:
    """The first answer sets the timeout."""
    service = Service(seconds=5.0)
    (job,) = make_jobs(1)
    async with running_poller(service) as (poller, reported):
        poller.watchlist.watch(job)
        await anyio.sleep(60.0)
        verdicts = [verdict for _, verdict in reported]

        assert 4 == verdicts.count(PollVerdict.UNREADABLE)
        assert PollVerdict.RECORD is verdicts[4]
        assert verdicts.count(PollVerdict.RECORD) >= 4


async def test_five_percent_timeouts_cost_little_throughput() -> None:
    """One of five tokens is away for a second; timeouts of ten seconds would cost a third of the throughput."""
    timeouts = range(7, 10_000, 20)
    polls: list[int] = []
    for service in (Service(), Service(timeouts=timeouts)):
        async with running_poller(service, every=1.0) as (poller, _):
            for job in make_jobs(50):
                poller.watchlist.watch(job)
            await anyio.sleep(200.0)
            polls.append(poller.polls)
    without, with_timeouts = polls

    assert with_timeouts >= 0.85 * without


async def test_an_urgent_poll_is_retried_for_ten_seconds() -> None:
    service = Service(timeouts=(1, 3, 4, 5))
    async with running_poller(service) as (poller, _):
        assert PollVerdict.RECORD is (await poller.poll_now("a")).verdict
        assert anyio.current_time() < 1.5
        asked_at = anyio.current_time()
        with pytest.raises(TransportError, match="timed out"):
            await poller.poll_now("b")

        assert math.isclose(10.0, anyio.current_time() - asked_at, abs_tol=0.01)
        assert ["a", "a", "b", "b", "b"] == [task_id for _, task_id in service.asked]
        assert 0 == poller.pacer.in_use


async def test_urgent_polls_do_not_starve_due_ones() -> None:
    """One poll in five is a due one, as long as any is due."""
    service = Service()
    async with running_poller(service, polls_per_second=1.0, every=1.0) as (poller, _):
        for job in make_jobs(3):
            poller.watchlist.watch(job)
        await anyio.sleep(1.5)
        begun = len(service.asked)
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(poller.poll_now, f"urgent {number}")
            await anyio.sleep(30.0)
            group.cancel_scope.cancel()
        urgent = [task_id.startswith("urgent") for _, task_id in service.asked[begun : begun + 25]]

        assert 5 * [*4 * [True], False] == urgent


# -- which job, and when -----------------------------------------------------------------------------------------------


def lag_policy() -> LagPolicy:
    return LagPolicy(randrange=lambda _: 0)


async def wait_for(poller: Poller, job: LiveJob) -> None:
    waiter = job.add_waiter()
    poller.watchlist.reweigh(job)
    try:
        await waiter
    finally:
        job.remove_waiter(waiter)


async def test_an_awaited_job_goes_first() -> None:
    """The other job is still polled."""
    service = Service()
    awaited, other = make_jobs(2)
    async with running_poller(service, policy=lag_policy()) as (poller, _), anyio.create_task_group() as group:
        poller.watchlist.watch(awaited)
        poller.watchlist.watch(other)
        group.start_soon(wait_for, poller, awaited)
        await anyio.sleep(60.0)
        first = {task_id: next(at for at, asked in service.asked if asked == task_id) for task_id in ("t0", "t1")}
        counts = {name: sum(asked == name for _, asked in service.asked) for name in ("t0", "t1")}

        assert first["t0"] + 2.0 < first["t1"]
        assert counts["t0"] > 1.5 * counts["t1"] > 0
        group.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["wait", "read"])
async def test_a_new_waiter_advances_the_planned_poll(way: str) -> None:
    service = Service()
    (job,) = make_jobs(1)
    async with running_poller(service, policy=lag_policy()) as (poller, _), anyio.create_task_group() as group:
        poller.watchlist.watch(job)
        await anyio.sleep(5.0)
        assert [] == service.asked
        if way == "read":
            job.add_reader()
            poller.watchlist.reweigh(job)
        else:
            group.start_soon(wait_for, poller, job)
        await anyio.sleep(1.0)
        assert 1 == len(service.asked)
        group.cancel_scope.cancel()


async def test_a_new_waiter_does_not_repeat_a_running_poll() -> None:
    service = Service(seconds=0.9)
    (job,) = make_jobs(1)
    async with running_poller(service, policy=lag_policy()) as (poller, _), anyio.create_task_group() as group:
        poller.watchlist.watch(job)
        while not service.running:
            await anyio.sleep(0.1)
        group.start_soon(wait_for, poller, job)
        await anyio.sleep(0.1)
        poller.watchlist.reweigh_all()
        await anyio.sleep(0.1)

        assert (1, 0) == (service.running, len(poller.watchlist.due))
        await anyio.sleep(1.0)
        assert 1 == len(service.asked)
        group.cancel_scope.cancel()


async def test_a_reader_of_updates_counts_as_a_waiter() -> None:
    service = Service()
    read, other = make_jobs(2)
    read.add_reader()
    async with running_poller(service, policy=lag_policy()) as (poller, _):
        poller.watchlist.watch(read)
        poller.watchlist.watch(other)
        await anyio.sleep(5.0)

        assert ["t0"] == [task_id for _, task_id in service.asked]


async def test_jobs_with_callbacks_are_polled_rarely() -> None:
    """A higher loss rate advances the planned polls, and so does knowledge of how long such tasks take."""
    service = Service()
    chance = 0.02
    waiting = make_jobs(600)
    async with running_poller(service, polls_per_second=100.0, policy=lag_policy(), loss_of=lambda _: chance) as (
        poller,
        _,
    ):
        for job in waiting:
            poller.watchlist.watch(job)
        await anyio.sleep(20.0)
        assert {"t0"} == {task_id for _, task_id in service.asked}  # the first one, to learn from it
        chance = 1.0
        poller.watchlist.reweigh_all()
        poller.watchlist.unwatch(waiting.pop())
        await anyio.sleep(10.0)
        assert {job.task_id for job in waiting} == {task_id for _, task_id in service.asked}

        chance = 0.02
        poller.watchlist.reweigh_all()
        await anyio.sleep(30.0)
        before = len(service.asked)
        await anyio.sleep(600.0)
        assert len(waiting) <= len(service.asked) - before <= 8 * len(waiting)


async def test_what_one_task_teaches_advances_the_polls_of_the_others() -> None:
    """Their polls are planned anew, but not those of another kind."""
    service = Service()
    jobs = make_jobs(61)
    for number in (59, 60):
        jobs[number].row = make_intent(number, state=JobState.SUBMITTED, task_id=f"t{number}", model="another")
    async with running_poller(service, polls_per_second=100.0, policy=lag_policy(), loss_of=lambda _: 0.02) as (
        poller,
        _,
    ):
        for job in jobs:
            poller.watchlist.watch(job)
        await anyio.sleep(8.0)
        assert {"t0", "t59"} >= {task_id for _, task_id in service.asked}  # the first of each kind
        for job in jobs[:32]:
            poller.watchlist.record_end(job, ended(3.0))
            poller.watchlist.unwatch(job)
        await anyio.sleep(6.0)
        assert {job.task_id for job in jobs[32:60]} == {task_id for _, task_id in service.asked} - {"t0"} | {"t59"}


async def test_a_record_from_elsewhere_postpones_the_poll() -> None:
    """It postpones a planned poll and a due one."""
    service = Service()
    planned, due, unknown = make_jobs(3)
    async with running_poller(service, every=10.0, polls_per_second=0.05) as (poller, _):
        await poller.poll_now("the only token")
        poller.watchlist.watch(planned)
        poller.watchlist.watch(due)
        await anyio.sleep(5.0)
        poller.watchlist.record_running(planned, TaskRecord(task_id="t0", state="generating"))
        await anyio.sleep(7.0)
        poller.watchlist.record_running(planned, TaskRecord(task_id="t0", state="generating"))
        poller.watchlist.record_running(due, TaskRecord(task_id="t1", state="generating"))
        poller.watchlist.record_running(unknown, TaskRecord(task_id="t2", state="generating"))
        await anyio.sleep(1.0)
        poller.watchlist.record_running(due, TaskRecord(task_id="t1", state="generating"))
        await anyio.sleep(17.0)

        assert [(22, "t0")] == [(math.floor(at), task_id) for at, task_id in service.asked[1:]]


def ended(seconds: float | None, **fields: str) -> TaskRecord:
    times = {} if seconds is None else {"created_at": 1000.0, "completed_at": 1000.0 + seconds}
    return TaskRecord(task_id="t0", state="success", **times, **fields)  # type: ignore[arg-type]  # as their names say


async def test_durations_are_learned_from_the_service_or_us() -> None:
    """By kind, and by both clocks if the task was seen leaving the queue."""
    durations = DurationsByKind()
    model = make_intent().model
    one, two, three, foreign = (*make_jobs(3), LiveJob(id="a-task"))
    async with running_poller(Service(), durations=durations) as (poller, _):
        for job in (one, two, foreign):
            poller.watchlist.watch(job)
        await anyio.sleep(4.0)
        poller.watchlist.record_running(one, TaskRecord(task_id="t0", state="queuing"))
        await anyio.sleep(4.0)
        poller.watchlist.record_running(one, TaskRecord(task_id="t0", state="generating"))
        poller.watchlist.record_running(foreign, TaskRecord(task_id="a-task", state="waiting", model=model))
        known = durations.of_kind((model,))
        poller.watchlist.record_end(one, ended(70.0))
        assert (1, 1) == (known.learned, known.generating.learned)
        assert known.generating.survival(50.0) > 0.45 > known.generating.survival(90.0)
        poller.watchlist.record_end(two, ended(None))
        assert (2, 1) == (known.learned, known.generating.learned)
        poller.watchlist.record_end(three, ended(60.0))  # another process has polled it
        poller.watchlist.record_end(three, ended(None))
        poller.watchlist.record_end(foreign, ended(None))
        poller.watchlist.record_end(foreign, ended(60.0))
        assert 4 == known.learned


async def test_a_foreign_task_is_polled_at_once() -> None:
    """As soon as a caller waits; its kind is learned from the record."""
    durations = DurationsByKind()
    foreign = LiveJob(id="a-task")
    param = json.dumps({"model": "m", "input": json.dumps({"resolution": "480p"})})
    async with running_poller(Service(), durations=durations) as (poller, reported), anyio.create_task_group() as group:
        poller.watchlist.watch(foreign)
        await anyio.sleep(1.0)
        assert [] == reported
        group.start_soon(wait_for, poller, foreign)
        await anyio.sleep(0.1)
        assert [("a-task", PollVerdict.RECORD)] == reported
        first = TaskRecord(task_id="a-task", state="waiting", model="m", raw={"param": param})
        poller.watchlist.record_running(foreign, first)
        foreign.update_record(first)
        poller.watchlist.record_running(foreign, first)
        poller.watchlist.record_end(foreign, ended(60.0))

        assert 1 == durations.of_kind(("m", "resolution=480p")).learned


async def test_recovered_jobs_are_polled_oldest_first() -> None:
    """After a restart all of them are overdue; the pacer still applies."""
    service = Service()
    recovered = make_jobs(20)
    async with running_poller(service, policy=lag_policy()) as (poller, _):
        await anyio.sleep(1000.0)
        for number, job in reversed(list(enumerate(recovered))):
            job.accepted_at = 50.0 * number
            poller.watchlist.watch(job)
        await anyio.sleep(4.5)

        assert busiest_window(service.asked_at, 1.0) <= 5
        assert [f"t{number}" for number in range(20)] == [task_id for _, task_id in service.asked[:20]]


async def test_lost_tasks_take_few_polls_from_running_ones() -> None:
    """A thousand stalled jobs share the remaining polls, and are never dropped."""
    counts: list[int] = []
    asked: list[bool] = []
    for lost in (0, 1000):
        service = Service()
        all_jobs = make_jobs(lost + 20)
        async with (
            running_poller(service, policy=LagPolicy(randrange=random.Random(0).randrange)) as (poller, _),
            anyio.create_task_group() as group,
        ):
            await anyio.sleep(4000.0)
            for job in all_jobs[20:]:
                assert job.row is not None
                job.row = attrs.evolve(job.row, state=JobState.STALLED)
                poller.watchlist.watch(job)
            await anyio.sleep(900.0)
            before = len(service.asked)
            for job in all_jobs[:20]:
                job.accepted_at = anyio.current_time()
                poller.watchlist.watch(job)
                group.start_soon(wait_for, poller, job)
            await anyio.sleep(120.0)
            running = {job.task_id for job in all_jobs[:20]}
            asked = [task_id in running for _, task_id in service.asked[before:]]
            counts.append(sum(asked))
            group.cancel_scope.cancel()
    alone, beside = counts

    assert beside >= 0.6 * alone
    assert asked.count(False) >= 0.1 * len(asked)


async def test_a_job_without_a_task_is_not_watched() -> None:
    async with running_poller(Service()) as (poller, _):
        with pytest.raises(ValueError, match="no taskId"):
            poller.watchlist.watch(LiveJob(id="kj_1"))
        assert 0 == poller.watchlist.watched


async def test_round_trips_of_answered_polls_are_reported() -> None:
    """Of urgent and planned polls; timeouts are not reported."""
    service, seconds = Service(seconds=0.4, timeouts=range(2, 9)), list[float]()
    async with running_poller(service, every=1.0, on_round_trip=seconds.append) as (poller, _):
        await poller.poll_now("t1")
        (job,) = make_jobs(1)
        poller.watchlist.watch(job)
        await anyio.sleep(60.0)
        answered = len(service.asked) - service.running - 7

    assert 10 < answered
    assert [0.4] * answered == [round(each, 3) for each in seconds]


async def test_share_of_the_polls_bounds_planned_polls_and_delays_no_urgent_one() -> None:
    """A worker that has a small part of the account's polls may get all callbacks, and confirms them at once."""
    service = Service(seconds=0.05)
    async with running_poller(service, every=1.0) as (poller, reported):
        poller.set_share(0.5)
        for job in make_jobs(20):
            poller.watchlist.watch(job)
        late: list[float] = []
        for number in range(30):
            asked_at = anyio.current_time()
            await poller.poll_now(f"named {number}")
            late.append(anyio.current_time() - asked_at)
            await anyio.sleep(0.5)
        planned = len(reported)

    assert max(late) <= 0.5
    assert 0.4 * anyio.current_time() <= planned <= 0.5 * anyio.current_time() + 1


async def test_many_tasks_share_the_polls_evenly() -> None:
    """The longest time without a poll is that of a fair share, whatever their ages; an urgent poll waits for none."""
    service, count = Service(), profile.scaled(quick=100, check=400, nightly=10_000)
    rng, share = random.Random(profile.seed()), count / 10.0
    async with running_poller(
        service, polls_per_second=10.0, policy=LagPolicy(randrange=random.Random(0).randrange)
    ) as (poller, _):
        for job in make_jobs(count):
            job.accepted_at = anyio.current_time() - rng.uniform(0.0, 60.0)
            poller.watchlist.watch(job)
        await anyio.sleep(2.5 * share)
        asked_at = anyio.current_time()
        await poller.poll_now("urgent")
        answered_at = anyio.current_time()

    polled: dict[str, list[float]] = {f"t{number}": [0.0] for number in range(count)}
    for at, task_id in service.asked:
        polled.setdefault(task_id, []).append(at)
    assert 1.0 > answered_at - asked_at
    assert polled.pop("urgent")
    gaps = [max(later - earlier for earlier, later in pairwise([*times, asked_at])) for times in polled.values()]
    assert max(gaps) <= 1.3 * share
