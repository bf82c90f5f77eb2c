"""The rows of a run on their way: from the table to the client, and from their outcomes to the manifest."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import attrs

from kie_async import (
    JSON,
    ConfigurationError,
    Done,
    DownloadError,
    Failed,
    InDoubt,
    JobInfo,
    KieError,
    Outcome,
    Request,
    Skipped,
    TaskFailedError,
    TaskTimeoutError,
)
from kie_async._urls import looks_like_url
from kie_async.cli.batch.atomic_files import hash_of, kept
from kie_async.cli.batch.entry import Entry, State
from kie_async.cli.batch.manifest import Manifest
from kie_async.cli.batch.options import Commands
from kie_async.cli.batch.remaining import DOUBTED, ENDED_WELL, by_row
from kie_async.cli.batch.shot import Shot
from kie_async.cli.batch.table import Table
from kie_async.cli.exit_codes import ExitCode, exit_code_of

__all__ = ["Record", "exit_for"]

_WHY_SKIPPED = {
    "budget": "The budget has no room for it: nothing was sent. A larger --budget goes on with it.",
    "stop_after": "The time was over: nothing was sent. The same command again goes on with it.",
}
_WHY_RUNNING = "The service is at work on it. The same command again waits for it."
_WHY_UNSAVED = "The service has made it, and it was not fetched yet. The same command again fetches it."
_WHY_DOUBTED = (
    "It was sent, and no answer has told whether it was accepted: it may have been paid, and is not sent again by"
    " itself. Look at kie.ai/logs. If the task is there, `kie-async resolve` takes it; if not, `resubmit` in its place,"
    " with --allow-duplicate, sends it again, and `abandon` gives it up."
)


@attrs.define(kw_only=True)
class Record:
    """
    The rows of a run. Its methods block: they are a matter for a worker thread.

    Args:
        table: Where they come from; it was checked.

        folder: The folder of the results.

        manifest: Where it is written down what became of them.

        commands: What goes on with them.

    Attributes:
        open: The rows that were read and have not ended, by key: the only ones that are held.

        again: The command that goes on with the run as a whole.
    """

    table: Table
    folder: Path
    manifest: Manifest
    commands: Commands
    open: dict[str, Entry] = attrs.field(factory=dict, init=False)
    again: str = attrs.field(default=attrs.Factory(lambda self: self.commands.again, takes_self=True), init=False)

    def requests(self) -> Iterator[tuple[str, Request]]:
        """
        Keys and requests, for ``KieClient.map()``, which reads them as it needs them.

        Raises:
            ConfigurationError: If the table has changed since it was checked, or two rows have one key.

            OSError: If it cannot be read, or an image cannot be kept.
        """
        for shot in self.table.shots():
            if shot.key in self.open:
                msg = (
                    f"{self.table.path}:{shot.line}: the key {shot.key!a} is another row's, too. Give it another; the"
                    " same command again goes on, and pays for nothing twice."
                )
                raise ConfigurationError(msg)
            self.open[shot.key] = self._begun(shot)
            yield shot.key, shot.request

    def _begun(self, shot: Shot) -> Entry:
        return Entry(
            key=shot.key,
            line=shot.line,
            state=State.RUNNING,
            model=shot.request.model,
            input_hash=shot.input_hash,
            input={name: _told(value) for name, value in shot.fields.items()},
            source=None if shot.source is None else str(_told(shot.source)),
            image=None if shot.image is None else kept(self.folder, shot.image),
        )

    def ended(self, outcome: Outcome) -> Entry:
        """
        Write down what became of a row.

        Args:
            outcome: It.

        Raises:
            OSError: If the disk is full, or worse.
        """
        entry = attrs.evolve(
            self.open[outcome.key],
            task_id=outcome.task_id,
            job_id=outcome.job_id,
            credits=outcome.credits,
            seconds=outcome.seconds,
            # Without a task, it is our own clock's time, which is no create of the service's.
            created_at=None if outcome.task_id is None else outcome.created_at,
        )
        match outcome:
            case Done():
                entry = self._done(entry, outcome.files)
            case Failed():
                unfinished = isinstance(outcome.error, TaskTimeoutError) and outcome.task_id is not None
                entry = attrs.evolve(
                    entry,
                    state=State.RUNNING if unfinished else State.FAILED,
                    reason=outcome.error.message,
                    command=self._remedy(outcome.error),
                )
            case InDoubt():
                entry = self._in_doubt(entry)
            case Skipped():
                if outcome.reason == "budget":
                    self.again = self.commands.richer  # the same command would find no more room
                command = self.commands.richer if outcome.reason == "budget" else self.commands.again
                entry = attrs.evolve(entry, state=State.SKIPPED, reason=_WHY_SKIPPED[outcome.reason], command=command)
        self.manifest.record(entry)
        del self.open[outcome.key]
        return entry

    def interrupted(self, summaries: Iterable[JobInfo]) -> int:
        """
        Write down the rows that the run has left behind, where something was sent for them.

        Args:
            summaries: What the journal has unfinished, and what has ended and was not saved.

        Returns:
            How many there are.

        Raises:
            OSError: If the disk is full, or worse.
        """
        left = 0
        for key, summary in by_row(summaries).items():
            if (entry := self.open.get(key)) is None:
                continue
            left += 1
            entry = attrs.evolve(entry, job_id=summary.id, task_id=summary.task_id)
            if summary.state in DOUBTED:
                self.manifest.record(self._in_doubt(entry))
            else:
                reason = _WHY_UNSAVED if summary.state == ENDED_WELL else _WHY_RUNNING
                self.manifest.record(attrs.evolve(entry, reason=reason, command=self.commands.again))
        return left

    def _done(self, entry: Entry, files: Collection[Path]) -> Entry:
        if not files:
            return attrs.evolve(entry, state=State.DONE)
        first, *others = files
        name, size = str(first.relative_to(self.folder)), first.stat().st_size
        before = self.manifest.entry(entry.key)
        # A run that is repeated need not read again what an earlier one has measured.
        known = before if before is not None and (before.file, before.size) == (name, size) else None
        return attrs.evolve(
            entry,
            state=State.DONE,
            file=name,
            sha256=known.sha256 if known is not None and known.sha256 else hash_of(first),
            size=size,
            more={str(file.relative_to(self.folder)): hash_of(file) for file in others},
        )

    def _in_doubt(self, entry: Entry) -> Entry:
        command = f"kie-async resolve{self.commands.journal} {entry.job_id} TASKID"
        return attrs.evolve(entry, state=State.IN_DOUBT, reason=_WHY_DOUBTED, command=command)

    def _remedy(self, error: KieError) -> str | None:
        """What the user may do about a failure, as a line for the shell; None where it is the row that is wrong."""
        match error:
            case TaskFailedError():
                return self.commands.retry if error.worth_retrying else None
            case DownloadError() | TaskTimeoutError():
                return self.commands.again
            case _:
                return self.commands.again if exit_code_of(error) is ExitCode.RETRY_LATER else None


def _told(value: JSON) -> JSON:
    """A value for others to read: of URLs, what may hold a signature or a whole image is left out."""
    match value:
        case str():
            return _bare(value) if looks_like_url(value) else value
        case list():
            return [_told(part) for part in value]
        case dict():
            return {name: _told(part) for name, part in value.items()}
        case _:
            return value


def _bare(url: str) -> str:
    return "data:…" if url.lower().startswith("data:") else re.split(r"[?#]", url, maxsplit=1)[0]


def exit_for(outcome: Outcome) -> ExitCode:
    """What an outcome makes of the exit code."""
    match outcome:
        case Done():
            return ExitCode.DONE
        case Failed():
            return exit_code_of(outcome.error)
        case InDoubt():
            return ExitCode.IN_DOUBT
        case Skipped():
            return ExitCode.FAILED if outcome.reason == "budget" else ExitCode.RETRY_LATER
