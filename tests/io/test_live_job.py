"""Test the waiters of a live job: what wakes them, and that cancelled waits leave nothing behind."""

from __future__ import annotations

import asyncio
import random

import anyio

from kie_async import TransportError
from kie_async._io.jobs.live_job import LiveJob, Submission
from kie_async.states import JobState
from tests.io.intents import make_intent


def make_job(state: JobState) -> LiveJob:
    job = LiveJob.from_row(make_intent(1, state=state))
    job.submission = Submission() if state in (JobState.INTENT, JobState.SENDING) else None
    return job


async def wait_for_end(job: LiveJob, woken: list[str]) -> None:
    waiter = job.add_waiter()
    try:
        await waiter
    finally:
        job.remove_waiter(waiter)
    woken.append("end")


async def wait_for_change(job: LiveJob, woken: list[str]) -> None:
    await job.wait_for_change()
    woken.append("change")


def waiter_counts(job: LiveJob) -> tuple[int, int, int]:
    """Return the number of waiters and of the futures of each kind."""
    return job.waiters, len(job._change_waiters), len(job._end_waiters)  # noqa: SLF001 (what must not grow)


async def test_end_waiters_sleep_while_the_job_proceeds() -> None:
    """From the request to the accepted task nothing wakes a wait for the end."""
    job, woken = make_job(JobState.INTENT), list[str]()
    async with anyio.create_task_group() as group:
        group.start_soon(wait_for_end, job, woken)
        for state in (JobState.SENDING, JobState.SUBMITTED):
            group.start_soon(wait_for_change, job, woken)
            await anyio.sleep(1.0)
            job.row, job.submission = make_intent(1, state=state), Submission() if state is JobState.SENDING else None
            job.wake_waiters()
            await anyio.sleep(1.0)
        assert ["change", "change"] == woken
        job.row = make_intent(1, state=JobState.STALLED)
        job.wake_waiters()

    assert ["change", "change", "end"] == woken
    assert 0 == job.waiters


async def test_end_waiters_wake_for_every_reason() -> None:
    def set_wait_error(job: LiveJob) -> None:
        job.wait_error = TransportError("The client is closed.")

    def set_successor(job: LiveJob) -> None:
        job.successor = make_job(JobState.SUBMITTED)

    def ended(job: LiveJob) -> None:
        job.row = make_intent(1, state=JobState.SUCCEEDED)

    def become_in_doubt(job: LiveJob) -> None:
        job.row = make_intent(1, state=JobState.IN_DOUBT)

    def lose_submission(job: LiveJob) -> None:
        job.row, job.submission = make_intent(1, state=JobState.INTENT), None

    for happens in (set_wait_error, set_successor, ended, become_in_doubt, lose_submission):
        job, woken = make_job(JobState.SENDING), list[str]()
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_end, job, woken)
            await anyio.sleep(1.0)
            happens(job)
            job.wake_waiters()
        assert ["end"] == woken


async def test_cancelled_waits_leave_nothing_behind() -> None:
    """A caller may wait with a timeout repeatedly while others wait for the same job."""
    job, woken = make_job(JobState.SUBMITTED), list[str]()
    async with anyio.create_task_group() as group:
        for wait in (wait_for_end, wait_for_change):
            group.start_soon(wait, job, woken)
            for _ in range(100):
                with anyio.move_on_after(1.0):
                    await wait(job, woken)
        assert (2, 1, 1) == waiter_counts(job)
        job.row = make_intent(1, state=JobState.FAILED)
        job.wake_waiters()

    assert ["change", "end"] == sorted(woken)
    assert (0, 0, 0) == waiter_counts(job)


async def test_waiter_cancelled_while_woken_is_removed() -> None:
    job = make_job(JobState.SUBMITTED)
    tasks = [asyncio.create_task(wait_for_change(job, [])), asyncio.create_task(wait_for_change(job, []))]
    await anyio.sleep(1.0)
    tasks[0].cancel()
    job.wake_waiters()
    await asyncio.wait(tasks)

    assert [True, False] == [task.cancelled() for task in tasks]
    assert (0, 0, 0) == waiter_counts(job)


async def test_remaining_waiters_are_woken_once() -> None:
    rng = random.Random(0)
    for _ in range(50):
        job, woken = make_job(JobState.SUBMITTED), list[str]()
        staying: list[asyncio.Task[None]] = []
        for _ in range(rng.randrange(12)):
            if staying and rng.random() < 0.5:
                leaving = staying.pop(rng.randrange(len(staying)))
                leaving.cancel()
                await asyncio.wait([leaving])
            else:
                staying.append(asyncio.create_task(rng.choice((wait_for_end, wait_for_change))(job, woken)))
                await asyncio.sleep(0)
            assert len(staying) == job.waiters == sum(waiter_counts(job)[1:])
        job.row = make_intent(1, state=JobState.FAILED)
        job.wake_waiters()
        if staying:
            await asyncio.wait(staying)

        assert len(staying) == len(woken)
        assert (0, 0, 0) == waiter_counts(job)
