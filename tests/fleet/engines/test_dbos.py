"""The example of DBOS: orders outlive the process that runs them, and are paid once."""

from __future__ import annotations

import csv
import signal
from collections import Counter
from pathlib import Path

import anyio
import pytest

from kie_async import JobState, KieClient
from tests import profile
from tests.real_time.examples.processes import ROOT, clean_environment, running_service, started

#: Kie's limit lets 20 creates through at once: at the full size the others are unsent when the process is stopped.
ORDERS = profile.scaled(quick=5, check=5, nightly=30)
SENT = min(20, ORDERS)
STOPS = profile.scaled(quick=[signal.SIGKILL], check=[signal.SIGKILL], nightly=[signal.SIGKILL, signal.SIGINT])
TIMEOUT = 120.0


def write_orders(table: Path) -> list[str]:
    """Write a table of orders; return their names."""
    names = [f"order-{number}" for number in range(ORDERS)]
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["order", "image_url", "prompt"])
        rows.writerows([name, "https://example.com/cat.png", name] for name in names)
    return names


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
async def test_dbos_orders_of_a_stopped_process_end_and_are_paid_once(
    tmp_path: Path, postgres_dsn: str, stop: signal.Signals
) -> None:
    """The process is stopped when the limit is used up, so that no create is on its way."""
    names = write_orders(tmp_path / "orders.csv")
    at_limit = Counter({JobState.SUBMITTED: SENT, JobState.INTENT: ORDERS - SENT})
    program = (str(ROOT / "examples" / "dbos_workflow.py"), "orders.csv")
    with anyio.fail_after(TIMEOUT):
        async with running_service("a-webhook-key") as service:
            settings = {"KIE_API_KEY": "an-api-key", "KIE_BASE_URL": service.url}
            env = clean_environment(PYTHONPATH=str(ROOT), DBOS_SYSTEM_DATABASE_URL=postgres_dsn, **settings)
            async with (
                KieClient("an-api-key", base_url=service.url, journal=tmp_path / "kie.db") as kie,
                started(*program, cwd=tmp_path, env=env) as process,
            ):
                while Counter(job.state for job in await kie.jobs()) != at_limit:
                    await anyio.sleep(0.05)
                process.send_signal(stop)
                await process.wait()
            async with started(*program, cwd=tmp_path, env=env) as process:
                assert process.stdout is not None
                printed = b"".join([chunk async for chunk in process.stdout]).decode()
            log = await service.end()
    results = dict(line.split(" ", 1) for line in printed.splitlines() if line.startswith("order-"))

    assert sorted(names) == sorted(shot["prompt"] for shot in log["shots"])
    assert {shot["prompt"]: shot["url"] for shot in log["shots"]} == results, printed
