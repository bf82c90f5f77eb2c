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
from tests.cli.batch.folder import shot


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


async def test_two_lines_say_how_it_goes() -> None:
    """The rate against the limit, tasks in flight, what has ended and how, credits; they move while the run goes on."""
    terminal = Terminal()
    output = Output(out=io.StringIO(), err=terminal)
    following = BatchJobs(warn=output.warn, command="again", window=10.0)
    async with AsyncExitStack() as stack:
        fake = await stack.enter_async_context(FakeKie())
        kie = await stack.enter_async_context(KieClient("any-key", base_url=fake.url))
        run = await stack.enter_async_context(kie.map([]))
        display = ProgressDisplay(output=output, total=1200, jobs=following)
        with display.live_lines():
            async with anyio.create_task_group() as group:
                group.start_soon(display.update_live_lines, kie, run)
                await anyio.sleep(1.0)
                display.print_outcome(shot(1), replayed=False)
                display.print_outcome(shot(2, EntryState.FAILED), replayed=False)
                group.cancel_scope.cancel()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())

    assert "0 of 20 in 10 s · 0 in flight · 0 done · 0 failed · 0 in doubt · 0 credits" in shown
    assert "0 of 1,200" in shown
    assert ": failed: It is failed, for a reason." in shown
    assert "done (" not in shown, "what is done moves the lines, and needs none of its own"


async def test_a_pipe_gets_a_line_for_each_row() -> None:
    stream = io.StringIO()
    output = Output(out=io.StringIO(), err=stream)
    display = ProgressDisplay(output=output, total=3, jobs=BatchJobs(warn=output.warn, command="again", window=10.0))
    with display.live_lines():
        for state in EntryState:
            display.print_outcome(shot(1, state), replayed=False)
        display.print_outcome(shot(1), replayed=True)
    lines = stream.getvalue().splitlines()

    assert len(EntryState) == len(lines)
    assert re.fullmatch(r" *0\.0 s  1/3  cat-[0-9a-f]+: done \(40 credits, \d+\.0 s at the service\)", lines[0])


def test_the_time_that_is_left_is_told_when_it_can_be() -> None:
    """By the pace so far, and never faster than the limit; then the last one takes its time."""
    begun = RunSummary(limit=20, window=10.0, seconds=5.0)
    fast = RunSummary(ok=10, created=100, p50=60.0, limit=20, window=10.0, seconds=1.0)
    slow = RunSummary(ok=10, created=100, p50=60.0, limit=20, window=10.0, seconds=1000.0)

    assert [None, "1:30", "11:00", "2:45:50"] == [
        time_left(begun, 100, 0),
        time_left(fast, 100, 30),
        time_left(slow, 100, 30),
        time_left(slow, 1011, 12),
    ]


async def test_creates_are_counted_within_the_window() -> None:
    told: list[str] = []
    following = BatchJobs(warn=told.append, command="kie-async batch shots.csv --out out", window=10.0)
    for _ in range(3):
        following.observe_event(Event(name=EventName.SUBMITTED))
        await anyio.sleep(4.0)
    for name in (EventName.RATE_LIMITED, EventName.RATE_LIMITED, EventName.AMBIGUOUS, EventName.AMBIGUOUS):
        following.observe_event(Event(name=name, job_id="kj_1"))

    assert (2, 3) == (following.creates_in_window(), len(told))
    assert (False, False) == (following.may_be_paid, following.resumable)
    following.mark_in_doubt("kj_1", ambiguous=False)
    following.unfinished_rows = 1
    assert (True, True) == (following.may_be_paid, following.resumable)
    assert following.resume_hint().endswith("To resume: kie-async batch shots.csv --out out")
