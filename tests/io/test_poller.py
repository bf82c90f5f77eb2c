"""Looks at running tasks: paced, urgent ones first, and a watched job is looked at until it is not watched any more."""

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
from kie_async._io.supervisor import Supervisor
from kie_async._io.timers import Timers
from kie_async.records import TaskRecord
from kie_async.states import JobState
from kie_async.testing.truth import busiest_window
from tests.io.intents import an_intent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container

    from kie_async._core.polling import PollingPolicy


def record(task_id: str, state: str = "waiting") -> HttpResponse:
    data = {"taskId": task_id, "state": state}
    return HttpResponse(200, json.dumps({"code": 200, "msg": "success", "data": data}).encode())


REFUSED = HttpResponse(200, b'{"code":429,"msg":"slow down"}')


class Service:
    """A scripted transport that notes when it was asked for which task."""

    def __init__(
        self,
        say: Callable[[str, int], HttpResponse | Exception] | None = None,
        *,
        seconds: float = 0.05,
        silent: Container[int] = (),
    ) -> None:
        self.silent = silent
        self.asked: list[tuple[float, str]] = []
        self.running = 0
        self._say = say or (lambda task_id, _: record(task_id))
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
                await anyio.sleep(self._seconds if nth not in self.silent else math.inf)
        except TimeoutError:
            msg = "silence"
            raise TransportError(msg) from None
        finally:
            self.running -= 1
        said = self._say(task_id, nth)
        if isinstance(said, Exception):
            raise said
        return said


@asynccontextmanager
async def a_poller(
    service: Service,
    *,
    polls_per_second: float = 5.0,
    every: float = 10.0,
    policy: PollingPolicy | None = None,
    durations: DurationsByKind | None = None,
    on_round_trip: Callable[[float], None] = lambda _: None,
    weigh: Callable[[LiveJob], float] = lambda _: 1.0,
) -> AsyncIterator[tuple[Poller, list[tuple[str | None, PollVerdict]]]]:
    """A poller, and the looks that were told."""
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    told: list[tuple[str | None, PollVerdict]] = []

    async def on_poll(job: LiveJob, poll: PollResult) -> None:
        told.append((job.task_id, poll.verdict))

    async def nothing() -> None:
        pass

    supervisor = Supervisor(loop, enter=nothing, ending=timers.close, leave=nothing)
    poller = Poller(
        transport=cast("Transport", service),
        polls_per_second=polls_per_second,
        policy=policy or FixedInterval(every),
        durations=DurationsByKind() if durations is None else durations,
        loop=loop,
        timers=timers,
        supervisor=supervisor,
        on_poll=on_poll,
        on_round_trip=on_round_trip,
        weigh=weigh,
    )
    await supervisor.wait_ready()
    try:
        yield poller, told
    finally:
        with anyio.CancelScope(shield=True):
            await supervisor.end_all()


def jobs(count: int) -> list[LiveJob]:
    made = []
    for number in range(count):
        row = an_intent(number, state=JobState.SUBMITTED, task_id=f"t{number}")
        made.append(LiveJob(id=row.id, row=row))
    return made


@pytest.mark.parametrize(
    ("polls_per_second", "seconds"), [(5.0, 0.05), (5.0, 3.0), (1.0, 0.5), (0.25, 0.05), (40.0, 0.0)]
)
async def test_looks_are_never_faster_than_the_limit(polls_per_second: float, seconds: float) -> None:
    """However long an answer takes, and however many tasks are due."""
    service = Service(seconds=seconds)
    async with a_poller(service, polls_per_second=polls_per_second) as (poller, _):
        for job in jobs(100):
            poller.watch(job)
        await anyio.sleep(120.0)
        window = max(1.0, 1.0 / polls_per_second)

        assert busiest_window(service.asked_at, window) <= max(1, polls_per_second)
        assert len(service.asked) >= 0.2 * 110.0 * polls_per_second / max(1.0, seconds)


async def test_a_thousand_looks_at_once_are_made_in_turns() -> None:
    """Whatever the limit allows. A look's time counts from when it is on the wire, and not from when it was wanted."""
    service = Service(seconds=0.9)
    most = 0
    async with a_poller(service, polls_per_second=10_000.0, every=1.0) as (poller, told):
        for job in jobs(1000):
            poller.watch(job)
        while len(told) < 1000:
            await anyio.sleep(0.1)
            most = max(most, service.running)
        assert anyio.current_time() > POLL_TIMEOUT

    assert MAX_CONCURRENT == most
    assert {PollVerdict.RECORD} == {verdict for _, verdict in told}


