"""The commands on jobs of the journal: ``ls``, ``forget``, ``resolve``, ``resubmit`` and ``abandon``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from kie_async import ConfigurationError, JobState
from kie_async._display import shown
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.options import JobArgument, JournalOption, JsonOption, ProxyOption
from kie_async.cli.output import Output, show_progress
from kie_async.cli.running import run_with_journal
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import wait_for_task_id

if TYPE_CHECKING:
    from kie_async import JSON, JobInfo

__all__ = [
    "abandon",
    "forget",
    "format_jobs",
    "info_fields",
    "ls",
    "parse_instant",
    "resolve",
    "resubmit",
    "run_abandon",
    "run_forget",
    "run_ls",
    "run_resolve",
    "run_resubmit",
    "warn_of_duplicates",
]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def parse_instant(text: str, *, now: float) -> float:
    """
    Parse an age or a date into seconds since the epoch.

    Args:
        text: An age, such as ``30d`` or ``12h``, or a date or time in ISO 8601 (local, unless it has an offset).

        now: The instant that ages are subtracted from.

    Raises:
        ValueError: If the text is neither.

    >>> parse_instant("2h", now=10_000.0)
    2800.0
    >>> parse_instant("1970-01-02T00:00Z", now=0.0)
    86400.0
    """
    if (age := _AGE.fullmatch(text)) is not None:
        return now - float(age[1]) * _UNITS[age[2]]
    return datetime.fromisoformat(text).timestamp()


def info_fields(info: JobInfo, *, now: float) -> Mapping[str, JSON]:
    """
    Return a job of the journal as JSON.

    Args:
        info: The job.

        now: The instant at which its age is measured, in seconds since the epoch.
    """
    return {
        "job_id": info.job_id,
        "state": info.state,
        "age": round(max(0.0, now - info.created_at), 1),
        "model": info.model,
        "credits": info.credits,
        "key": info.key,
        "task_id": info.task_id,
        "error": info.error,
        "duplicates": list(info.duplicates),
        "origin": info.origin,
    }


def format_jobs(jobs: Sequence[Mapping[str, JSON]]) -> list[str]:
    """
    Format jobs as a table with a header: one line a job, whatever its key contains; services if there are several.

    Args:
        jobs: The results of ``info_fields``.
    """
    columns = ["state", "age", "job_id", "task_id", "credits", "key", "model"]
    if len({str(job["origin"]) for job in jobs}) > 1:
        columns.append("origin")
    rows = [[name.removesuffix("_id") for name in columns], *([_cell(job[name]) for name in columns] for job in jobs)]
    for row in rows[1:]:
        row[1] = _short_age(float(row[1]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: JSON) -> str:
    if value is None or value == "":
        return "-"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text.isprintable() else repr(text)


def _short_age(seconds: float) -> str:
    """
    Format an age in its largest unit, rounded down.

    >>> _short_age(90.0)
    '1m'
    """
    unit = next((unit for unit in "wdhm" if seconds >= _UNITS[unit]), "s")
    return f"{seconds // _UNITS[unit]:g}{unit}"


def warn_of_duplicates(output: Output, jobs: Collection[JobInfo]) -> None:
    """
    Print a warning for each job that was paid more than once.

    Args:
        output: The command's output.

        jobs: The jobs.
    """
    for job in jobs:
        if job.duplicates:
            output.warn(f"{job.job_id} was paid more than once. Its further tasks: {', '.join(job.duplicates)}.")


async def run_ls(session: Session, *, states: Collection[JobState] = (), show_all: bool = False) -> ExitCode:
    """
    List the journal's jobs, oldest first.

    Args:
        session: The command's session.

        states: The states to list; empty for unfinished jobs.

        show_all: True for all jobs.

    Raises:
        JournalError: If the journal cannot be read.
    """
    output = session.output
    async with session.client(needs_key=False) as kie:
        infos = await kie.jobs(unfinished=not show_all and not states)
    infos = [info for info in infos if not states or info.state in states]
    now = datetime.now(UTC).timestamp()
    jobs = [info_fields(info, now=now) for info in infos]
    header, *lines = format_jobs(jobs)
    if not jobs:
        output.info("No such jobs." if states or show_all else "No unfinished jobs; --all shows finished ones.")
        return ExitCode.DONE
    if not output.as_json:
        output.info(header)
    for fields, line in zip(jobs, lines, strict=True):
        output.result(line, fields)
    if in_doubt := sum(info.state in (JobState.IN_DOUBT, JobState.UNRESOLVED) for info in infos):
        output.warn(
            f"{in_doubt} in doubt: they may have been paid. Check kie.ai/logs, then settle each with kie-async resolve,"
            " resubmit or abandon."
        )
    warn_of_duplicates(output, infos)
    return ExitCode.DONE


async def run_forget(session: Session, *, before: float) -> ExitCode:
    """
    Delete old finished jobs from the journal.

    Args:
        session: The command's session.

        before: The instant that their last change must precede, in seconds since the epoch.

    Raises:
        JournalError: If the journal cannot be written.
    """
    async with session.client(needs_key=False) as kie:
        deleted = await kie.forget(before=before)
    session.output.info("Finished jobs were deleted; unfinished jobs stay. A deleted job's key may be paid again.")
    session.output.result(str(deleted), {"forgotten": deleted})
    return ExitCode.DONE


async def run_resolve(session: Session, job_id: str, task_id: str) -> ExitCode:
    """
    Bind a job in doubt to the task that it has created.

    Args:
        session: The command's session.

        job_id: The job.

        task_id: The task.

    Raises:
        KieError: If the task belongs to another request, or the job is not in doubt.
    """
    job = session.track_job(job_id)
    async with session.client() as kie:
        await kie.job(job_id).resolve(task_id)
    job.task_id = task_id
    _write_submitted(session, job_id, task_id)
    return ExitCode.DONE


async def run_resubmit(session: Session, job_id: str, *, allow_duplicate: bool) -> ExitCode:
    """
    Send a create request for a job in doubt again, until it is accepted.

    Args:
        session: The command's session.

        job_id: The job.

        allow_duplicate: True if the user accepts that the job may be paid twice.

    Raises:
        KieError: If the user does not, the job is not in doubt, or the service does not accept it.
    """
    if not allow_duplicate:
        msg = (
            "Sending the create request again may pay twice. Check kie.ai/logs first. If it must be sent again, give"
            " --allow-duplicate."
        )
        raise ConfigurationError(msg, job_id=job_id)
    tracked = session.track_job(job_id)
    async with session.client() as kie:
        with show_progress(session.output) as show:
            job = kie.job(job_id)
            await job.resubmit(allow_duplicate=True)
            show(job_id, "submitting")
            tracked.task_id = task_id = await wait_for_task_id(job)
            show(job_id, f"accepted as task {task_id}", done=True)
    _write_submitted(session, job_id, task_id)
    return ExitCode.DONE


async def run_abandon(session: Session, job_id: str) -> ExitCode:
    """
    Give up a job in doubt.

    Args:
        session: The command's session.

        job_id: The job.

    Raises:
        KieError: If the job is not in doubt.
    """
    session.track_job(job_id)
    async with session.client() as kie:
        await kie.job(job_id).abandon()
    session.output.info("The job is abandoned. It may have been paid nevertheless.")
    session.output.result(job_id, {"job_id": job_id, "task_id": None, "state": JobState.ABANDONED})
    return ExitCode.DONE


def _write_submitted(session: Session, job_id: str, task_id: str) -> None:
    session.output.info(session.resume_hint())
    session.output.result(task_id, {"job_id": job_id, "task_id": task_id, "state": JobState.SUBMITTED})


def ls(
    context: typer.Context,
    *,
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state. Repeatable.")] = None,
    show_all: Annotated[bool, typer.Option("--all", "-a", help="Include finished jobs.")] = False,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the journal's unfinished jobs, the newest last; sends nothing, and needs no key."""
    run_with_journal(
        context,
        lambda session: run_ls(session, states=state or (), show_all=show_all),
        as_json=as_json,
        journal=journal,
    )


