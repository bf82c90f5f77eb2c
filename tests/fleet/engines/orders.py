"""A table of orders for the tests of the engines, and the moment at which its process is stopped."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import anyio
from anyio.abc import Process

from kie_async import JobState, KieClient
from tests import profile

__all__ = ["ORDERS", "SECONDS", "limit_is_used_up", "results_of", "write_orders"]

#: Kie's limit lets 20 creates through at once: at the full size the others are unsent when the process is stopped.
ORDERS = profile.scaled(quick=5, check=5, nightly=30)
#: Tasks still run when the process is stopped, also on a busy machine.
SECONDS = (6.0, 9.0)


def write_orders(table: Path) -> list[str]:
    """Write a table of orders; return their names, which are their prompts, too."""
    names = [f"order-{number}" for number in range(ORDERS)]
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["order", "image_url", "prompt"])
        rows.writerows([name, "https://example.com/cat.png", name] for name in names)
    return names


async def limit_is_used_up(kie: KieClient) -> None:
    """Wait until all orders are journaled, and the limit is used up: no create is on its way."""
    states = Counter[JobState]()
    while states.total() < ORDERS or states[JobState.INTENT] > max(0, ORDERS - 20) or states[JobState.SENDING]:
        await anyio.sleep(0.05)
        states = Counter(job.state for job in await kie.jobs())


async def results_of(process: Process) -> Mapping[str, str]:
    """Return what a process prints about each order until its end."""
    assert process.stdout is not None
    printed = b"".join([chunk async for chunk in process.stdout]).decode()
    return dict(line.split(" ", 1) for line in printed.splitlines() if line.startswith("order-"))
