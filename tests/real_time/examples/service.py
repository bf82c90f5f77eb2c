"""
A program that runs the fake service and prints its log as JSON when SIGTERM ends it.

Its first line is the URL, its second the log; see ``ServiceLog``.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from operator import attrgetter
from typing import TypedDict

import anyio

from kie_async.cli.fake import wait_for_signal
from kie_async.testing import FakeKie

__all__ = ["ServiceLog", "Shot"]


class Shot(TypedDict):
    """A task, with the times (by the service's clock) of its polls and of its callbacks."""

    task_id: str
    prompt: str
    url: str
    callback_url: str
    polls: list[float]
    callbacks: list[tuple[float, int | None]]


class ServiceLog(TypedDict):
    """The log of the service: every task, the number of creates refused with 429, the most creates in any 10 s."""

    shots: list[Shot]
    refused: int
    busiest: int


def service_log(fake: FakeKie) -> ServiceLog:
    """Return the log of a fake."""
    by_task = attrgetter("task_id")
    polls = {task_id: list(polls) for task_id, polls in groupby(sorted(fake.truth.polls, key=by_task), by_task)}
    posts = {task_id: list(posts) for task_id, posts in groupby(sorted(fake.truth.callbacks, key=by_task), by_task)}
    return ServiceLog(
        shots=[
            Shot(
                task_id=task.task_id,
                prompt=str(task.input["prompt"]),
                url=task.result_url,
                callback_url=task.callback_url or "",
                polls=[poll.at for poll in polls.get(task.task_id, [])],
                callbacks=[(post.at, post.status) for post in posts.get(task.task_id, [])],
            )
            for task in fake.truth.created
        ],
        refused=len(fake.truth.rate_limited),
        busiest=fake.truth.busiest_window(10.0),
    )


def print_line(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(webhook_key: str, least: float, most: float) -> None:
    """Run the service with Kie's limits and tasks of *least* to *most* seconds."""
    async with FakeKie(
        webhook_key=webhook_key, duration=lambda _model, rng: rng.uniform(least, most), credits=1_000_000
    ) as fake:
        print_line(fake.url)
        await wait_for_signal()
        print_line(json.dumps(service_log(fake)))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
