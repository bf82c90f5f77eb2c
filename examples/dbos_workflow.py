"""
Durable workflows with DBOS: each line of a table is an order, and each order is a workflow that makes a video.

Run it, and run it again after a crash: finished steps are replayed, running tasks are waited for, nothing is paid twice
(README.md beside this file lists the environment variables)::

    python dbos_workflow.py orders.csv

The table has the columns ``order``, ``image_url`` and ``prompt``.
"""

import csv
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import anyio
from dbos import DBOS, SetWorkflowID

from kie_async import KieClient, KieError, Wan22TurboImageToVideo

kie = KieClient(journal=os.environ.get("KIE_JOURNAL", "kie.db"))  # reads KIE_API_KEY itself
DBOS(config={"name": "shots", "system_database_url": os.environ.get("DBOS_SYSTEM_DATABASE_URL")})


@DBOS.step()
async def make_video(image_url: str, prompt: str) -> str:
    """Return the URL of an order's video."""
    # DBOS runs a step again if the process ended within it. The key finds the task that the first run has paid.
    # A workflow with several steps that pay needs a key for each: f"{DBOS.workflow_id}-{DBOS.step_id}".
    video = await kie.generate(Wan22TurboImageToVideo(image=image_url, prompt=prompt), key=DBOS.workflow_id)
    return video.url


@DBOS.workflow()
async def fulfil(image_url: str, prompt: str) -> str:
    """Make the video of an order; further steps, such as saving it and telling the customer, go here."""
    return await make_video(image_url, prompt)


async def run(order: Mapping[str, str]) -> None:
    """Start the workflow of an order if it is not started yet, and print its result."""
    with SetWorkflowID(order["order"]):  # the same order is the same workflow
        workflow = await DBOS.start_workflow_async(fulfil, order["image_url"], order["prompt"])
    try:
        print(order["order"], await workflow.get_result(), flush=True)
    except KieError as error:  # the message says what to do next
        print(order["order"], error, flush=True)


async def main(orders: list[dict[str, str]]) -> None:
    """Run the workflows of all orders."""
    async with kie:
        DBOS.launch()  # in the running loop, where the client is; it resumes the workflows of a crash
        try:
            async with anyio.create_task_group() as group:
                for order in orders:
                    group.start_soon(run, order)
        finally:
            DBOS.destroy()


if __name__ == "__main__":
    anyio.run(main, list(csv.DictReader(Path(sys.argv[1]).read_text().splitlines())))
