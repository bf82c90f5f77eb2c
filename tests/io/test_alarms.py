"""Alarms: each at its instant, none for what was taken back, one entry of the agenda for all."""

from __future__ import annotations

import asyncio
import random

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async._io.alarms import Alarms
from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.timers import Timers
from kie_async.testing import virtual_time


class Setup:
    """Alarms, and what they have called, with the instants."""

    def __init__(self, after: float = 0.0, rest: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self.timers = Timers(loop)
        self.called: list[tuple[str, float]] = []
        self.alarms = Alarms[LiveJob](
            self.timers, loop.time, lambda job: self.called.append((job.id, loop.time())), after=after, rest=rest
        )

    def job(self, name: str, at: float) -> LiveJob:
        job = LiveJob(id=name)
        self.alarms.set(job, at)
        return job


async def test_each_job_is_called_once_at_its_deadline() -> None:
    setup = Setup()
    for name, at in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("past", -1.0)):
        setup.job(name, at)
    await anyio.sleep(10.0)

    assert ["past", "a", "b", "c"] == [name for name, _ in setup.called]
    assert [0.0, 1.0, 2.0, 3.0] == [round(at, 3) for _, at in setup.called]
    assert (0, 0) == (len(setup.alarms), len(setup.timers))


async def test_what_was_dropped_is_not_called_and_what_was_set_anew_is_called_then() -> None:
    """Whichever it was: the first of the heap, the last, or one that was dropped before."""
    setup = Setup()
    jobs = [setup.job(name, float(place)) for place, name in enumerate("abcd", 1)]
    for job in (jobs[0], jobs[3], jobs[0]):
        setup.alarms.drop(job)
    setup.alarms.set(jobs[2], 5.0)
    setup.alarms.set(jobs[3], 0.5)
    assert 3 == len(setup.alarms)
    await anyio.sleep(10.0)

    assert [("d", 0.5), ("b", 2.0), ("c", 5.0)] == [(name, round(at, 3)) for name, at in setup.called]


async def test_what_was_dropped_is_no_longer_counted_when_its_instant_has_passed() -> None:
    """One that was dropped behind others is still in the heap then."""
    setup = Setup()
    jobs = [setup.job(name, at) for name, at in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 5.0))]
    setup.alarms.drop(jobs[2])
    await anyio.sleep(2.0)

    assert 1 == len(setup.alarms)
    assert ["a", "b"] == sorted(name for name, _ in setup.called)


async def test_jobs_that_come_and_go_leave_nothing_behind() -> None:
    """A deadline is an hour away; what has ended long before must not be held until then."""
    rng = random.Random(0)
    setup = Setup()
    alive: dict[str, LiveJob] = {}
    due: dict[str, float] = {}
    for number in range(5_000):
        name, at = str(number), 3600.0 + rng.random()
        alive[name], due[name] = setup.job(name, at), at
        if len(alive) > 200:
            ended = rng.choice(list(alive))
            setup.alarms.drop(alive.pop(ended))
            del due[ended]
        assert len(setup.alarms) == len(alive)
        assert 1 == len(setup.timers)
        assert setup.alarms.held <= 2 * len(alive) + 1
    await anyio.sleep(4000.0)

    assert sorted(due, key=lambda name: due[name]) == [name for name, _ in setup.called]
    assert all(0.0 <= at - due[name] < 1e-3 for name, at in setup.called)


async def test_what_counts_from_an_instant_is_called_so_long_after_it() -> None:
    setup = Setup(after=3600.0)
    for name, since in (("b", 2.0), ("a", 1.0), ("long ago", -4000.0)):
        setup.job(name, since)
    await anyio.sleep(4000.0)

    assert [("long ago", 0.0), ("a", 3601.0), ("b", 3602.0)] == [(name, round(at, 3)) for name, at in setup.called]


async def test_without_jobs_there_is_no_timer() -> None:
    setup = Setup()
    setup.alarms.drop(setup.job("a", 3600.0))

    assert 0 == len(setup.timers)


