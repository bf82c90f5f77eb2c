"""The progress of a run on a terminal."""

from __future__ import annotations

import io
import re
from contextlib import AsyncExitStack

import anyio

from kie_async import Event, EventName, KieClient, RunSummary
from kie_async.cli.batch.manifest import EntryState
from kie_async.cli.batch.progress import BatchJobs, ProgressDisplay, time_left
from kie_async.cli.output import Output
from kie_async.testing import FakeKie
from tests.cli.batch.helpers import make_entry


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


async def test_terminal_shows_two_live_lines() -> None:
    """The lines show rate, tasks in flight, outcomes and credits, and are updated during the run."""
    terminal = Terminal()
    output = Output(out=io.StringIO(), err=terminal)
    jobs = BatchJobs(warn=output.warn, command="again", window=10.0)
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(FakeKie())
        kie = await stack.enter_async_context(KieClient("any-key", base_url=fake.url))
        run = await stack.enter_async_context(kie.map([]))
        display = ProgressDisplay(output=output, total=1200, jobs=jobs)
        with display.live_lines():
            async with anyio.create_task_group() as group:
                group.start_soon(display.update_live_lines, kie, run)
                await anyio.sleep(1.0)
                display.print_outcome(make_entry(1), replayed=False)
                display.print_outcome(make_entry(2, EntryState.FAILED), replayed=False)
                group.cancel_scope.cancel()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())

    assert "0 of 20 in 10 s · 0 in flight · 0 done · 0 failed · 0 in doubt · 0 credits" in shown
    assert "0 of 1,200" in shown
    assert ": failed: It is failed, for a reason." in shown
    assert "done (" not in shown, "finished rows only update the live lines"


async def test_outcomes_are_printed_in_a_pipe() -> None:
    stream = io.StringIO()
    output = Output(out=io.StringIO(), err=stream)
    display = ProgressDisplay(output=output, total=3, jobs=BatchJobs(warn=output.warn, command="again", window=10.0))
    with display.live_lines():
        for state in EntryState:
            display.print_outcome(make_entry(1, state), replayed=False)
        display.print_outcome(make_entry(1), replayed=True)
    lines = stream.getvalue().splitlines()

    assert len(EntryState) == len(lines)
    assert re.fullmatch(r" *0\.0 s  1/3  cat-[0-9a-f]+: done \(40 credits, \d+\.0 s at the service\)", lines[0])


def test_time_left_follows_pace_and_limit() -> None:
    """The estimate is the pace so far, never above the limit, plus the duration of the last task."""
    begun = RunSummary(limit=20, window=10.0, seconds=5.0)
    fast = RunSummary(ok=10, created=100, p50=60.0, limit=20, window=10.0, seconds=1.0)
    slow = RunSummary(ok=10, created=100, p50=60.0, limit=20, window=10.0, seconds=1000.0)

    assert [None, "1:30", "11:00", "2:45:50"] == [
        time_left(begun, 100, 0),
        time_left(fast, 100, 30),
        time_left(slow, 100, 30),
        time_left(slow, 1011, 12),
    ]


async def test_creates_are_counted_per_window() -> None:
    printed: list[str] = []
    jobs = BatchJobs(warn=printed.append, command="kie-async batch shots.csv --out out", window=10.0)
    for _ in range(3):
        jobs.observe_event(Event(name=EventName.SUBMITTED))
        await anyio.sleep(4.0)
    for name in (EventName.RATE_LIMITED, EventName.RATE_LIMITED, EventName.AMBIGUOUS, EventName.AMBIGUOUS):
        jobs.observe_event(Event(name=name, job_id="kj_1"))

    assert (2, 3) == (jobs.creates_in_window(), len(printed))
    assert (False, False) == (jobs.may_be_paid, jobs.resumable)
    jobs.mark_in_doubt("kj_1", ambiguous=False)
    jobs.unfinished_rows = 1
    assert (True, True) == (jobs.may_be_paid, jobs.resumable)
    assert jobs.resume_hint().endswith("To resume: kie-async batch shots.csv --out out")
