"""The commands about a task that exists: ``status`` and ``wait``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeAlias

import anyio.to_thread
import typer

from kie_async import JSON, TaskRecord
from kie_async.cli.delivery import check_target, report, save_and_show, wait_and_show
from kie_async.cli.exits import Exit
from kie_async.cli.options import JsonOption, OutputOption, TimeoutOption
from kie_async.cli.progress import progress
from kie_async.cli.running import run
from kie_async.cli.session import Session

__all__ = ["carry_out_status", "carry_out_wait", "describe", "status", "wait"]

TaskArgument: TypeAlias = Annotated[str, typer.Argument(metavar="TASKID", help="The task's id at the service.")]


def describe(record: TaskRecord, *, now: float) -> Mapping[str, JSON]:
    """
    What is known of a task, by name.

    Args:
        record: The service's record.

        now: The instant to which its age is counted, in seconds since the epoch.
    """
    age = None if record.created_at is None or record.ended else max(0.0, now - record.created_at)
    return {
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


def _as_text(fields: Mapping[str, JSON]) -> str:
    lines = []
    for name, value in fields.items():
        for part in value if isinstance(value, list) else [value]:
            unit = " s" if name in ("age", "seconds") else ""
            if part is not None:
                lines.append(f"{name:<13}{f'{part:g}' if isinstance(part, float) else part}{unit}")
    return "\n".join(lines)


async def carry_out_status(session: Session, task_id: str) -> Exit:
    """
    Ask the service for a task's record.

    Args:
        session: The command's session.

        task_id: The task.

    Raises:
        KieError: If there is no record.
    """
    async with session.client() as kie:
        record = await kie.attach(task_id).refresh()
    fields = describe(record, now=datetime.now(UTC).timestamp())
    session.output.result(_as_text(fields), fields)
    return Exit.DONE


async def carry_out_wait(session: Session, task_id: str, *, target: Path | None, timeout: float | None) -> Exit:
    """
    Wait for a task, and save its result.

    Args:
        session: The command's session.

        task_id: The task.

        target: Where the result goes: a file, a folder, or None for the current folder.

        timeout: How long to wait, in seconds; None for an hour.

    Raises:
        KieError: If there is no result, or not yet.
    """
    session.begin_trail(task_id)
    await anyio.to_thread.run_sync(check_target, target)
    async with session.client() as kie:
        with progress(session.output) as show:
            generation = await wait_and_show(kie.attach(task_id), show, name=task_id, timeout=timeout)
            files = await save_and_show(generation, target, show, name=task_id)
    report(session.output, generation, files)
    return Exit.DONE


def status(context: typer.Context, task_id: TaskArgument, *, as_json: JsonOption = False) -> None:
    """Show what the service says of a task: state, age, credits, results."""
    run(context, lambda session: carry_out_status(session, task_id), as_json=as_json)


def wait(
    context: typer.Context,
    task_id: TaskArgument,
    *,
    output: OutputOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for a task and save its result."""
    run(
        context,
        lambda session: carry_out_wait(session, task_id, target=output, timeout=timeout),
        as_json=as_json,
    )
