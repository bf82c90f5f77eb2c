"""Read the rows of a run from its table, and record their outcomes in the manifest."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import attrs

from kie_async import (
    JSON,
    ConfigurationError,
    Done,
    Failed,
    InDoubt,
    JobInfo,
    JobState,
    KieError,
    Outcome,
    Request,
    Skipped,
    TaskFailedError,
    TaskTimeoutError,
)
from kie_async._keys import row_key, table_key
from kie_async._urls import without_url_secrets
from kie_async.cli.batch.folder import INPUTS, FolderIdentity, atomic_write
from kie_async.cli.batch.manifest import EntryState, Manifest, ManifestEntry
from kie_async.cli.batch.options import BatchOptions, shown_input
from kie_async.cli.batch.table import PreparedRow, Table
from kie_async.cli.exit_codes import ExitCode, exit_code_of
from kie_async.requests.media import LocalFile

__all__ = ["ENTRY_STATES", "RunRecord", "outcome_exit_code", "states_by_row"]

#: The state of a row, by the state of its job: only jobs for which something was sent are listed.
ENTRY_STATES: Mapping[JobState, EntryState] = {
    JobState.SUBMITTED: EntryState.RUNNING,
    JobState.STALLED: EntryState.RUNNING,
    JobState.SENDING: EntryState.IN_DOUBT,
    JobState.IN_DOUBT: EntryState.IN_DOUBT,
    JobState.UNRESOLVED: EntryState.IN_DOUBT,
    JobState.SUCCEEDED: EntryState.DONE,
}

_SKIPPED_REASONS = {
    "budget": "The budget has no room for this row: nothing was sent. Raise --budget to send it; a budget with a name"
    " is first raised by `kie-async budgets --raise NAME --credits N`.",
    "stop_after": "The time of --stop-after was over: nothing was sent. Run the same command again to send it.",
}
_RUNNING_REASON = "The service is working on the task. Run the same command again to wait for it."
_NO_FILES_REASON = "The task has succeeded, and its record names no files: its result is in the record."
_UNSAVED_REASON = "The task has succeeded; its result is not fetched yet. Run the same command again to fetch it."
_IN_DOUBT_REASON = (
    "The create request was sent, and no response has told whether it was accepted: it may have been paid, and is not"
    " sent again automatically. Check kie.ai/logs. If the task is there, bind it with `kie-async resolve`; if not,"
    " `resubmit` in its place, with --allow-duplicate, sends it again, and `abandon` gives it up."
)

#: The encoders of the copies by media type, and their options: they are fast, and lose nothing that is seen.
_FORMATS: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "image/jpeg": ("JPEG", {"quality": 92}),
    "image/png": ("PNG", {"compress_level": 1}),
    "image/webp": ("WEBP", {"quality": 92, "method": 0}),
}


def states_by_row(keys: Mapping[str, JobState], table: str) -> dict[str, EntryState | None]:
    """
    Return the states of a table's rows that the journal has, by the rows' own keys; None where nothing may come.

    Args:
        keys: The journal's keys of the table, and the states of their jobs.

        table: The id of the table.
    """
    states: dict[str, EntryState | None] = {}
    for key in sorted(keys, key=len):  # a row's retries in their order, after the row
        own = key.removeprefix(f"{table}:")
        if (row := row_key(own)) == own or row in states:
            states[row] = ENTRY_STATES.get(keys[key], states.get(row))
    return states


@attrs.define(kw_only=True)
class RunRecord:
    """
    The rows of a run. Its methods block: call them in a worker thread.

    Args:
        table: The checked table.

        options: The options of the run.

        manifest: The manifest.

        identity: The identity of the folder.

        forgotten: The states of rows that the journal has forgotten, by key: they are not sent again.

    Attributes:
        open_rows: The rows that were read and have no outcome yet, by the journal's key: only these are held in memory.

        resume_command: The command that resumes the run as a whole.
    """

    table: Table
    options: BatchOptions
    manifest: Manifest
    identity: FolderIdentity
    forgotten: Mapping[str, EntryState] = attrs.field(factory=dict)
    open_rows: dict[str, ManifestEntry] = attrs.field(factory=dict, init=False)
    resume_command: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.resume_command = self.options.resume_command()

    def requests(self) -> Iterator[tuple[str, Request]]:
        """
        Yield keys and requests for ``KieClient.map()``, which reads them as needed.

        Raises:
            ConfigurationError: If the table has changed since it was checked, or two rows have the same key.

            OSError: If the table cannot be read, or an image cannot be copied.
        """
        for key, row in self._rows():
            if key in self.open_rows:
                msg = (
                    f"{self.table.path}:{row.line}: the key {row.key!a} belongs to another row, too. Use a different"
                    " key, and run the same command again: nothing is paid twice."
                )
                raise ConfigurationError(msg)
            self.open_rows[key] = self._new_entry(row)
            yield key, row.request

    def keyed_requests(self) -> Iterator[tuple[str, Request]]:
        """Yield keys and requests for ``KieClient.spent()``; nothing is recorded."""
        return ((key, row.request) for key, row in self._rows())

    def _rows(self) -> Iterator[tuple[str, PreparedRow]]:
        """Yield the rows that may be sent, and the journal's keys for them."""
        for row in self.table.prepared_rows():
            if row.key not in self.forgotten:
                yield table_key(self.identity.table, row.key), row

    def _new_entry(self, row: PreparedRow) -> ManifestEntry:
        return ManifestEntry(
            key=row.key,
            line=row.line,
            state=EntryState.RUNNING,
            model=row.request.model,
            input_hash=row.input_hash,
            origin=self.identity.origin,
            input={name: _without_secrets(value) for name, value in row.fields.items()},
            source=None if row.source is None else without_url_secrets(row.source),
            image=None if row.image is None else _copy_input_image(self.options.out, row.image),
        )

    def record_outcome(self, outcome: Outcome) -> ManifestEntry:
        """
        Record the outcome of a row.

        Args:
            outcome: The outcome.

        Raises:
            OSError: If it cannot be written, for example because the disk is full.
        """
        entry = attrs.evolve(
            self.open_rows[outcome.key],
            task_id=outcome.task_id,
            job_id=outcome.job_id,
            credits=outcome.credits,
            seconds=outcome.seconds,
            # Without a task, the time is our own clock's, not the service's time of a create.
            created_at=None if outcome.task_id is None else outcome.created_at,
        )
        match outcome:
            case Done():
                entry = self._done(entry, outcome.files)
            case Failed():
                is_running = isinstance(outcome.error, TaskTimeoutError) and outcome.task_id is not None
                entry = attrs.evolve(
                    entry,
                    state=EntryState.RUNNING if is_running else EntryState.FAILED,
                    reason=without_url_secrets(outcome.error.message),
                    command=self._command_for(outcome.error),
                )
            case InDoubt():
                entry = self._in_doubt(entry)
            case Skipped():
                command = self.options.resume_command()
                if outcome.reason == "budget":  # the same command would find no more room
                    command = self.resume_command = self.options.resume_command(raise_budget=True)
                reason = _SKIPPED_REASONS[outcome.reason]
                entry = attrs.evolve(entry, state=EntryState.SKIPPED, reason=reason, command=command)
        self.manifest.record(entry)
        del self.open_rows[outcome.key]
        return entry

    def record_unfinished(self, jobs: Iterable[JobInfo]) -> int:
        """
        Record the open rows for which something was sent.

        Args:
            jobs: The journal's unfinished jobs, and those that have succeeded and whose results are not saved.

        Returns:
            The number of recorded rows.

        Raises:
            OSError: If they cannot be written, for example because the disk is full.
        """
        count = 0
        sent = {row_key(job.key): job for job in jobs if job.key is not None and job.state in ENTRY_STATES}
        for key, job in sent.items():
            if (entry := self.open_rows.get(key)) is None:
                continue
            count += 1
            entry = attrs.evolve(entry, job_id=job.job_id, task_id=job.task_id)
            state = ENTRY_STATES[job.state]
            if state is EntryState.IN_DOUBT:
                self.manifest.record(self._in_doubt(entry))
            else:
                reason = _UNSAVED_REASON if state is EntryState.DONE else _RUNNING_REASON
                self.manifest.record(attrs.evolve(entry, reason=reason, command=self.options.resume_command()))
        return count

    def _done(self, entry: ManifestEntry, files: Collection[Path]) -> ManifestEntry:
        if not files:
            command = f"kie-async status {entry.task_id} --json"
            return attrs.evolve(entry, state=EntryState.DONE, reason=_NO_FILES_REASON, command=command)
        first, *others = files
        name, size = str(first.relative_to(self.options.out)), first.stat().st_size
        before = self.manifest.entry(entry.key)
        # A repeated run need not hash again what an earlier run has hashed.
        known_hash = before.sha256 if before is not None and (before.file, before.size) == (name, size) else None
        return attrs.evolve(
            entry,
            state=EntryState.DONE,
            file=name,
            sha256=known_hash or _file_sha256(first),
            size=size,
            more={str(file.relative_to(self.options.out)): _file_sha256(file) for file in others},
        )

    def _in_doubt(self, entry: ManifestEntry) -> ManifestEntry:
        command = f"kie-async resolve{self.options.journal.option} {entry.job_id} TASKID"
        return attrs.evolve(entry, state=EntryState.IN_DOUBT, reason=_IN_DOUBT_REASON, command=command)

    def _command_for(self, error: KieError) -> str | None:
        """Return the shell command that may help after a failure; None where the row itself is wrong."""
        if isinstance(error, TaskFailedError):
            return self.options.resume_command(retry=True) if error.worth_retrying else None
        helps = exit_code_of(error) in (ExitCode.UNFINISHED, ExitCode.RETRY_LATER)
        return self.options.resume_command() if helps else None