def forget(
    context: typer.Context,
    *,
    before: Annotated[
        str, typer.Option(metavar="AGE|DATE", help="Last changed before: 30d, 12h (units s m h d w), or 2026-01-31.")
    ],
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete finished jobs from the journal; a deleted job's key may be paid again."""
    try:
        instant = parse_instant(before, now=datetime.now(UTC).timestamp())
    except (ValueError, OverflowError, OSError):
        msg = f"expected an age such as 30d, or a date such as 2026-01-31, got {shown(before)}."
        raise typer.BadParameter(msg, param_hint="--before") from None
    run_with_journal(context, lambda session: run_forget(session, before=instant), as_json=as_json, journal=journal)


def resolve(
    context: typer.Context,
    job_id: JobArgument,
    task_id: Annotated[str, typer.Argument(metavar="TASKID", help="The task that the job has created.")],
    *,
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bind a job in doubt to its task; the service's record of the task must prove it."""
    run_with_journal(context, lambda session: run_resolve(session, job_id, task_id), as_json=as_json, journal=journal)


def resubmit(
    context: typer.Context,
    job_id: JobArgument,
    *,
    allow_duplicate: Annotated[
        bool, typer.Option("--allow-duplicate", help="Accept that the job may be paid twice.")
    ] = False,
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send the create request of a job in doubt again; it may be paid twice."""
    run_with_journal(
        context,
        lambda session: run_resubmit(session, job_id, allow_duplicate=allow_duplicate),
        as_json=as_json,
        journal=journal,
    )


def abandon(
    context: typer.Context, job_id: JobArgument, *, journal: JournalOption = None, as_json: JsonOption = False
) -> None:
    """Give up a job in doubt; it may have been paid nevertheless."""
    run_with_journal(context, lambda session: run_abandon(session, job_id), as_json=as_json, journal=journal)
