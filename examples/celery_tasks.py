"""
Videos as tasks of Celery: each line of a table is an order, and each order is a task that makes a video.

Start a worker, and order from another terminal (README.md beside this file lists the environment variables)::

    celery --app celery_tasks worker --pool threads --concurrency 20
    python celery_tasks.py orders.csv

The table has the columns ``order``, ``image_url`` and ``prompt``.
"""

from __future__ import annotations

import asyncio
import csv
import os
import sys
from pathlib import Path

from celery import Celery, Task

from kie_async import KieClient, KieError, Wan22TurboImageToVideo

app = Celery("celery_tasks", broker="redis://localhost", backend="redis://localhost")
app.conf.update(
    task_acks_late=True,  # an order whose worker has ended is delivered again, and its task is not paid again:
    task_reject_on_worker_lost=True,  # make_video() says why
    worker_prefetch_multiplier=1,
)


class OrderError(Exception):
    """An order without a video. Celery's JSON keeps the text of an error and drops its attributes."""


@app.task(bind=True)
def make_video(self: Task[[str, str], str], image_url: str, prompt: str) -> str:
    """Return the URL of an order's video."""
    request = Wan22TurboImageToVideo(image=image_url, prompt=prompt)
    try:
        return asyncio.run(generate(request, self.request.id or ""))  # no id would be no key; an empty one is refused
    except KieError as error:  # the text has the ids, and says what to do next
        raise OrderError(str(error)) from error


async def generate(request: Wan22TurboImageToVideo, key: str) -> str:
    """Generate a video with a client of this task's own; all of them share the journal, and so the account's limits."""
    async with KieClient(journal=os.environ.get("KIE_JOURNAL", "kie.db")) as kie:  # reads KIE_API_KEY itself
        # A message that is delivered again has the same id: the key finds the task that the first delivery has paid.
        video = await kie.generate(request, key=key)
    return video.url


def main(table: Path) -> None:
    """Order the videos of a table, and print each result."""
    with table.open(newline="") as file:
        orders = [
            make_video.apply_async((order["image_url"], order["prompt"]), task_id=order["order"])
            for order in csv.DictReader(file)
        ]
    for order in orders:
        try:
            print(order.id, order.get(), flush=True)
        except OrderError as error:
            print(order.id, error, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
