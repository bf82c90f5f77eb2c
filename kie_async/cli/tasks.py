"""The commands about a task that exists: ``status`` and ``wait``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import typer

from kie_async import TransportError
from kie_async.cli.exit_codes import Exit
from kie_async.cli.journals import choose
from kie_async.cli.options import (
    IdArgument,
    JournalOption,
    JsonOption,
    NoJournalOption,
    OutputOption,
    TimeoutOption,
)
from kie_async.cli.progress import progress
from kie_async.cli.running import run
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import check_target, report, save_and_show, wait_and_show

if TYPE_CHECKING:
    from kie_async import JSON, JobInfo, TaskRecord

__all__ = ["carry_out_status", "carry_out_wait", "describe", "describe_unsent", "status", "wait"]


def describe(record: TaskRecord, *, job_id: str | None, now: float) -> Mapping[str, JSON]:
    """
    What is known of a task, by name.

    Args:
        record: The service's record.

        job_id: The job's own id, if the journal has one.

        now: The instant to which its age is counted, in seconds since the epoch.
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


def describe_unsent(summary: JobInfo, *, now: float) -> Mapping[str, JSON]:
    """
    What the journal knows of a job that has no task, under the same names.

    Args:
        summary: The job.

        now: The instant to which its age is counted, in seconds since the epoch.
    """
    return {
        "job_id": summary.id,
        "task_id": None,
        "state": summary.state,
        "model": summary.model,
        "age": round(max(0.0, now - summary.created_at), 1),
        "seconds": None,
        "credits": None,
        "fail_code": None,
        "fail_message": summary.error,
        "urls": [],
    }


def _as_text(fields: Mapping[str, JSON]) -> str:
    lines = []
    for name, value in fields.items():
        for part in value if isinstance(value, list) else [value]:
            unit = " s" if name in ("age", "seconds") else ""
            if part is not None:
                lines.append(f"{name:<13}{f'{part:g}' if isinstance(part, float) else part}{unit}")
    return "\n".join(lines)


async def carry_out_status(session: Session, known_id: str) -> Exit:
    """
    Show what the service says of a task, or what the journal says of a job that has none.

    Args:
        session: The command's session.

        known_id: The task's id, or the job's.

    Raises:
        KieError: If there is no record.
    """
    async with session.client() as kie:
        # The journal first, which takes nothing up: to ask for a job must not send it.
        summary = await kie.job(known_id).info()
        now = datetime.now(UTC).timestamp()
        if summary is not None and summary.task_id is None:
            fields = describe_unsent(summary, now=now)
        else:
            record = await kie.job(known_id).status()
            fields = describe(record, job_id=None if summary is None else summary.id, now=now)
    session.output.result(_as_text(fields), fields)
    return Exit.DONE


async def carry_out_wait(session: Session, known_id: str, *, target: Path | None, timeout: float | None) -> Exit:
    """
    Wait for a task, and save its result.

    Args:
        session: The command's session.

        known_id: The task's id, or the job's.

        target: Where the result goes: a file, a folder, or None for the current folder.

        timeout: How long to wait, in seconds; None for an hour.

    Raises:
        KieError: If there is no result, or not yet.
    """
    trail = session.begin_trail(known_id)
    await anyio.to_thread.run_sync(check_target, target)
    async with session.client() as kie:
        with progress(session.output) as show:
            try:
                generation = await wait_and_show(kie.job(known_id), show, name=known_id, timeout=timeout)
            except TransportError as error:
                if error.job_id is None or error.task_id is not None:
                    raise
                journal = trail.journal or ""
                msg = f"The job was not sent, and nothing was paid. To send it: kie-async recover{journal}"
                raise TransportError(msg, job_id=error.job_id) from error
            files = await save_and_show(generation, target, show, name=known_id)
    report(session.output, generation, files)
    return Exit.DONE


def status(
    context: typer.Context,
    known_id: IdArgument,
    *,
    journal: JournalOption = None,
    no_journal: NoJournalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the service says of a task: state, age, credits, results."""
    run(
        context,
        lambda session: carry_out_status(session, known_id),
        as_json=as_json,
        journal=None if no_journal else choose(journal),
    )


def wait(
    context: typer.Context,
    known_id: IdArgument,
    *,
    output: OutputOption = None,
    timeout: TimeoutOption = None,
    journal: JournalOption = None,
    no_journal: NoJournalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Wait for a task and save its result."""
    run(
        context,
        lambda session: carry_out_wait(session, known_id, target=output, timeout=timeout),
        as_json=as_json,
        journal=None if no_journal else choose(journal),
    )
