"""Who waits for a job: woken by what concerns them, and nothing is left of those who leave."""

from __future__ import annotations

import asyncio
import random

import anyio

from kie_async import TransportError
from kie_async._io.jobs.live_job import LiveJob, Submission
from kie_async.states import JobState
from tests.io.intents import make_intent


def a_job(state: JobState) -> LiveJob:
    job = LiveJob.from_row(make_intent(1, state=state))
    job.submission = Submission() if state in (JobState.INTENT, JobState.SENDING) else None
    return job


async def told_of(job: LiveJob, told: list[str]) -> None:
    waiter = job.add_waiter()
    try:
        await waiter
    finally:
        job.remove_waiter(waiter)
    told.append("news")


async def told_of_any_change(job: LiveJob, told: list[str]) -> None:
    await job.wait_for_change()
    told.append("change")


def held(job: LiveJob) -> tuple[int, int, int]:
    """The waiters, and what is held for them."""
    return job.waiters, len(job._change_waiters), len(job._end_waiters)  # noqa: SLF001 (what must not grow)


async def test_news_is_what_takes_a_job_from_its_course() -> None:
    """From the wish to the task all goes as it should; a hundred thousand waiters need not be woken to hear that."""
    job, told = a_job(JobState.INTENT), list[str]()
    async with anyio.create_task_group() as group:
        group.start_soon(told_of, job, told)
        for state in (JobState.SENDING, JobState.SUBMITTED):
            group.start_soon(told_of_any_change, job, told)
            await anyio.sleep(1.0)
            job.row, job.submission = make_intent(1, state=state), Submission() if state is JobState.SENDING else None
            job.wake_waiters()
            await anyio.sleep(1.0)
        assert ["change", "change"] == told
        job.row = make_intent(1, state=JobState.STALLED)
        job.wake_waiters()

    assert ["change", "change", "news"] == told
    assert 0 == job.waiters


async def test_each_thing_that_ends_a_wait_or_fails_it_is_news() -> None:
    def troubled(job: LiveJob) -> None:
        job.wait_error = TransportError("The client is closed.")

    def succeeded(job: LiveJob) -> None:
        job.successor = a_job(JobState.SUBMITTED)

    def ended(job: LiveJob) -> None:
        job.row = make_intent(1, state=JobState.SUCCEEDED)

    def in_doubt(job: LiveJob) -> None:
        job.row = make_intent(1, state=JobState.IN_DOUBT)

    def left_alone(job: LiveJob) -> None:
        job.row, job.submission = make_intent(1, state=JobState.INTENT), None

    for happens in (troubled, succeeded, ended, in_doubt, left_alone):
        job, told = a_job(JobState.SENDING), list[str]()
        async with anyio.create_task_group() as group:
            group.start_soon(told_of, job, told)
            await anyio.sleep(1.0)
            happens(job)
            job.wake_waiters()
        assert ["news"] == told


async def test_waits_that_are_left_leave_nothing_behind_and_disturb_nobody() -> None:
    """A caller may wait with a time-out again and again, while others wait for the same job."""
    job, told = a_job(JobState.SUBMITTED), list[str]()
    async with anyio.create_task_group() as group:
        for wait in (told_of, told_of_any_change):
            group.start_soon(wait, job, told)
            for _ in range(100):
                with anyio.move_on_after(1.0):
                    await wait(job, told)
        assert (2, 1, 1) == held(job)
        job.row = make_intent(1, state=JobState.FAILED)
        job.wake_waiters()

    assert ["change", "news"] == sorted(told)
    assert (0, 0, 0) == held(job)


async def test_a_waiter_that_is_cancelled_as_it_is_woken_has_left() -> None:
    job = a_job(JobState.SUBMITTED)
    tasks = [asyncio.create_task(told_of_any_change(job, [])), asyncio.create_task(told_of_any_change(job, []))]
    await anyio.sleep(1.0)
    tasks[0].cancel()
    job.wake_waiters()
    await asyncio.wait(tasks)

    assert [True, False] == [task.cancelled() for task in tasks]
    assert (0, 0, 0) == held(job)


async def test_however_waiters_come_and_leave_those_that_stay_are_woken_once_and_all() -> None:
    rng = random.Random(0)
    for _ in range(50):
        job, told = a_job(JobState.SUBMITTED), list[str]()
        staying: list[asyncio.Task[None]] = []
        for _ in range(rng.randrange(12)):
            if staying and rng.random() < 0.5:
                leaving = staying.pop(rng.randrange(len(staying)))
                leaving.cancel()
                await asyncio.wait([leaving])
            else:
                staying.append(asyncio.create_task(rng.choice((told_of, told_of_any_change))(job, told)))
                await asyncio.sleep(0)
            assert len(staying) == job.waiters == sum(held(job)[1:])
        job.row = make_intent(1, state=JobState.FAILED)
        job.wake_waiters()
        if staying:
            await asyncio.wait(staying)

        assert len(staying) == len(told)
        assert (0, 0, 0) == held(job)