async def test_every_task_has_its_turn() -> None:
    """When more are due than the pacer lets through, none is passed over."""
    service = Service()
    async with a_poller(service, polls_per_second=2.0, every=1.0) as (poller, told):
        for job in jobs(20):
            poller.watch(job)
        assert 20 == poller.watched
        await anyio.sleep(61.0)
        counts = [sum(task_id == f"t{number}" for task_id, _ in told) for number in range(20)]

        assert max(counts) - min(counts) <= 1
        assert sum(counts) == poller.polls


async def test_an_urgent_look_goes_first() -> None:
    """Before all that is merely due, and in the order of asking."""
    service = Service()
    async with a_poller(service, polls_per_second=1.0, every=1.0) as (poller, _):
        for job in jobs(10):
            poller.watch(job)
        await anyio.sleep(3.5)
        before = len(service.asked)
        async with anyio.create_task_group() as group:
            for name in ("a", "b", "c"):
                group.start_soon(poller.poll_now, name)
                await anyio.sleep(0.001)
        assert ["a", "b", "c"] == [task_id for _, task_id in service.asked[before : before + 3]]


async def test_an_urgent_look_is_told_to_who_has_asked() -> None:
    """With its record, or why there is none."""
    answers: dict[str, HttpResponse | Exception] = {
        "good": record("good", "success"),
        "other": record("another"),
        "page": HttpResponse(502, b"<html>"),
        "gone": TransportError("no answer"),
        "bug": ValueError("a bug"),
    }
    async with a_poller(Service(lambda task_id, _: answers[task_id])) as (poller, told):
        good = await poller.poll_now("good")
        assert (PollVerdict.RECORD, "success") == (good.verdict, good.record.state if good.record else None)
        assert PollVerdict.UNREADABLE is (await poller.poll_now("other")).verdict
        assert PollVerdict.UNREADABLE is (await poller.poll_now("page")).verdict
        with pytest.raises(TransportError, match="no answer"):
            await poller.poll_now("gone")
        with pytest.raises(ValueError, match="a bug"):
            await poller.poll_now("bug")
        await poller.poll_now("good")
        assert [] == told
        assert 0 == poller.pacer.in_use


async def test_who_leaves_an_urgent_look_disturbs_no_other() -> None:
    service = Service(seconds=0.9)
    async with a_poller(service, polls_per_second=1.0) as (poller, _):
        with anyio.move_on_after(0.5):
            await poller.poll_now("a")
        with anyio.move_on_after(0.5):
            await poller.poll_now("never sent")
        poll = await poller.poll_now("b")

        assert PollVerdict.RECORD is poll.verdict
        assert ["a", "b"] == [task_id for _, task_id in service.asked]
        assert 0 == poller.pacer.in_use


async def test_a_job_is_looked_at_until_it_is_unwatched() -> None:
    service = Service()
    (job,) = jobs(1)
    async with a_poller(service) as (poller, told):
        poller.watch(job)
        poller.watch(job)
        await anyio.sleep(35.0)
        assert 3 == len(told)
        poller.unwatch(job)
        poller.unwatch(job)
        await anyio.sleep(100.0)

        assert (3, 0) == (len(told), poller.watched)
        poller.watch(job)
        await anyio.sleep(9.0)
        assert (4, 1) == (len(told), poller.watched)  # at once, since it may have ended long ago


@pytest.mark.parametrize("again", [False, True], ids=["for good", "and back"])
async def test_a_job_can_be_unwatched_while_it_is_looked_at(*, again: bool) -> None:
    """What the look brings is told all the same: it may be the last word."""
    service = Service(seconds=0.9)
    (job,) = jobs(1)
    async with a_poller(service) as (poller, told):
        poller.watch(job)
        await anyio.sleep(10.5)
        assert 1 == service.running
        poller.unwatch(job)
        if again:
            job.accepted_at = 10.5
            poller.watch(job)
        await anyio.sleep(1.0)
        assert 1 == len(told)
        assert (1 if again else 0) == poller.watched
        await anyio.sleep(10.0)

        assert (2 if again else 1) == len(told) == len(service.asked)


