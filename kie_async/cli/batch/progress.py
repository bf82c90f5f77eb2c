"""The progress of a run: two lines that move on a terminal, and one plain line an outcome anywhere else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import attrs
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kie_async.cli.batch.entry import Entry, State
from kie_async.cli.batch.following import Following
from kie_async.cli.output import Output

if TYPE_CHECKING:
    from kie_async import KieClient, Run, RunSummary

__all__ = ["Board", "time_left"]

#: How often the lines move, in seconds.
_EVERY = 0.25


@attrs.define(kw_only=True)
class Board:
    """
    What is shown of a run.

    Args:
        output: Where.

        total: How many rows the table has.

        following: What is known of the jobs.

    Attributes:
        count: How many rows have ended.
    """

    output: Output
    total: int
    following: Following
    count: int = attrs.field(default=0, init=False)
    _live: Live | None = attrs.field(default=None, init=False)
    _began_at: float = attrs.field(factory=anyio.current_time, init=False)

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show it for as long as the context is open."""
        if not self.output.interactive:
            yield
            return
        with Live(console=self.output.messages, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    async def move(self, kie: KieClient, run: Run) -> None:
        """Keep the figures of a terminal true, until it is cancelled; elsewhere, nothing moves."""
        while self._live is not None:
            self._live.update(self._lines(run.summary(), kie.statistics().in_flight), refresh=True)
            await anyio.sleep(_EVERY)

    def ended(self, entry: Entry, *, replayed: bool) -> None:
        """
        Tell what became of a row; of one that is done, only where nothing moves, and only once.

        Args:
            entry: It.

            replayed: Whether an earlier run has told it.
        """
        self.count += 1
        if replayed and entry.state == State.DONE:
            return
        told = {
            State.DONE: f"done{_figures(entry)}",
            State.FAILED: f"failed: {entry.reason}",
            State.RUNNING: f"not ended: {entry.reason}",
            State.IN_DOUBT: f"in doubt: {entry.reason} {entry.command}",
            State.SKIPPED: f"not sent: {entry.reason}",
        }[State(entry.state)]
        told = " ".join(told.split())  # a line is a line, whatever the service says
        if self._live is not None:
            if entry.state != State.DONE:
                self.output.info(f"{entry.key}: {told}")
            return
        seconds = anyio.current_time() - self._began_at
        self.output.info(f"{seconds:6.1f} s  {self.count}/{self.total}  {entry.key}: {told}")

    def _lines(self, summary: RunSummary, in_flight: int) -> Group:
        first = Table.grid(padding=(0, 1), expand=True)
        first.add_column(ratio=1)
        first.add_column(justify="right", no_wrap=True)
        left = time_left(summary, self.total, in_flight)
        told = f"{summary.rows:,} of {self.total:,}" + ("" if left is None else f", {left} left")
        first.add_row(ProgressBar(total=max(self.total, 1), completed=summary.rows), told)
        parts = [
            (f"{self.following.created_lately()} of {summary.limit} in {summary.window:g} s", ""),
            (f"{in_flight} in flight", ""),
            (f"{summary.ok:,} done", "green"),
            (f"{summary.failed:,} failed", "red" if summary.failed else "bright_black"),
            (f"{summary.in_doubt:,} in doubt", "yellow" if summary.in_doubt else "bright_black"),
            *([(f"{summary.skipped:,} not sent", "bright_black")] if summary.skipped else []),
            (f"{summary.credits + summary.credits_replayed:,g} credits", ""),
        ]
        second = Text(" · ").join(Text(text, style) for text, style in parts)
        return Group(first, second)


def _figures(entry: Entry) -> str:
    known = [
        *([] if entry.credits is None else [f"{entry.credits:g} credits"]),
        *([] if entry.seconds is None else [f"{entry.seconds:.1f} s at the service"]),
    ]
    return f" ({', '.join(known)})" if known else ""


def time_left(summary: RunSummary, total: int, in_flight: int) -> str | None:
    """
    How long the rest will take if it goes on like this; None while nobody can tell.

    Args:
        summary: The figures so far.

        total: How many rows there are.

        in_flight: How many tasks are running.

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
