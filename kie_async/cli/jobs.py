"""The commands about the journal itself: ``ls`` and ``forget``."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from kie_async import JobState
from kie_async.cli.exit_codes import Exit
from kie_async.cli.journals import choose
from kie_async.cli.options import JournalOption, JsonOption
from kie_async.cli.running import run
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async import JSON, JobInfo
    from kie_async.cli.output import Output

__all__ = [
    "as_lines",
    "carry_out_forget",
    "carry_out_ls",
    "describe_job",
    "forget",
    "instant",
    "ls",
    "warn_of_duplicates",
]


#: The states that end only when the user says how.
_DOUBTFUL = (JobState.IN_DOUBT, JobState.UNRESOLVED)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def instant(text: str, *, now: float) -> float:
    """
    The instant that a user means, in seconds since the epoch.

    Args:
        text: An age, such as ``30d`` or ``12h``, or a date or time in ISO 8601, local unless it says otherwise.

        now: The instant from which ages are counted back.

    Raises:
        ValueError: If it is neither.

    >>> instant("2h", now=10_000.0)
    2800.0
    >>> instant("1970-01-02T00:00Z", now=0.0)
    86400.0
    """
    if (age := _AGE.fullmatch(text)) is not None:
        return now - float(age[1]) * _UNITS[age[2]]
    return datetime.fromisoformat(text).timestamp()


def describe_job(summary: JobInfo, *, now: float) -> Mapping[str, JSON]:
    """
    One row of the journal, by name.

    Args:
        summary: It.

        now: The instant to which its age is counted, in seconds since the epoch.
    """
    return {
        "job_id": summary.id,
        "state": summary.state,
        "age": round(max(0.0, now - summary.created_at), 1),
        "model": summary.model,
        "credits": summary.credits,
        "key": summary.key,
        "task_id": summary.task_id,
        "error": summary.error,
        "duplicates": list(summary.duplicates),
    }


def as_lines(jobs: Sequence[Mapping[str, JSON]]) -> list[str]:
    """
    Jobs as a table, its header first: one line a job, whatever its key looks like.

    Args:
        jobs: What ``describe_job`` says of them.
    """
    columns = ("state", "age", "job_id", "task_id", "credits", "key", "model")
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
    An age in its largest unit: 90 s is a minute.

    >>> _short_age(90.0)
    '1m'
    """
    unit = next((unit for unit in "wdhm" if seconds >= _UNITS[unit]), "s")
    return f"{seconds // _UNITS[unit]:g}{unit}"


async def carry_out_ls(session: Session, *, states: Collection[JobState] = (), everything: bool = False) -> Exit:
    """
    Show what the journal knows, oldest first.

    Args:
        session: The command's session.

        states: Only jobs in these; if there are none, only unfinished ones.

        everything: Show all jobs.

    Raises:
        JournalError: If the journal cannot be read.
    """
    output = session.output
    async with session.client(needs_key=False) as kie:
        found = await kie.jobs(unfinished=not everything and not states)
    found = [job for job in found if not states or job.state in states]
    now = datetime.now(UTC).timestamp()
    jobs = [describe_job(job, now=now) for job in found]
    header, *lines = as_lines(jobs)
    if not jobs:
        filtered = states or everything
        output.say("There are no such jobs." if filtered else "Nothing is unfinished; --all shows the rest.")
        return Exit.DONE
    if not output.as_json:
        output.say(header)
    for fields, line in zip(jobs, lines, strict=True):
        output.result(line, fields)
    if doubtful := sum(job.state in _DOUBTFUL for job in found):
        output.warn(
            f"{doubtful} in doubt: nobody can tell whether they were paid. Look at kie.ai/logs, then settle each with"
            " kie-async resolve, resubmit or abandon."
        )
    warn_of_duplicates(output, found)
    return Exit.DONE


def warn_of_duplicates(output: Output, jobs: Collection[JobInfo]) -> None:
    """
    Name the jobs that were paid more than once.

    Args:
        output: Where to.

        jobs: All jobs.
    """
    for job in jobs:
        if job.duplicates:
            output.warn(f"{job.id} was paid more than once. Its further tasks: {', '.join(job.duplicates)}.")


async def carry_out_forget(session: Session, *, before: float) -> Exit:
    """
    Delete old jobs that have ended from the journal.

    Args:
        session: The command's session.

        before: The instant, in seconds since the epoch, before which their last change must lie.

    Raises:
        JournalError: If the journal cannot be written.
    """
    async with session.client(needs_key=False) as kie:
        forgotten = await kie.forget(before=before)
    session.output.say("Jobs that have ended were forgotten; what is unfinished stays. Their keys may be paid again.")
    session.output.result(str(forgotten), {"forgotten": forgotten})
    return Exit.DONE


def ls(
    context: typer.Context,
    *,
    state: Annotated[
        list[JobState] | None, typer.Option("--state", help="Only jobs in this state. Repeatable.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Jobs that have ended, too.")] = False,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the unfinished jobs of the journal, the newest last; it asks nobody, and needs no key."""
    run(
        context,
        lambda session: carry_out_ls(session, states=state or (), everything=everything),
        as_json=as_json,
        journal=choose(journal),
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
    """Delete jobs that have ended from the journal; a key that is forgotten may be paid again."""
    try:
        at = instant(before, now=datetime.now(UTC).timestamp())
    except (ValueError, OverflowError, OSError):
        msg = f"{before!r} is neither an age, such as 30d, nor a date, such as 2026-01-31."
        raise typer.BadParameter(msg, param_hint="--before") from None
    run(context, lambda session: carry_out_forget(session, before=at), as_json=as_json, journal=choose(journal))