async def test_a_look_without_an_answer_is_told_as_unreadable_and_looked_at_again() -> None:
    def say(task_id: str, nth: int) -> HttpResponse | KieError:
        return TransportError("no answer") if nth == 1 else record(task_id)

    (job,) = jobs(1)
    async with a_poller(Service(say)) as (poller, told):
        poller.watch(job)
        await anyio.sleep(25.0)
        assert [("t0", PollVerdict.UNREADABLE), ("t0", PollVerdict.RECORD)] == told


async def test_a_look_that_fails_by_a_bug_is_logged_and_its_job_is_looked_at_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In a trace hook of the caller's own session, say: as late as after any other look."""
    service = Service(lambda task_id, nth: ValueError("a bug") if nth == 1 else record(task_id))
    (job,) = jobs(1)
    async with a_poller(service) as (poller, told):
        poller.watch(job)
        await anyio.sleep(25.0)

        assert [10, 20] == [math.floor(at) for at in service.asked_at]
        assert [("t0", PollVerdict.RECORD)] == told
        assert 0 == poller.pacer.in_use
    assert 1 == len(caplog.records)


async def test_looks_without_an_answer_use_up_no_place_on_the_wire() -> None:
    """However many fail, be it at once, by silence, or because whoever has asked left."""
    service = Service(lambda _, nth: TransportError("no answer") if nth <= 100 else record("t0"), silent=range(50, 60))
    (job,) = jobs(1)
    async with a_poller(service, polls_per_second=100.0, every=1.0) as (poller, told):
        poller.watch(job)
        for _ in range(MAX_CONCURRENT):
            with anyio.move_on_after(0.01):
                await poller.poll_now("left")
        await anyio.sleep(200.0)

        assert PollVerdict.RECORD is told[-1][1]
        assert 0 == poller.pacer.in_use


async def test_a_refused_burst_slows_all_looks_once() -> None:
    """1, 2, 4 … seconds, up to ten; then one look at a time asks whether it is over."""
    service = Service(lambda task_id, nth: REFUSED if nth <= 12 else record(task_id), seconds=0.0)
    async with a_poller(service, every=1.0) as (poller, told):
        for job in jobs(5):
            poller.watch(job)
        await anyio.sleep(100.0)
        refused_at = service.asked_at[:12]
        gaps = [math.floor(later - earlier) for earlier, later in pairwise(refused_at[4:])]

        assert [1, 2, 4, 8, 10, 10, 10] == gaps
        assert PollVerdict.RECORD is told[-1][1]
        assert busiest_window(service.asked_at[13:], 1.0) == 5


async def test_retry_after_is_heeded_by_looks() -> None:
    refused = HttpResponse(429, b'{"code":429,"msg":"slow down"}', retry_after=30.0)
    service = Service(lambda task_id, nth: refused if nth == 1 else record(task_id))
    async with a_poller(service) as (poller, _):
        await poller.poll_now("a")
        await poller.poll_now("b")
        first, second = service.asked_at
        assert 30.0 <= second - first <= 30.2


async def test_a_poller_whose_root_has_ended_says_so() -> None:
    async with a_poller(Service()) as (poller, _):
        pass
    with pytest.raises(KieError, match="closed"):
        await poller.poll_now("a")


# -- which one, and when ----------------------------------------------------------------------------------------------


async def test_a_silent_look_is_made_again_after_a_second_and_holds_up_nobody() -> None:
    """From the second silence on with twice the patience; its token is free a window after it was given up."""
    service = Service(silent=range(1, 4))
    (job,) = jobs(1)
    async with a_poller(service, polls_per_second=1.0) as (poller, told):
        poller.watch(job)
        await anyio.sleep(25.0)

        # Given up after 1, 1 and 2 s, each a second before its token is free.
        assert [10, 12, 14, 17] == [math.floor(at) for at in service.asked_at]
        assert [PollVerdict.UNREADABLE] * 3 + [PollVerdict.RECORD] == [verdict for _, verdict in told]
        assert 0 == service.running == poller.pacer.in_use


