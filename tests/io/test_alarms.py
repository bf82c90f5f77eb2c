"""Deadlines of running jobs: each at its instant, none for a job that has ended, one entry of the agenda for all."""

from __future__ import annotations

import asyncio
import random

import anyio

from kie_async._io.agenda import Agenda
from kie_async._io.alarms import Alarms
from kie_async._io.live import LiveJob


class World:
    """Deadlines, and what they have called, with the instants."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.agenda = Agenda(loop)
        self.called: list[tuple[str, float]] = []
        self.deadlines = Alarms[LiveJob](self.agenda, loop.time, lambda job: self.called.append((job.id, loop.time())))

    def job(self, name: str, at: float) -> LiveJob:
        job = LiveJob(id=name)
        self.deadlines.set(job, at)
        return job


async def test_each_job_is_called_once_at_its_deadline() -> None:
    world = World()
    for name, at in (("c", 3.0), ("a", 1.0), ("b", 1.0), ("past", -1.0)):
        world.job(name, at)
    await anyio.sleep(10.0)

    assert ["past", "a", "b", "c"] == [name for name, _ in world.called]
    assert [0.0, 1.0, 1.0, 3.0] == [round(at, 3) for _, at in world.called]
    assert (0, 0) == (len(world.deadlines), len(world.agenda))


async def test_what_was_dropped_is_not_called_and_what_was_set_anew_is_called_then() -> None:
    """Whichever it was: the first of the heap, the last, or one that was dropped before."""
    world = World()
    jobs = [world.job(name, float(place)) for place, name in enumerate("abcd", 1)]
    for job in (jobs[0], jobs[3], jobs[0]):
        world.deadlines.drop(job)
    world.deadlines.set(jobs[2], 5.0)
    world.deadlines.set(jobs[3], 0.5)
    assert 3 == len(world.deadlines)
    await anyio.sleep(10.0)

    assert [("d", 0.5), ("b", 2.0), ("c", 5.0)] == [(name, round(at, 3)) for name, at in world.called]


async def test_jobs_that_come_and_go_leave_nothing_behind() -> None:
    """A deadline is an hour away; what has ended long before must not be held until then."""
    rng = random.Random(0)
    world = World()
    alive: dict[str, LiveJob] = {}
    due: dict[str, float] = {}
    for number in range(5_000):
        name, at = str(number), 3600.0 + rng.random()
        alive[name], due[name] = world.job(name, at), at
        if len(alive) > 200:
            ended = rng.choice(list(alive))
            world.deadlines.drop(alive.pop(ended))
            del due[ended]
        assert len(world.deadlines) == len(alive)
        assert 1 == len(world.agenda)
        assert len(world.deadlines._heap) <= 2 * len(alive) + 1  # noqa: SLF001 (what must not grow)
    await anyio.sleep(4000.0)

    assert sorted(due, key=lambda name: due[name]) == [name for name, _ in world.called]
    assert all(0.0 <= at - due[name] < 1e-3 for name, at in world.called)


async def test_without_jobs_there_is_no_timer() -> None:
    world = World()
    world.deadlines.drop(world.job("a", 3600.0))

    assert 0 == len(world.agenda)
