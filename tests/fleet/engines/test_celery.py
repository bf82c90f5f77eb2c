"""The example of Celery: orders outlive their worker, are paid once, and their errors arrive with their ids."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from celery import Celery

from examples.celery_tasks import OrderError
from kie_async import KieClient
from tests.client.test_pickles import make_errors
from tests.fleet.engines.orders import SECONDS, limit_is_used_up, results_of, write_orders
from tests.real_time.examples.processes import ROOT, clean_environment, running_service, started
from tests.servers.redis import running_redis

CELERY = "tests.fleet.engines.celery_app"
WORKER = (
    "-m",
    "celery",
    "--app",
    CELERY,
    "worker",
    "--pool",
    "threads",
    "--concurrency",
    "30",
    "--logfile",
    "worker.log",
)
TIMEOUT = 120.0


async def test_celery_orders_of_a_killed_worker_end_and_are_paid_once(tmp_path: Path, journal: str) -> None:
    """The messages of the killed worker are delivered again to the next one."""
    names = write_orders(tmp_path / "orders.csv")
    with anyio.fail_after(TIMEOUT), running_redis(tmp_path) as redis:
        async with running_service("a-webhook-key", seconds=SECONDS) as service:
            settings = {
                "KIE_API_KEY": "an-api-key",
                "KIE_BASE_URL": service.url,
                "KIE_JOURNAL": journal,
            }
            settings |= {"CELERY_BROKER_URL": redis, "CELERY_RESULT_BACKEND": redis}
            env = clean_environment(PYTHONPATH=str(ROOT), **settings)
            async with started("-m", CELERY, str(tmp_path / "orders.csv"), cwd=tmp_path, env=env) as customer:
                async with (
                    KieClient("an-api-key", base_url=service.url, journal=journal) as kie,
                    started(*WORKER, cwd=tmp_path, env=env) as worker,
                ):
                    await limit_is_used_up(kie)
                    worker.kill()
                async with started(*WORKER, cwd=tmp_path, env=env) as worker:
                    results = await results_of(customer)
                    worker.terminate()
            log = await service.end()

    assert sorted(names) == sorted(shot["prompt"] for shot in log["shots"])
    assert {shot["prompt"]: shot["url"] for shot in log["shots"]} == results
    assert (0, True) == (log["refused"], log["busiest"] <= 20)


@pytest.mark.parametrize("error", make_errors(KieClient("an-api-key").job("kj_" + "0" * 32)), ids=type)
def test_the_error_of_an_order_keeps_its_ids_in_celerys_json(error: Exception) -> None:
    """Celery's JSON keeps the class and the arguments of an exception; ours have their ids in attributes."""
    raised = OrderError(str(error))
    backend = Celery("errors", backend="cache+memory://").backend

    arrived = backend.exception_to_python(backend.decode(backend.encode(backend.prepare_exception(raised))))

    assert isinstance(arrived, OrderError)
    assert str(error) == str(arrived)
    assert "kj_" in str(arrived)