async def test_the_patience_with_a_job_is_as_before_once_it_was_answered() -> None:
    service = Service(silent=(1, 2, 3, 5, 6))
    (job,) = jobs(1)
    async with a_poller(service) as (poller, _):
        poller.watch(job)
        await anyio.sleep(30.0)

        # After 1, 1 and 2 s at first; and after 1 and 1 s the next time.
        assert [10.0, 11.0, 12.0, 14.0, 24.0, 25.0, 26.0] == [round(at, 1) for at in service.asked_at]


async def test_a_service_that_is_always_slow_is_answered_after_all() -> None:
    """What it takes is learned from the first answer that came."""
    service = Service(seconds=5.0)
    (job,) = jobs(1)
    async with a_poller(service) as (poller, told):
        poller.watch(job)
        await anyio.sleep(60.0)
        verdicts = [verdict for _, verdict in told]

        assert 4 == verdicts.count(PollVerdict.UNREADABLE)
        assert PollVerdict.RECORD is verdicts[4]
        assert verdicts.count(PollVerdict.RECORD) >= 4


async def test_five_silent_looks_in_a_hundred_cost_the_others_little() -> None:
    """Of five tokens, one is away for a second more now and then; ten seconds would be a third of the throughput."""
    silent = range(7, 10_000, 20)
    polls: list[int] = []
    for service in (Service(), Service(silent=silent)):
        async with a_poller(service, every=1.0) as (poller, _):
            for job in jobs(50):
                poller.watch(job)
            await anyio.sleep(200.0)
            polls.append(poller.polls)
    well, ill = polls

    assert ill >= 0.85 * well


async def test_an_urgent_look_that_is_silent_is_made_again_and_given_up_after_ten_seconds() -> None:
    service = Service(silent=(1, 3, 4, 5))
    async with a_poller(service) as (poller, _):
        assert PollVerdict.RECORD is (await poller.poll_now("a")).verdict
        assert anyio.current_time() < 1.5
        asked_at = anyio.current_time()
        with pytest.raises(TransportError, match="silence"):
            await poller.poll_now("b")

        assert math.isclose(10.0, anyio.current_time() - asked_at, abs_tol=0.01)
        assert ["a", "a", "b", "b", "b"] == [task_id for _, task_id in service.asked]
        assert 0 == poller.pacer.in_use


async def test_urgent_looks_do_not_starve_those_that_are_due() -> None:
    """One in five is for a job that is due, as long as any is."""
    service = Service()
    async with a_poller(service, polls_per_second=1.0, every=1.0) as (poller, _):
        for job in jobs(3):
            poller.watch(job)
        await anyio.sleep(1.5)
        begun = len(service.asked)
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(poller.poll_now, f"urgent {number}")
            await anyio.sleep(30.0)
            group.cancel_scope.cancel()
        urgent = [task_id.startswith("urgent") for _, task_id in service.asked[begun : begun + 25]]

        assert 5 * [*4 * [True], False] == urgent


def by_lag() -> LagPolicy:
    return LagPolicy(randrange=lambda _: 0)


async def wait_for(poller: Poller, job: LiveJob) -> None:
    """As callers do."""
    waiter = job.add_waiter()
    poller.awaited(job)
    try:
        await waiter
    finally:
        job.remove_waiter(waiter)


async def test_a_job_that_somebody_waits_for_goes_before_one_that_nobody_waits_for() -> None:
    """As soon as somebody does; the other one is looked at all the same."""
    service = Service()
    awaited, other = jobs(2)
    async with a_poller(service, policy=by_lag()) as (poller, _), anyio.create_task_group() as group:
        poller.watch(awaited)
        poller.watch(other)
        group.start_soon(wait_for, poller, awaited)
        await anyio.sleep(60.0)
        first = {task_id: next(at for at, asked in service.asked if asked == task_id) for task_id in ("t0", "t1")}
        counts = {name: sum(asked == name for _, asked in service.asked) for name in ("t0", "t1")}

        assert first["t0"] + 2.0 < first["t1"]
        assert counts["t0"] > 1.5 * counts["t1"] > 0
        group.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["wait", "read"])
async def test_a_look_that_is_planned_is_brought_forward_when_somebody_begins_to_wait(way: str) -> None:
    service = Service()
    (job,) = jobs(1)
    async with a_poller(service, policy=by_lag()) as (poller, _), anyio.create_task_group() as group:
        poller.watch(job)
        await anyio.sleep(7.0)
        assert [] == service.asked
        if way == "read":
            job.add_reader()
            poller.awaited(job)
        else:
            group.start_soon(wait_for, poller, job)
        await anyio.sleep(1.0)
        assert 1 == len(service.asked)
        group.cancel_scope.cancel()