async def test_what_falls_into_the_rest_after_a_call_is_called_at_its_end_and_in_order() -> None:
    setup = Setup(rest=1.0)
    for name, at in (("b", 2.0), ("e", 3.5), ("c", 2.5), ("a", -1.0), ("d", 3.0), ("f", 9.0)):
        setup.job(name, at)
    await anyio.sleep(10.0)

    calls = [(name, round(at, 3)) for name, at in setup.called]
    assert [("a", 0.0), ("b", 2.0), ("c", 3.0), ("d", 3.0), ("e", 4.0), ("f", 9.0)] == calls


async def test_what_is_called_may_drop_and_set_others_and_itself() -> None:
    """As a job that ends others; those that are set for now are called in the same turn."""
    loop = asyncio.get_running_loop()
    called: list[tuple[str, float]] = []

    def reached(job: LiveJob) -> None:
        called.append((job.id, round(loop.time(), 3)))
        if len(called) == 1:
            for other in others[:-1]:
                alarms.drop(other)
            alarms.set(others[0], loop.time() - 1.0)
            alarms.set(others[1], 4.0)
            alarms.set(job, 6.0)

    alarms = Alarms[LiveJob](Timers(loop), loop.time, reached)
    first, others = LiveJob(id="first"), [LiveJob(id=str(number)) for number in range(200)]
    alarms.set(first, 1.0)
    for other in others:
        alarms.set(other, 5.0)
    await anyio.sleep(2.0)
    assert 3 == len(alarms)
    assert alarms.held <= 101
    await anyio.sleep(8.0)

    assert [("first", 1.0), ("0", 1.0), ("1", 4.0), ("199", 5.0), ("first", 6.0)] == called


#: In seconds.
_FARTHEST = 1e7
_DISTANCES = st.one_of(
    st.sampled_from([-1.0, 0.0, 0.125, 0.25, 0.5, 1.0, 16.0, 3600.0]),
    st.floats(-1e4, 1.0),
    st.floats(0.0, 100.0),
    st.floats(0.0, _FARTHEST),
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 40), _DISTANCES),
        st.tuples(st.just("drop"), st.integers(0, 40), st.just(0.0)),
        st.tuples(st.just("sleep"), st.just(0), st.one_of(st.floats(0.0, 1.0), st.floats(0.0, 1e5))),
    ),
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(steps=_STEPS, after=st.sampled_from([0.0, 3600.0]), rest=st.sampled_from([0.0, 0.5]))
def test_whatever_is_set_moved_and_dropped_each_is_called_once_in_order_and_on_time(
    steps: list[tuple[str, int, float]], after: float, rest: float
) -> None:
    async def live() -> None:
        loop = asyncio.get_running_loop()
        wanted: dict[LiveJob, tuple[float, float]] = {}
        fine: list[bool] = []

        def reached(job: LiveJob) -> None:
            at, since = wanted.pop(job)
            late = loop.time() - max(at + after, since)
            fine.append(
                job.alarm is None
                and at + after <= loop.time()
                and late < rest + 1e-3
                and all(at <= other for other, _ in wanted.values())
            )

        alarms = Alarms[LiveJob](Timers(loop), loop.time, reached, after=after, rest=rest)
        jobs = [LiveJob(id=str(number)) for number in range(41)]
        for step, number, much in steps:
            job = jobs[number]
            if step == "set":
                wanted[job] = loop.time() - after + much, loop.time()
                alarms.set(job, wanted[job][0])
            elif step == "drop":
                wanted.pop(job, None)
                alarms.drop(job)
            else:
                await anyio.sleep(much)
            assert {job: at for job, (at, _) in wanted.items()} == {
                job: job.alarm for job in jobs if job.alarm is not None
            }
            assert all(fine)
            assert len(wanted) == len(alarms)
            assert alarms.held <= max(2 * len(wanted) + 1, 101)
        await anyio.sleep(2.0 * _FARTHEST)
        assert all(fine)
        assert (0, 0) == (len(wanted), alarms.held)

    virtual_time(live, time_limit=1e12)
