"""The command ``recover``: everything that the journal has unfinished, to its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import anyio
import attrs
import typer

from kie_async import Generation, KieError, SubmitInDoubtError, TaskTimeoutError
from kie_async.cli.exit_codes import Exit, exit_of, worst
from kie_async.cli.job_status import how_to_settle
from kie_async.cli.jobs import warn_of_duplicates
from kie_async.cli.journals import choose
from kie_async.cli.options import JournalOption, JsonOption
from kie_async.cli.progress import Show, progress
from kie_async.cli.running import run
from kie_async.cli.session import Session
from kie_async.cli.trails import Trails
from kie_async.cli.wait_and_save import accepted, report, save_and_show, wait_and_show

if TYPE_CHECKING:
    from kie_async import Job, JobInfo

__all__ = ["Plan", "carry_out", "recover"]


@attrs.frozen
class Plan:
    """
    What becomes of the jobs.

    Attributes:
        wait: Whether they are waited for, or only brought to a taskId.

        out: The folder for the results; None if they are not saved.
    """

    wait: bool = True
    out: Path | None = None


@attrs.frozen
class Finished:
    """
    A job that has a result.

    Attributes:
        generation: The result.

        files: Where it was saved.
    """

    generation: Generation
    files: list[Path]


#: What a job ends with here: a result, a taskId where results are not waited for, or an error.
Outcome: TypeAlias = Finished | str | KieError


async def carry_out(session: Session, plan: Plan) -> Exit:
    """
    Go on with everything that is unfinished and that no living process works on.

    Args:
        session: The command's session.

        plan: What becomes of it.

    Raises:
        KieError: If nothing can be taken up; what single jobs end with is told, and decides the exit code.

        OSError: If there can be no folder for the results.
    """
    trails = Trails(note=session.output.warn, journal="" if session.journal is None else session.journal.option)
    session.trail = trails
    if plan.out is not None:
        await anyio.Path(plan.out).mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    async with session.client() as kie:
        known = {summary.id: summary for summary in await kie.jobs(unfinished=True)}
        jobs = await kie.recover()
        trails.begin(job.id for job in jobs)
        with progress(session.output) as show:
            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(_finish, job, _name(job.id, known), plan, show, outcomes)
        after = [await job.info() for job in jobs]
    codes = [_tell(session, job.id, outcomes[job.id]) for job in jobs]
    warn_of_duplicates(session.output, [summary for summary in after if summary is not None])
    codes += [_tell_doubt(session, summary.id) for summary in known.values() if summary.state == "unresolved"]
    if not codes:
        session.output.say("Nothing is unfinished that another process does not work on.")
    return worst(codes)


def _name(job_id: str, known: Mapping[str, JobInfo]) -> str:
    """What a job is called in the progress: its key, where it has one that fits a line."""
    key = known[job_id].key if job_id in known else None
    return key if key is not None and key.isprintable() else job_id


async def _finish(job: Job, name: str, plan: Plan, show: Show, outcomes: dict[str, Outcome]) -> None:
    """Bring one job home; an error is kept, so that the others come home, too."""
    show(name, job.state or "taken up")
    try:
        if plan.wait:
            generation = await wait_and_show(job, show, name=name, timeout=None)
            files = await save_and_show(generation, plan.out, show, name=name) if plan.out is not None else []
            show(name, "saved" if files else "done", done=True)
            outcomes[job.id] = Finished(generation, files)
        else:
            task_id = await accepted(job)
            show(name, f"accepted as task {task_id}", done=True)
            outcomes[job.id] = task_id
    except KieError as error:
        show(name, "in doubt" if isinstance(error, SubmitInDoubtError) else "failed", done=True)
        outcomes[job.id] = error


def _tell(session: Session, job_id: str, outcome: Outcome) -> Exit:
    output = session.output
    match outcome:
        case str():
            output.result(outcome, {"job_id": job_id, "task_id": outcome, "state": "submitted"})
        case Finished():
            report(output, outcome.generation, outcome.files)
        case SubmitInDoubtError():
            return _tell_doubt(session, job_id)
        case TaskTimeoutError():
            option = "" if session.journal is None else session.journal.option
            output.error(f"Job {job_id} has not ended yet. Go on with it: kie-async wait{option} {job_id}")
            return Exit.NOT_YET
        case _:
            output.error(str(outcome))
            return exit_of(outcome)
    return Exit.DONE


def _tell_doubt(session: Session, job_id: str) -> Exit:
    option = "" if session.journal is None else session.journal.option
    session.output.error(f"No answer has told whether job {job_id} was accepted. {how_to_settle(job_id, option)}")
    return Exit.IN_DOUBT


def recover(
    context: typer.Context,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder for results; without it they are not saved."),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Whether to wait for results, or only for the tasks' ids.")
    ] = True,
    journal: JournalOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with all unfinished jobs of the journal: send what was never sent, wait, save."""
    run(
        context,
        lambda session: carry_out(session, Plan(wait=wait, out=out)),
        as_json=as_json,
        journal=choose(journal),
    )