async def test_a_job_that_is_just_looked_at_is_not_looked_at_twice_because_somebody_begins_to_wait() -> None:
    service = Service(seconds=0.9)
    (job,) = jobs(1)
    async with a_poller(service, policy=by_lag()) as (poller, _), anyio.create_task_group() as group:
        poller.watch(job)
        while not service.running:
            await anyio.sleep(0.1)
        group.start_soon(wait_for, poller, job)
        await anyio.sleep(0.1)
        poller.replan([job])
        await anyio.sleep(0.1)

        assert (1, 0) == (service.running, poller.due)
        await anyio.sleep(1.0)
        assert 1 == len(service.asked)
        group.cancel_scope.cancel()


async def test_who_reads_the_changes_of_a_job_waits_for_it() -> None:
    """Even while he is busy with the last one."""
    service = Service()
    read, other = jobs(2)
    read.add_reader()
    async with a_poller(service, policy=by_lag()) as (poller, _):
        poller.watch(read)
        poller.watch(other)
        await anyio.sleep(7.0)

        assert ["t0"] == [task_id for _, task_id in service.asked]


async def test_jobs_of_which_somebody_else_tells_are_looked_at_rarely_and_never_not_at_all() -> None:
    """Until nobody tells any more: then the looks that were planned are brought forward."""
    service = Service()
    chance = 0.02
    waiting = jobs(600)
    async with a_poller(service, polls_per_second=100.0, policy=by_lag(), weigh=lambda _: chance) as (poller, _):
        for job in waiting:
            poller.watch(job)
        await anyio.sleep(20.0)
        assert [] == service.asked
        chance = 1.0
        poller.replan(waiting)
        poller.unwatch(waiting.pop())
        await anyio.sleep(10.0)
        assert {job.task_id for job in waiting} == {task_id for _, task_id in service.asked}

        chance = 0.02
        poller.replan(waiting)
        await anyio.sleep(30.0)
        before = len(service.asked)
        await anyio.sleep(650.0)
        assert len(waiting) <= len(service.asked) - before <= 3 * len(waiting)


async def test_what_a_job_was_seen_to_do_meanwhile_puts_its_look_off() -> None:
    """Whoever has looked: a planned look, and one that is due already."""
    service = Service()
    planned, due, unknown = jobs(3)
    async with a_poller(service, every=10.0, polls_per_second=0.05) as (poller, _):
        await poller.poll_now("the only token")
        poller.watch(planned)
        poller.watch(due)
        await anyio.sleep(5.0)
        poller.saw(planned, TaskRecord(task_id="t0", state="generating"))
        await anyio.sleep(7.0)
        poller.saw(planned, TaskRecord(task_id="t0", state="generating"))
        poller.saw(due, TaskRecord(task_id="t1", state="generating"))
        poller.saw(unknown, TaskRecord(task_id="t2", state="generating"))
        await anyio.sleep(1.0)
        poller.saw(due, TaskRecord(task_id="t1", state="generating"))
        await anyio.sleep(17.0)

        assert [(22, "t0")] == [(math.floor(at), task_id) for at, task_id in service.asked[1:]]


def ended(seconds: float | None, **fields: str) -> TaskRecord:
    times = {} if seconds is None else {"created_at": 1000.0, "completed_at": 1000.0 + seconds}
    return TaskRecord(task_id="t0", state="success", **times, **fields)  # type: ignore[arg-type]  # as their names say


async def test_how_long_a_task_took_is_learned_from_the_services_times_else_from_ours() -> None:
    """By its kind, and by both clocks if it was seen to leave the queue."""
    durations = DurationsByKind()
    model = an_intent().model
    one, two, three, stranger = (*jobs(3), LiveJob(id="a-task"))
    async with a_poller(Service(), durations=durations) as (poller, _):
        for job in (one, two, stranger):
            poller.watch(job)
        await anyio.sleep(4.0)
        poller.saw(one, TaskRecord(task_id="t0", state="queuing"))
        await anyio.sleep(4.0)
        poller.saw(one, TaskRecord(task_id="t0", state="generating"))
        poller.saw(stranger, TaskRecord(task_id="a-task", state="waiting", model=model))
        known = durations.of_kind((model,))
        poller.learn(one, ended(70.0))
        assert (1, 1) == (known.learned, known.generating.learned)
        assert known.generating.survival(50.0) > 0.45 > known.generating.survival(90.0)
        poller.learn(two, ended(None))
        assert (2, 1) == (known.learned, known.generating.learned)
        poller.learn(three, ended(60.0))  # another process has looked at it
        poller.learn(three, ended(None))
        poller.learn(stranger, ended(None))
        poller.learn(stranger, ended(60.0))
        assert 4 == known.learned


