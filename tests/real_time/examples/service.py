"""
A program: the service in a process of its own, which tells its truth as JSON when it is ended by SIGTERM.

Its first line is its URL, its second what it has seen; see ``Told``.
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

__all__ = ["Shot", "Told"]


class Shot(TypedDict):
    """One task, with the instants (by the service's clock) of each look at it, and of each post about its end."""

    task_id: str
    prompt: str
    url: str
    callback_url: str
    polls: list[float]
    callbacks: list[tuple[float, int | None]]


class Told(TypedDict):
    """What the service has seen: every task; creates that came too fast; the most creates in any 10 s."""

    shots: list[Shot]
    refused: int
    busiest: int


def truth_of(fake: FakeKie) -> Told:
    """What a fake has seen."""
    by_task = attrgetter("task_id")
    polls = {task_id: list(polls) for task_id, polls in groupby(sorted(fake.truth.polls, key=by_task), by_task)}
    posts = {task_id: list(posts) for task_id, posts in groupby(sorted(fake.truth.callbacks, key=by_task), by_task)}
    return Told(
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


def say(line: str) -> None:
    """Tell the test something."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(webhook_key: str) -> None:
    """Run it: the account's limits are Kie's, and a task takes one to three seconds."""
    async with FakeKie(webhook_key=webhook_key, duration=lambda _model, rng: rng.uniform(1.0, 3.0)) as fake:
        say(fake.url)
        await wait_for_signal()
        say(json.dumps(truth_of(fake)))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1])
