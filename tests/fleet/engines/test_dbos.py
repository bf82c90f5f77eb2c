"""The example of DBOS: orders outlive the process that runs them, and are paid once."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import pytest

from kie_async import KieClient
from tests import profile
from tests.fleet.engines.orders import SECONDS, limit_is_used_up, results_of, write_orders
from tests.real_time.examples.processes import ROOT, clean_environment, running_service, started

STOPS = profile.scaled(quick=[signal.SIGKILL], check=[signal.SIGKILL], nightly=[signal.SIGKILL, signal.SIGINT])
TIMEOUT = 120.0


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
async def test_dbos_orders_of_a_stopped_process_end_and_are_paid_once(
    tmp_path: Path, postgres_dsn: str, stop: signal.Signals
) -> None:
    names = write_orders(tmp_path / "orders.csv")
    program = (str(ROOT / "examples" / "dbos_workflow.py"), "orders.csv")
    with anyio.fail_after(TIMEOUT):
        async with running_service("a-webhook-key", seconds=SECONDS) as service:
            settings = {"KIE_API_KEY": "an-api-key", "KIE_BASE_URL": service.url, "KIE_JOURNAL": postgres_dsn}
            env = clean_environment(PYTHONPATH=str(ROOT), DBOS_SYSTEM_DATABASE_URL=postgres_dsn, **settings)
            async with (
                KieClient("an-api-key", base_url=service.url, journal=postgres_dsn) as kie,
                started(*program, cwd=tmp_path, env=env) as process,
            ):
                await limit_is_used_up(kie)
                process.send_signal(stop)
                await process.wait()
            async with started(*program, cwd=tmp_path, env=env) as process:
                results = await results_of(process)
            log = await service.end()

    assert sorted(names) == sorted(shot["prompt"] for shot in log["shots"])
    assert {shot["prompt"]: shot["url"] for shot in log["shots"]} == results
    assert (0, True) == (log["refused"], log["busiest"] <= 20)
