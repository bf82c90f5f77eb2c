"""A deadline queue: each object is passed on once, at its deadline and in order, with one timer for all."""

from __future__ import annotations

import asyncio
import random

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async._io.jobs.live_job import LiveJob
from kie_async._io.timers import DeadlineQueue, Timers
from kie_async.testing import virtual_time
from tests.profile import examples


class Setup:
    """A deadline queue that records what is due, with the instants."""

    def __init__(self, min_interval: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self.timers = Timers(loop)
        self.calls: list[tuple[str, float]] = []
        self.queue = DeadlineQueue[LiveJob](
            self.timers, lambda job: self.calls.append((job.id, loop.time())), min_interval=min_interval
        )

    def add(self, name: str, at: float) -> LiveJob:
        job = LiveJob(id=name)
        self.queue.set(job, at)
        return job


async def test_each_job_is_due_once_at_its_deadline() -> None:
    setup = Setup()
    for name, at in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("past", -1.0)):
        setup.add(name, at)
    await anyio.sleep(10.0)

    assert ["past", "a", "b", "c"] == [name for name, _ in setup.calls]
    assert [0.0, 1.0, 2.0, 3.0] == [round(at, 3) for _, at in setup.calls]
    assert (0, 0) == (len(setup.queue), len(setup.timers))


async def test_discarded_and_rescheduled_jobs() -> None:
    """Discard the first, the last, and one that was discarded before."""
    setup = Setup()
    jobs = [setup.add(name, float(place)) for place, name in enumerate("abcd", 1)]
    for job in (jobs[0], jobs[3], jobs[0]):
        setup.queue.discard(job)
    setup.queue.set(jobs[2], 5.0)
    setup.queue.set(jobs[3], 0.5)
    assert 3 == len(setup.queue)
    await anyio.sleep(10.0)

    assert [("d", 0.5), ("b", 2.0), ("c", 5.0)] == [(name, round(at, 3)) for name, at in setup.calls]


async def test_equal_deadlines_are_due_first_come_first_served() -> None:
    """Discarding one of several with the same deadline removes that one."""
    setup = Setup()
    jobs = [setup.add(name, at) for name, at in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 5.0))]
    setup.queue.discard(jobs[1])
    await anyio.sleep(2.0)

    assert 1 == len(setup.queue)
    assert ["a", "c"] == [name for name, _ in setup.calls]


async def test_discarded_jobs_leave_nothing_behind() -> None:
    """A deadline is an hour away; a job that has ended must not be held until then."""
    rng = random.Random(0)
    setup = Setup()
    alive: dict[str, LiveJob] = {}
    due: dict[str, float] = {}
    for number in range(5_000):
        name, at = str(number), 3600.0 + rng.random()
        alive[name], due[name] = setup.add(name, at), at
        if len(alive) > 200:
            ended = rng.choice(list(alive))
            setup.queue.discard(alive.pop(ended))
            del due[ended]
        assert len(setup.queue) == len(alive)
        assert 1 == len(setup.timers)
    await anyio.sleep(4000.0)

    assert sorted(due, key=lambda name: due[name]) == [name for name, _ in setup.calls]
    assert all(0.0 <= at - due[name] < 1e-3 for name, at in setup.calls)


async def test_an_empty_queue_has_no_timer() -> None:
    setup = Setup()
    setup.queue.discard(setup.add("a", 3600.0))

    assert 0 == len(setup.timers)


async def test_deadlines_within_the_interval_are_batched() -> None:
    setup = Setup(min_interval=1.0)
    for name, at in (("b", 2.0), ("e", 3.5), ("c", 2.5), ("a", -1.0), ("d", 3.0), ("f", 9.0)):
        setup.add(name, at)
    await anyio.sleep(10.0)

    calls = [(name, round(at, 3)) for name, at in setup.calls]
    assert [("a", 0.0), ("b", 2.0), ("c", 3.0), ("d", 3.0), ("e", 4.0), ("f", 9.0)] == calls


async def test_on_due_may_discard_and_schedule() -> None:
    """A job that is due may reschedule itself and others; those that are past are due in the same turn."""
    loop = asyncio.get_running_loop()
    calls: list[tuple[str, float]] = []

    def on_due(job: LiveJob) -> None:
        calls.append((job.id, round(loop.time(), 3)))
        if len(calls) == 1:
            for other in others[:-1]:
                queue.discard(other)
            queue.set(others[0], loop.time() - 1.0)
            queue.set(others[1], 4.0)
            queue.set(job, 6.0)

    queue = DeadlineQueue[LiveJob](Timers(loop), on_due)
    first, others = LiveJob(id="first"), [LiveJob(id=str(number)) for number in range(200)]
    queue.set(first, 1.0)
    for other in others:
        queue.set(other, 5.0)
    await anyio.sleep(2.0)
    assert 3 == len(queue)
    await anyio.sleep(8.0)

    assert [("first", 1.0), ("0", 1.0), ("1", 4.0), ("199", 5.0), ("first", 6.0)] == calls


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
        st.tuples(st.just("discard"), st.integers(0, 40), st.just(0.0)),
        st.tuples(st.just("sleep"), st.just(0), st.one_of(st.floats(0.0, 1.0), st.floats(0.0, 1e5))),
    ),
    max_size=150,
)


@settings(max_examples=examples(60), deadline=None)
@given(steps=_STEPS, min_interval=st.sampled_from([0.0, 0.5]))
def test_any_sequence_is_due_once_in_order_and_on_time(
    steps: list[tuple[str, int, float]], min_interval: float
) -> None:
    async def run_steps() -> None:
        loop = asyncio.get_running_loop()
        expected: dict[LiveJob, tuple[float, float]] = {}
        correct: list[bool] = []

        def on_due(job: LiveJob) -> None:
            at, set_at = expected.pop(job)
            late = loop.time() - max(at, set_at)
            correct.append(
                job.due_at is None
                and at <= loop.time()
                and late < min_interval + 1e-3
                and all(at <= other for other, _ in expected.values())
            )

        queue = DeadlineQueue[LiveJob](Timers(loop), on_due, min_interval=min_interval)
        jobs = [LiveJob(id=str(number)) for number in range(41)]
        for step, number, seconds in steps:
            job = jobs[number]
            if step == "set":
                expected[job] = loop.time() + seconds, loop.time()
                queue.set(job, expected[job][0])
            elif step == "discard":
                expected.pop(job, None)
                queue.discard(job)
            else:
                await anyio.sleep(seconds)
            assert {job: at for job, (at, _) in expected.items()} == {
                job: job.due_at for job in jobs if job.due_at is not None
            }
            assert all(correct)
            assert len(expected) == len(queue)
        await anyio.sleep(2.0 * _FARTHEST)
        assert all(correct)
        assert (0, 0) == (len(expected), len(queue))

    virtual_time(run_steps, time_limit=1e12)
