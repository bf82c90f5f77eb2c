"""The command ``recover``: resume all unfinished jobs of the journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import anyio
import typer

from kie_async import Generation, JobState, KieError, SubmitInDoubtError, TaskTimeoutError
from kie_async.cli.exit_codes import ExitCode, exit_code_of, worst_exit_code
from kie_async.cli.jobs import warn_of_duplicates
from kie_async.cli.options import AllowNetworksOption, JournalOption, JsonOption, ProxyOption
from kie_async.cli.output import ShowState, show_progress
from kie_async.cli.resume_info import JournalResumeInfo, resolve_hint
from kie_async.cli.running import run_with_journal
from kie_async.cli.session import Session
from kie_async.cli.wait_and_save import save_and_show, wait_and_show, wait_for_task_id, write_result

if TYPE_CHECKING:
    from kie_async import Job, JobInfo

__all__ = ["recover", "run_recover"]


#: The end of one job: a result and its files, a task id where results are not waited for, or an error.
RecoveredOutcome: TypeAlias = tuple[Generation, list[Path]] | str | KieError


async def run_recover(
    session: Session, *, wait: bool = True, out: Path | None = None, adopt_key: bool = False
) -> ExitCode:
    """
    Resume all unfinished jobs of the service that no live process owns.

    Args:
        session: The command's session.

        wait: True to wait for results; False to wait for task ids only.

        out: The folder for results; None to save none.

        adopt_key: True to send unsent jobs of another API key, too.

    Raises:
        KieError: If nothing can be resumed; errors of single jobs are printed, and decide the exit code.

        OSError: If the folder cannot be created.
    """
    session.resume_info = tracked = JournalResumeInfo(
        warn=session.output.warn, given=session.journal_option + session.networks_option
    )
    if out is not None:
        await anyio.Path(out).mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, RecoveredOutcome] = {}
    async with session.client() as kie:
        found = await kie.jobs(unfinished=True)
        unfinished = {info.job_id: info for info in found if info.origin == session.origin}
        jobs = await kie.recover(adopt_key=adopt_key)
        tracked.add_jobs(job.id for job in jobs)
        with show_progress(session.output) as show:

            async def finish(job: Job) -> None:
                name = _display_name(job.id, unfinished)
                outcomes[job.id] = await _finish(job, show, name=name, wait=wait, out=out)

            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(finish, job)
        infos = [await job.info() for job in jobs]
    codes = [_write_outcome(session, job.id, outcomes[job.id]) for job in jobs]
    warn_of_duplicates(session.output, [info for info in infos if info is not None])
    codes += [
        _report_in_doubt(session, info.job_id) for info in unfinished.values() if info.state == JobState.UNRESOLVED
    ]
    others = {info.origin for info in found} - {session.origin}
    if others:
        session.output.info(
            f"Jobs of another service are left alone: for them, set KIE_BASE_URL={' or '.join(others)}."
        )
    if any(unfinished[job_id].state == JobState.INTENT for job_id in unfinished.keys() - {job.id for job in jobs}):
        session.output.info(
            "Unsent jobs are left: another process works on them, or they were journaled with another API key;"
            " --adopt-key sends those with the present one."
        )
    elif not codes:
        session.output.info("No unfinished jobs, except those that another process works on.")
    return worst_exit_code(codes)


def _display_name(job_id: str, infos: Mapping[str, JobInfo]) -> str:
    """Return the job's key, if it has one that fits a line, else its id."""
    key = infos[job_id].key if job_id in infos else None
    return key if key is not None and key.isprintable() else job_id


async def _finish(job: Job, show: ShowState, *, name: str, wait: bool, out: Path | None) -> RecoveredOutcome:
    """Wait for one job; return its error, if it has one, so that the other jobs continue."""
    show(name, job.state or "resumed")
    try:
        if wait:
            generation = await wait_and_show(job, show, name=name)
            files = await save_and_show(generation, out, show, name=name) if out is not None else []
            show(name, "saved" if files else "done", done=True)
            return generation, files
        task_id = await wait_for_task_id(job)
        show(name, f"accepted as task {task_id}", done=True)
    except KieError as error:
        show(name, "in doubt" if isinstance(error, SubmitInDoubtError) else "failed", done=True)
        return error
    return task_id


def _write_outcome(session: Session, job_id: str, outcome: RecoveredOutcome) -> ExitCode:
    output = session.output
    match outcome:
        case str():
            output.result(outcome, {"job_id": job_id, "task_id": outcome, "state": JobState.SUBMITTED})
        case (generation, files):
            write_result(output, generation, files)
        case SubmitInDoubtError():
            return _report_in_doubt(session, job_id)
        case TaskTimeoutError():
            given = session.journal_option + session.networks_option
            output.error(f"Job {job_id} has not ended yet. To resume: kie-async wait{given} {job_id}")
            return ExitCode.UNFINISHED
        case _:
            output.error(str(outcome))
            return exit_code_of(outcome)
    return ExitCode.DONE


def _report_in_doubt(session: Session, job_id: str) -> ExitCode:
    hint = resolve_hint(job_id, session.journal_option)
    session.output.error(f"Job {job_id} is in doubt: no response has told whether it was accepted. {hint}")
    return ExitCode.IN_DOUBT


def recover(
    context: typer.Context,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder for results; without it, none is saved."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait for results, or only for the tasks' ids.")] = True,
    adopt_key: Annotated[
        bool, typer.Option("--adopt-key", help="Send also unsent jobs of another API key, with the present one.")
    ] = False,
    allow_networks: AllowNetworksOption = None,  # noqa: ARG001 (its callback does the work)
    proxy: ProxyOption = None,  # noqa: ARG001 (its callback does the work)
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume all unfinished jobs of the journal: send what was never sent, wait, save."""
    run_with_journal(
        context,
        lambda session: run_recover(session, wait=wait, out=out, adopt_key=adopt_key),
        as_json=as_json,
        journal=journal,
    )
