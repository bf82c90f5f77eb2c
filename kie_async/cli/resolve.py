"""The commands that settle a job in doubt: ``resolve``, ``resubmit`` and ``abandon``."""

from __future__ import annotations

from typing import Annotated

import typer

from kie_async import ConfigurationError
from kie_async.cli.exit_codes import Exit
from kie_async.cli.journals import choose
from kie_async.cli.options import JobArgument, JournalOption, JsonOption
from kie_async.cli.progress import progress
from kie_async.cli.running import run
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import accepted

__all__ = ["abandon", "carry_out_abandon", "carry_out_resolve", "carry_out_resubmit", "resolve", "resubmit"]


async def carry_out_resolve(session: Session, job_id: str, task_id: str) -> Exit:
    """
    Say which task a job in doubt has created.

    Args:
        session: The command's session.

        job_id: The job.

        task_id: The task.

    Raises:
        KieError: If it is another request's, or the job is not in doubt.
    """
    trail = session.begin_trail(job_id)
    async with session.client() as kie:
        await kie.job(job_id).resolve(task_id)
    trail.task_id = task_id
    _tell(session, job_id, task_id)
    return Exit.DONE


async def carry_out_resubmit(session: Session, job_id: str, *, allow_duplicate: bool) -> Exit:
    """
    Send the create of a job in doubt again, until it is accepted.

    Args:
        session: The command's session.

        job_id: The job.

        allow_duplicate: Whether the user knows that it may be paid twice.

    Raises:
        KieError: If that is not known, the job is not in doubt, or the service does not accept it.
    """
    if not allow_duplicate:
        msg = (
            "Sending the create again may pay twice. Look at kie.ai/logs first, and give --allow-duplicate if it must"
            " be sent again all the same."
        )
        raise ConfigurationError(msg, job_id=job_id)
    trail = session.begin_trail(job_id)
    async with session.client() as kie:
        with progress(session.output) as show:
            job = kie.job(job_id)
            await job.resubmit(allow_duplicate=True)
            show(job_id, "submitting")
            task_id = await accepted(job)
            trail.task_id = task_id
            show(job_id, f"accepted as task {task_id}", done=True)
    _tell(session, job_id, task_id)
    return Exit.DONE


async def carry_out_abandon(session: Session, job_id: str) -> Exit:
    """
    Give a job in doubt up.

    Args:
        session: The command's session.

        job_id: The job.

    Raises:
        KieError: If the job is not in doubt.
    """
    session.begin_trail(job_id)
    async with session.client() as kie:
        await kie.job(job_id).abandon()
    session.output.say("Nobody waits for it any more. It may have been paid all the same.")
    session.output.result(job_id, {"job_id": job_id, "task_id": None, "state": "abandoned"})
    return Exit.DONE


def _tell(session: Session, job_id: str, task_id: str) -> None:
    session.output.say(session.outlook())
    session.output.result(task_id, {"job_id": job_id, "task_id": task_id, "state": "submitted"})


def resolve(
    context: typer.Context,
    job_id: JobArgument,
    task_id: Annotated[str, typer.Argument(metavar="TASKID", help="The task that it has created.")],
    *,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say which task a job in doubt has created; the service's record must prove it."""
    run(
        context,
        lambda session: carry_out_resolve(session, job_id, task_id),
        as_json=as_json,
        journal=choose(journal),
    )


def resubmit(
    context: typer.Context,
    job_id: JobArgument,
    *,
    allow_duplicate: Annotated[
        bool, typer.Option("--allow-duplicate", help="Yes, if the first create was accepted it is paid twice.")
    ] = False,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send the create of a job in doubt again; it may be paid twice."""
    run(
        context,
        lambda session: carry_out_resubmit(session, job_id, allow_duplicate=allow_duplicate),
        as_json=as_json,
        journal=choose(journal),
    )


def abandon(
    context: typer.Context, job_id: JobArgument, *, journal: JournalOption = None, as_json: JsonOption = False
) -> None:
    """Give a job in doubt up: nobody waits for it any more."""
    run(context, lambda session: carry_out_abandon(session, job_id), as_json=as_json, journal=choose(journal))
