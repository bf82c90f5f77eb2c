"""A process that runs some tables under one named budget, for ``test_budget_processes``."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import anyio
import anyio._backends._asyncio

from kie_async import Budget, KieClient, Limits, RetryPolicy, Wan22TurboImageToVideo
from tests.real_time.crash.accelerated_loop import AcceleratedLoop

__all__ = ["NAME", "PRICE", "TOTAL", "run_tables"]

NAME, TOTAL, PRICE = "campaign-7", 1000.0, 80.0
KEY = "any-key-is-good"


def run_tables(url: str, path: Path, epoch: float, tables: dict[str, int]) -> None:
    """
    Run all tables at once, and end when they have ended.

    Args:
        url: The URL of the service.

        path: The journal.

        epoch: See ``AcceleratedLoop``.

        tables: The number of rows of each table, by its name.
    """
    with asyncio.Runner(loop_factory=partial(AcceleratedLoop, 20.0, epoch)) as runner:
        runner.run(_main(url, path, tables))


async def _main(url: str, path: Path, tables: dict[str, int]) -> None:
    limits = Limits(creates=100, window=1.0, polls_per_second=100.0)
    retry = RetryPolicy(in_doubt_timeout=20.0)
    async with (
        KieClient(KEY, base_url=url, limits=limits, journal=path, retry=retry) as kie,
        anyio.create_task_group() as group,
    ):
        for name, count in tables.items():
            group.start_soon(_run_table, kie, name, count)


async def _run_table(kie: KieClient, name: str, count: int) -> None:
    rows = [
        (f"{name}-{number}", Wan22TurboImageToVideo(image="https://example.com/cat.png", prompt=f"{name} {number}"))
        for number in range(count)
    ]
    async with kie.map(rows, budget=Budget(credits=TOTAL, name=NAME)) as run:
        async for _ in run:
            pass
