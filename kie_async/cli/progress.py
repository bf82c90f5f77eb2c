"""Progress: which state each job is in, moving on a terminal and one plain line a change anywhere else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import anyio
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from kie_async.cli.output import Output

__all__ = ["Show", "progress"]

_COLOURS = {
    "generating": "cyan",
    "success": "green",
    "saved": "green",
    "fail": "red",
    "failed": "red",
}


class Show(Protocol):
    """Shows what a job is doing."""

    def __call__(self, job: str, state: str, *, done: bool = False) -> None:
        """
        Show a state, if it is another one than before.

        Args:
            job: What the job is called.

            state: The state; the service's own word where it is the service's.

            done: Whether nothing more will happen to it.
        """
        ...


@contextmanager
def progress(output: Output) -> Generator[Show]:
    """
    Progress for as long as the context is open.

    Args:
        output: Where it is shown, among the messages.
    """
    if not output.live:
        yield _Lines(output)
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", style="bold", markup=False),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output.messages) as display:
        yield _Display(display)


class _Lines:
    """One line for each change, with the seconds since the beginning."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._began_at = anyio.current_time()
        self._states: dict[str, str] = {}

    def __call__(self, job: str, state: str, *, done: bool = False) -> None:  # noqa: ARG002 (a line is never done)
        if self._states.get(job) == state:
            return
        self._states[job] = state
        self._output.say(f"{anyio.current_time() - self._began_at:6.1f} s  {job}: {state}")


class _Display:
    """One row for each job, with a spinner and a clock."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._rows: dict[str, TaskID] = {}

    def __call__(self, job: str, state: str, *, done: bool = False) -> None:
        if job not in self._rows:
            self._rows[job] = self._display.add_task(job, total=1, state="")
        colour = _COLOURS.get(state.partition(" ")[0])
        shown = escape(state)
        self._display.update(
            self._rows[job], state=f"[{colour}]{shown}[/]" if colour else shown, completed=1 if done else 0
        )
