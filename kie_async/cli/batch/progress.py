"""Show the progress of a run: two live lines on a terminal, one plain line per outcome elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kie_async import Event, EventName, TaskState
from kie_async.cli.batch.manifest import EntryState, ManifestEntry
from kie_async.cli.output import Output
from kie_async.cli.resume_info import EVENT_MESSAGES, ResumeInfo

if TYPE_CHECKING:
    from kie_async import KieClient, Run, RunSummary

__all__ = ["BatchJobs", "ProgressDisplay", "time_left"]

#: The interval between two updates of the live lines, in seconds.
_REFRESH_INTERVAL = 0.25
#: Events that are printed for each job; any other event concerns the whole run and is printed once.
_EVENTS_PER_JOB = (EventName.AMBIGUOUS, EventName.DUPLICATE)


@attrs.define(kw_only=True)
class BatchJobs(ResumeInfo):
    """
    The jobs of a run, as far as events report them.

    Args:
        warn: Prints a warning to the user.

        command: The command that resumes the run.

        window: The length of the limit's window, in seconds.

    Attributes:
        unfinished_rows: The number of rows that were read and have no outcome.
    """

    warn: Callable[[str], None]
    command: str
    window: float
    unfinished_rows: int = 0
    _printed: set[EventName] = attrs.field(factory=set, init=False)
    _create_times: deque[float] = attrs.field(factory=deque, init=False)
    _succeeded: set[str] = attrs.field(factory=set, init=False)

    def observe_event(self, event: Event) -> None:
        """Record an event of the client."""
        if event.name is EventName.SUBMITTED:
            self._create_times.append(anyio.current_time())
            self.creates_in_window()  # drops older times
        if event.name is EventName.IN_DOUBT:
            self.in_doubt = True
        if event.name is EventName.ENDED and event.detail.get("state") == TaskState.SUCCESS:
            self._succeeded.add(event.job_id or "")
        if (text := EVENT_MESSAGES.get(event.name)) is not None:
            if event.name in _EVENTS_PER_JOB or event.name not in self._printed:
                self.warn(f"{event.job_id}: {text}")
            self._printed.add(event.name)

    def record_outcome_of(self, job_id: str | None) -> None:
        """Record that the row of a job has its outcome."""
        self._succeeded.discard(job_id or "")

    @property
    def unsaved_job_ids(self) -> Collection[str]:
        """The jobs that have succeeded and whose rows have no outcome yet: their files are being saved."""
        return tuple(self._succeeded)

    @property
    def resumable(self) -> bool:
        """True if any row has no outcome yet."""
        return self.unfinished_rows > 0

    def creates_in_window(self) -> int:
        """Return the number of tasks created in the window that ends now."""
        window_start = anyio.current_time() - self.window
        while self._create_times and self._create_times[0] <= window_start:
            self._create_times.popleft()
        return len(self._create_times)

    def resume_hint(self) -> str:
        """Return a sentence on how to resume the run."""
        return f"Nothing is lost, and nothing is paid twice. To resume: {self.command}"


@attrs.define(kw_only=True)
class ProgressDisplay:
    """
    The progress of a run on standard error.

    Args:
        output: The output.

        total: The number of rows in the table.

        jobs: The jobs of the run.

    Attributes:
        count: The number of rows that have an outcome.
    """

    output: Output
    total: int
    jobs: BatchJobs
    count: int = attrs.field(default=0, init=False)
    _live: Live | None = attrs.field(default=None, init=False)
    _started_at: float = attrs.field(factory=anyio.current_time, init=False)

    @contextmanager
    def live_lines(self) -> Generator[None]:
        """Show the live lines while the context is open, if standard error is a terminal."""
        if not self.output.interactive:
            yield
            return
        with Live(console=self.output.messages, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    async def update_live_lines(self, kie: KieClient, run: Run) -> None:
        """Update the live lines until cancelled; return at once if there are none."""
        while self._live is not None:
            self._live.update(self._render(run.summary(), kie.statistics().in_flight), refresh=True)
            await anyio.sleep(_REFRESH_INTERVAL)

    def print_outcome(self, entry: ManifestEntry, *, replayed: bool) -> None:
        """
        Count a row and print its outcome; rows that are done are not printed beside live lines.

        Args:
            entry: The outcome.

            replayed: True if an earlier run has printed it; it is then printed only if the row is not done.
        """
        self.count += 1
        if entry.state == EntryState.DONE and (replayed or self._live is not None):
            return
        text = {
            EntryState.DONE: f"done{_figures(entry)} {entry.reason or ''}",
            EntryState.FAILED: f"failed: {entry.reason}",
            EntryState.RUNNING: f"not ended: {entry.reason}",
            EntryState.IN_DOUBT: f"in doubt: {entry.reason} {entry.command}",
            EntryState.SKIPPED: f"not sent: {entry.reason}",
        }[EntryState(entry.state)]
        text = f"{entry.key}: {' '.join(text.split())}"  # one line, even if the service's text has several
        if self._live is None:
            text = f"{anyio.current_time() - self._started_at:6.1f} s  {self.count}/{self.total}  {text}"
        self.output.info(text)

    def _render(self, summary: RunSummary, in_flight: int) -> Group:
        bar_line = Table.grid(padding=(0, 1), expand=True)
        bar_line.add_column(ratio=1)
        bar_line.add_column(justify="right", no_wrap=True)
        left = time_left(summary, self.total, in_flight)
        text = f"{summary.rows:,} of {self.total:,}" + ("" if left is None else f", {left} left")
        bar_line.add_row(ProgressBar(total=max(self.total, 1), completed=summary.rows), text)
        parts = [
            (f"{self.jobs.creates_in_window()} of {summary.limit} in {summary.window:g} s", ""),
            (f"{in_flight} in flight", ""),
            (f"{summary.ok:,} done", "green"),
            (f"{summary.failed:,} failed", "red" if summary.failed else "bright_black"),
            (f"{summary.in_doubt:,} in doubt", "yellow" if summary.in_doubt else "bright_black"),
            *([(f"{summary.skipped:,} not sent", "bright_black")] if summary.skipped else []),
            (f"{summary.credits + summary.credits_replayed:,g} credits", ""),
        ]
        return Group(bar_line, Text(" · ").join(Text(part, style) for part, style in parts))


def _figures(entry: ManifestEntry) -> str:
    figures = (("{:g} credits", entry.credits), ("{:.1f} s at the service", entry.seconds))
    known = [text.format(value) for text, value in figures if value is not None]
    return f" ({', '.join(known)})" if known else ""


def time_left(summary: RunSummary, total: int, in_flight: int) -> str | None:
    """
    Estimate the remaining time at the pace so far; return None while it is unknown.

    Args:
        summary: The figures so far.

        total: The number of rows.

        in_flight: The number of running tasks.

    >>> from kie_async import RunSummary
    >>> time_left(RunSummary(ok=10, created=40, p50=60.0, limit=20, window=10.0, seconds=20.0), 200, 30)
    '2:20'
    """
    if summary.p50 is None or summary.created == 0:
        return None
    waiting = max(0, total - summary.rows - in_flight)
    seconds = waiting * max(summary.seconds / summary.created, summary.window / summary.limit) + summary.p50
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
