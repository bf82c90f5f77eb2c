"""The way of one job from its submission to its files: wait, show, save, report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import anyio

from kie_async import JSON, ConfigurationError, Generation, Job, KieError
from kie_async.cli.output import Output
from kie_async.cli.progress import Show

__all__ = ["accepted", "check_target", "fields_of", "report", "save_and_show", "wait_and_show"]


async def accepted(job: Job) -> str:
    """
    Wait until a job has a task.

    Args:
        job: The job.

    Returns:
        The taskId.

    Raises:
        KieError: If it has none, and gets none.
    """
    try:
        return (await job.status()).task_id
    except KieError:
        # That the task cannot be looked at right now does not matter to whoever asks whether there is one.
        if job.task_id is None:
            raise
        return job.task_id


async def wait_and_show(job: Job, show: Show, *, name: str, timeout: float | None) -> Generation:
    """
    Wait for a job, and show its states.

    Args:
        job: The job.

        show: Shows them.

        name: What it calls the job.

        timeout: How long, in seconds; None for as long as a task may live.

    Raises:
        KieError: As ``Job.wait``.
    """
    outcomes: list[Generation | KieError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_follow, job, show, name)
        try:
            outcomes.append(await job.wait(timeout))
        except KieError as error:
            # Kept, not raised: an error that leaves a task group is wrapped in an ExceptionGroup.
            outcomes.append(error)
        group.cancel_scope.cancel()
    [outcome] = outcomes
    if isinstance(outcome, KieError):
        raise outcome
    show(name, outcome.record.state)
    return outcome


async def _follow(job: Job, show: Show, name: str) -> None:
    try:
        async for record in job.updates():
            show(name, record.state)
    except KieError:
        # Whoever waits for the job gets the same one.
        return


def check_target(target: Path | None) -> None:
    """
    Make sure that a result can be saved, before it is paid for; blocks, so it is a matter for a thread.

    Args:
        target: Where it is to go.

    Raises:
        ConfigurationError: If it cannot.
    """
    if target is None:
        target = Path()
    folder = target if target.is_dir() else target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        msg = f"{target} cannot be written: {folder} is a file. Nothing was sent: choose another place with -o."
        raise ConfigurationError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{target} cannot be written: {folder} is not yours to write. Nothing was sent: choose another with -o."
        raise ConfigurationError(msg)


def fields_of(generation: Generation, files: list[Path]) -> Mapping[str, JSON]:
    """
    A result as JSON.

    Args:
        generation: The result.

        files: Where it was saved.
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


async def save_and_show(generation: Generation, target: Path | None, show: Show, *, name: str) -> list[Path]:
    """
    Save a result, if it is one that can be: some models answer with a text.

    Args:
        generation: The result.

        target: Where it goes: a file, a folder, or None for the current folder.

        show: Shows what is being done.

        name: What it calls the job.

    Returns:
        The files.

    Raises:
        DownloadError: If it cannot be saved.
    """
    files: list[Path] = []
    if generation.urls:
        show(name, "saving")
        files = await generation.save(target if target is not None else Path())
    show(name, "saved" if files else "done", done=True)
    return files


def report(output: Output, generation: Generation, files: list[Path]) -> None:
    """
    Write a result, and what it cost and took.

    Args:
        output: Where to.

        generation: The result.

        files: Where it was saved.
    """
    took = "" if generation.seconds is None else f", {generation.seconds:.1f} s at the service"
    cost = "" if generation.credits is None else f", {generation.credits:g} credits"
    output.say(f"Task {generation.task_id}{cost}{took}.")
    text = "\n".join(map(str, files or generation.urls)) or json.dumps(generation.record.result)
    output.result(text, fields_of(generation, files))
