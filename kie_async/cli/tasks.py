"""The commands on an existing task: ``status`` and ``wait``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import typer

from kie_async import APIError, JobState, TaskRecord, TransportError
from kie_async.cli import options
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.output import show_progress
from kie_async.cli.running import run_with_journal
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import check_output, save_and_show, wait_and_show, write_result

if TYPE_CHECKING:
    from kie_async import JSON, JobInfo

__all__ = ["record_fields", "run_status", "run_wait", "status", "unsent_fields", "wait"]


def record_fields(record: TaskRecord, *, job_id: str | None, now: float) -> Mapping[str, JSON]:
    """
    Return a task as JSON.

    Args:
        record: The service's record.

        job_id: The job's own id, or None if the journal does not have the task.

        now: The instant at which its age is measured, in seconds since the epoch.
    """
    age = None if record.created_at is None or record.ended else max(0.0, now - record.created_at)
    return {
        "job_id": job_id,
        "task_id": record.task_id,
        "state": record.state,
        "model": record.model,
        "age": None if age is None else round(age, 1),
        "seconds": record.seconds,
        "credits": record.credits,
        "fail_code": record.fail_code,
        "fail_message": record.fail_message,
        "urls": list(record.result_urls),
    }


def unsent_fields(info: JobInfo, *, now: float) -> Mapping[str, JSON]:
    """
    Return a job that has no task as JSON, with the same fields as ``record_fields``.

    Args:
        info: The job.

        now: The instant at which its age is measured, in seconds since the epoch.
    """
    state, created_at = str(info.state), info.created_at
    record = TaskRecord(task_id="", state=state, model=info.model, created_at=created_at, fail_message=info.error)
    return {**record_fields(record, job_id=info.job_id, now=now), "task_id": None}


def _as_lines(fields: Mapping[str, JSON]) -> Sequence[str]:
    lines = []
    for name, value in fields.items():
        for part in value if isinstance(value, list) else [value]:
            unit = " s" if name in ("age", "seconds") else ""
            if part is not None:
                lines.append(f"{name:<13}{f'{part:g}' if isinstance(part, float) else part}{unit}")
    return lines


async def run_status(session: Session, known_id: str) -> ExitCode:
    """
    Show the service's record of a task, or the journal's row of a job that has no task.

    Args:
        session: The command's session.

        known_id: The id of the task or the job.

    Raises:
        KieError: If there is no record.
    """
    async with session.client() as kie:
        # The journal first: Job.status() would resume the job, and a query must not send anything.
        info = await kie.job(known_id).info()
        now = datetime.now(UTC).timestamp()
        if info is not None and info.task_id is None:
            fields = unsent_fields(info, now=now)
        else:
            record = await kie.job(known_id).status()
            fields = record_fields(record, job_id=None if info is None else info.job_id, now=now)
    session.output.result(_as_lines(fields), fields)
    return ExitCode.DONE


async def run_wait(session: Session, known_id: str, *, target: Path | None, timeout: float | None) -> ExitCode:
    """
    Wait for a task, and save its result.

    Args:
        session: The command's session.

        known_id: The id of the task or the job.

        target: A file or folder for the result; None for the current folder.

        timeout: The seconds to wait; None for an hour.

    Raises:
        KieError: If there is no result, or not yet.
    """
    session.track_job(known_id)
    await anyio.to_thread.run_sync(check_output, target)
    async with session.client() as kie:
        with show_progress(session.output) as show:
            show(known_id, "polling")  # an id that the service does not know is polled for 90 s
            try:
                generation = await wait_and_show(kie.job(known_id), show, name=known_id, timeout=timeout)
            except (TransportError, APIError) as error:
                info = await kie.job(known_id).info()
                if info is None or info.state is not JobState.INTENT:
                    raise
                reason = f" ({error.message.rstrip('.')})" if isinstance(error, APIError) else ""
                msg = (
                    f"The job was not sent, and nothing was paid{reason}. To send it: kie-async"
                    f" recover{session.journal_option} (with --adopt-key if it was journaled with another API key)."
                )
                raise TransportError(msg, job_id=error.job_id) from error
            files = await save_and_show(generation, target, show, name=known_id)
    write_result(session.output, generation, files)
    return ExitCode.DONE


def status(
    context: typer.Context,
    known_id: options.IdArgument,
    *,
    proxy: options.ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: options.JournalOption = None,
    no_journal: options.NoJournalOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show the service's record of a task: state, age, credits, results."""
    run_with_journal(
        context, lambda session: run_status(session, known_id), as_json=as_json, journal=journal, no_journal=no_journal
    )


def wait(
    context: typer.Context,
    known_id: options.IdArgument,
    *,
    output: options.OutputOption = None,
    timeout: options.TimeoutOption = None,
    allow_networks: options.AllowNetworksOption = None,  # noqa: ARG001 (its callback does the work)
    proxy: options.ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: options.JournalOption = None,
    no_journal: options.NoJournalOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Wait for a task and save its result."""
    run_with_journal(
        context,
        lambda session: run_wait(session, known_id, target=output, timeout=timeout),
        as_json=as_json,
        journal=journal,
        no_journal=no_journal,
    )