def _without_secrets(value: JSON) -> JSON:
    """Return a value that may be shown: see ``shown_input``."""
    match value:
        case str():
            return shown_input(value)
        case list():
            return [_without_secrets(item) for item in value]
        case dict():
            return {shown_input(name): _without_secrets(item) for name, item in value.items()}
        case _:
            return value


def outcome_exit_code(outcome: Outcome) -> ExitCode:
    """Return the exit code for an outcome."""
    if isinstance(outcome, Failed):
        return exit_code_of(outcome.error)
    if isinstance(outcome, Skipped):
        return ExitCode.FAILED if outcome.reason == "budget" else ExitCode.RETRY_LATER
    return ExitCode.IN_DOUBT if isinstance(outcome, InDoubt) else ExitCode.DONE


def _copy_input_image(folder: Path, image: LocalFile) -> str | None:
    """
    Copy the picture of an image into the folder, once for each content, so that the page shows what was sent.

    Args:
        folder: The folder of the results.

        image: The image.

    Returns:
        Its path, relative to the folder; None if it cannot be decoded, or if browsers may not show it.
    """
    path = folder / INPUTS / image.name
    if image.mime not in _FORMATS:
        return None
    if not path.exists():
        if (data := _picture_alone(image)) is None:
            return None
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as file:
            file.write(data)
    return f"{INPUTS}/{image.name}"


def _picture_alone(image: LocalFile) -> bytes | None:
    """Return the upright picture and its color profile, without all else that a file can hold; None if undecodable."""
    from PIL import Image, ImageOps

    format_name, options = _FORMATS[image.mime]
    picture: Image.Image
    try:
        with warnings.catch_warnings(action="ignore"), BytesIO(image.data) as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(file)
            profile = opened.info.get("icc_profile")
            opened.load()
            picture = opened
            with suppress(Exception):  # an invalid EXIF block has no orientation
                picture = ImageOps.exif_transpose(opened)
            if picture.mode == "P" or "transparency" in picture.info:
                picture = picture.convert("RGBA")
            picture.info = {}  # encoders would take comments and the like from there
            written = BytesIO()
            picture.save(written, format_name, icc_profile=profile, **options)
    except Exception:  # noqa: BLE001 (whatever a decoder finds wrong, the service may accept the image)
        return None
    return written.getvalue()


def _file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
