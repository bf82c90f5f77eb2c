"""The steps from a submitted job to its files: wait, show, save, report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import anyio

from kie_async import JSON, ConfigurationError, Generation, Job, KieError
from kie_async.cli.output import Output, ShowState

__all__ = ["check_output", "result_fields", "save_and_show", "wait_and_show", "wait_for_task_id", "write_result"]


async def wait_for_task_id(job: Job) -> str:
    """
    Wait until a job has a task, and return the task's id.

    Args:
        job: The job.

    Raises:
        KieError: If the job has no task, and gets none.
    """
    try:
        return (await job.status()).task_id
    except KieError:
        # The task id is enough: a failed poll of the task does not matter here.
        if job.task_id is None:
            raise
        return job.task_id


async def wait_and_show(job: Job, show: ShowState, *, name: str, timeout: float | None = None) -> Generation:
    """
    Wait for a job, and show its states.

    Args:
        job: The job.

        show: The progress display.

        name: The job's name in the display.

        timeout: The seconds to wait; None for as long as a task may live.

    Raises:
        KieError: As ``Job.wait``.
    """
    outcomes: list[Generation | KieError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_show_updates, job, show, name)
        try:
            outcomes.append(await job.wait(timeout))
        except KieError as error:
            # Not raised here: an error that leaves a task group is wrapped in an ExceptionGroup.
            outcomes.append(error)
        group.cancel_scope.cancel()
    [outcome] = outcomes
    if isinstance(outcome, KieError):
        raise outcome
    show(name, outcome.record.state)
    return outcome


async def _show_updates(job: Job, show: ShowState, name: str) -> None:
    try:
        async for record in job.updates():
            show(name, record.state)
    except KieError:
        return  # Job.wait raises the same error


def check_output(target: Path | None) -> None:
    """
    Check that a result can be saved, before anything is paid; blocks, so call it in a thread.

    Args:
        target: The file or folder for the result; None for the current folder.

    Raises:
        ConfigurationError: If nothing can be written there.
    """
    if target is None:
        target = Path()
    folder = target if target.is_dir() else target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        problem = f"{folder} is a file"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"no permission to write in {folder}"
    else:
        return
    msg = f"Cannot write {target}: {problem}. Nothing was sent. Choose another file or folder with -o."
    raise ConfigurationError(msg)


def result_fields(generation: Generation, files: list[Path]) -> Mapping[str, JSON]:
    """
    Return a result as JSON.

    Args:
        generation: The result.

        files: The files that it was saved in.
    """
    return {
        "job_id": generation.job_id,
        "task_id": generation.task_id,
        "state": generation.record.state,
        "credits": generation.credits,
        "seconds": generation.seconds,
        "urls": list(generation.urls),
        "files": [str(file) for file in files],
    }


async def save_and_show(generation: Generation, target: Path | None, show: ShowState, *, name: str) -> list[Path]:
    """
    Save a result and return its files: none where the model answers with text.

    Args:
        generation: The result.

        target: A file, a folder, or None for the current folder.

        show: The progress display.

        name: The job's name in the display.

    Raises:
        DownloadError: If the result cannot be saved.
    """
    files: list[Path] = []
    if generation.urls:
        show(name, "saving")
        files = await generation.save(target if target is not None else Path())
    show(name, "saved" if files else "done", done=True)
    return files


def write_result(output: Output, generation: Generation, files: list[Path]) -> None:
    """
    Write a result, its cost and its duration.

    Args:
        output: The command's output.

        generation: The result.

        files: The files that it was saved in.
    """
    seconds = "" if generation.seconds is None else f", {generation.seconds:.1f} s at the service"
    cost = "" if generation.credits is None else f", {generation.credits:g} credits"
    output.info(f"Task {generation.task_id}{cost}{seconds}.")
    lines = [str(place) for place in files or generation.urls] or [json.dumps(generation.record.result)]
    output.result(lines, result_fields(generation, files))