async def test_a_strangers_task_is_looked_at_at_once_and_known_by_what_the_service_says() -> None:
    """As soon as somebody waits: nobody here knows how old it is, nor what was asked for."""
    durations = DurationsByKind()
    stranger = LiveJob(id="a-task")
    param = json.dumps({"model": "m", "input": json.dumps({"resolution": "480p"})})
    async with a_poller(Service(), durations=durations) as (poller, told), anyio.create_task_group() as group:
        poller.watch(stranger)
        await anyio.sleep(1.0)
        assert [] == told
        group.start_soon(wait_for, poller, stranger)
        await anyio.sleep(0.1)
        assert [("a-task", PollVerdict.RECORD)] == told
        first = TaskRecord(task_id="a-task", state="waiting", model="m", raw={"param": param})
        poller.saw(stranger, first)
        stranger.update_record(first)
        poller.saw(stranger, first)
        poller.learn(stranger, ended(60.0))

        assert 1 == durations.of_kind(("m", "resolution=480p")).learned


async def test_jobs_that_were_taken_over_are_looked_at_by_how_long_nobody_has_looked() -> None:
    """After a restart all of them are overdue; the pacer holds, and the oldest go first."""
    service = Service()
    taken_over = jobs(20)
    async with a_poller(service, policy=by_lag()) as (poller, _):
        await anyio.sleep(1000.0)
        for number, job in reversed(list(enumerate(taken_over))):
            job.accepted_at = 50.0 * number
            poller.watch(job)
        await anyio.sleep(4.5)

        assert busiest_window(service.asked_at, 1.0) <= 5
        assert [f"t{number}" for number in range(20)] == [task_id for _, task_id in service.asked[:20]]


async def test_tasks_that_the_service_has_lost_take_no_looks_from_those_that_run() -> None:
    """Thousands that are stalled are looked at with what is left, and never not at all."""
    counts: list[int] = []
    asked: list[bool] = []
    for lost in (0, 3000):
        service = Service()
        made = jobs(lost + 20)
        async with (
            a_poller(service, policy=LagPolicy(randrange=random.Random(0).randrange)) as (poller, _),
            anyio.create_task_group() as group,
        ):
            await anyio.sleep(4000.0)
            for job in made[20:]:
                assert job.row is not None
                job.row = attrs.evolve(job.row, state=JobState.STALLED)
                poller.watch(job)
            await anyio.sleep(900.0)
            before = len(service.asked)
            for job in made[:20]:
                job.accepted_at = anyio.current_time()
                poller.watch(job)
                group.start_soon(wait_for, poller, job)
            await anyio.sleep(120.0)
            running = {job.task_id for job in made[:20]}
            asked = [task_id in running for _, task_id in service.asked[before:]]
            counts.append(sum(asked))
            group.cancel_scope.cancel()
    alone, beside = counts

    assert beside >= 0.6 * alone
    assert asked.count(False) >= 0.1 * len(asked)


async def test_a_job_without_a_task_is_not_watched() -> None:
    async with a_poller(Service()) as (poller, _):
        with pytest.raises(ValueError, match="no taskId"):
            poller.watch(LiveJob(id="kj_1"))
        assert 0 == poller.watched


async def test_of_each_look_that_was_answered_it_is_told_how_long_it_took() -> None:
    """Whoever has asked for it; silence has no length."""
    service, seconds = Service(seconds=0.4, silent=range(2, 9)), list[float]()
    async with a_poller(service, every=1.0, on_round_trip=seconds.append) as (poller, _):
        await poller.poll_now("t1")
        (job,) = jobs(1)
        poller.watch(job)
        await anyio.sleep(60.0)
        answered = len(service.asked) - service.running - 7

    assert 10 < answered
    assert [0.4] * answered == [round(each, 3) for each in seconds]
