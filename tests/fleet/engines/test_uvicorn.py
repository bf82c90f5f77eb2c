"""The FastAPI example with several workers on several machines, of which workers are killed at random."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import anyio
import attrs
import pytest

from tests import profile
from tests.postgres.clock import in_thread
from tests.real_time.examples.processes import Backend, Server, free_port, running_backend, running_service
from tests.servers.postgres import PostgresServer

ORDERS = profile.scaled(quick=10, check=10, nightly=200)
WORKERS = profile.scaled(quick=2, check=2, nightly=4)
KILLS = profile.scaled(quick=1, check=1, nightly=8)
TIMEOUT = 300.0


def workers_of(server: Server) -> list[int]:
    """Return the workers of a machine; its other child keeps account of shared memory."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@attrs.define
class Customers:
    """
    Customers who order a video each at a random machine, and ask again when their connection breaks.

    Attributes:
        servers: The machines.

        http: The customers' session.

        rng: Chooses machines, workers, and when one is killed.

        answers: The last answer about each order.

        kill_at: The numbers of answers at which a worker is killed.
    """

    servers: list[Server]
    http: aiohttp.ClientSession
    rng: Random
    answers: dict[str, dict[str, str]] = attrs.field(factory=dict)
    kill_at: set[int] = attrs.field(factory=set)

    async def ask(self, method: str, path: str, **body: Any) -> dict[str, str]:
        """Send a request to a random machine until it is answered."""
        while True:
            url = self.rng.choice(self.servers).url
            try:
                async with self.http.request(method, url + path, **body) as answer:
                    assert answer.status in {200, 202}, await answer.text()
                    found: dict[str, str] = await answer.json()
                    return found
            except aiohttp.ClientError:
                await anyio.sleep(0.05)

    async def order(self, name: str) -> None:
        """Order a video, wait for it, and kill a worker if it is time."""
        shot = {"key": name, "image_url": "https://example.com/cat.png", "prompt": name}
        job_id = (await self.ask("POST", "/shots", json=shot))["id"]
        while (answer := await self.ask("GET", f"/shots/{job_id}"))["state"] == "running":
            pass
        self.answers[name] = answer
        if len(self.answers) in self.kill_at:
            os.kill(self.rng.choice(workers_of(self.rng.choice(self.servers))), signal.SIGKILL)


async def test_orders_of_killed_workers_are_made_once(journal: str) -> None:
    """Each worker that is killed has orders that are unsent, on their way, or running."""
    machines = 2 if "://" in journal else 1
    rng = Random(profile.seed())
    names = [f"order-{number}" for number in range(ORDERS)]
    with anyio.fail_after(TIMEOUT):
        async with running_service("a-webhook-key") as service, AsyncExitStack() as stack:
            ports = [stack.enter_context(free_port()) for _ in range(machines)]
            settings = {"API_KEY": "an-api-key", "BASE_URL": service.url, "WEBHOOK_KEY": "a-webhook-key"}
            settings |= {"CALLBACK_URL": f"http://127.0.0.1:{ports[0]}/kie", "JOURNAL": journal}
            servers = []
            for port in ports:
                uvicorn = ("-m", "uvicorn", "--no-access-log", "--port", str(port), "fastapi_backend:app")
                backend = Backend(uvicorn, "Application startup complete.", WORKERS)
                env = {f"KIE_{name}": value for name, value in settings.items()}
                servers.append(await stack.enter_async_context(running_backend(backend, port, **env)))
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
            customers = Customers(servers, http, rng, kill_at=set(rng.sample(range(1, ORDERS * 9 // 10), KILLS)))
            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(customers.order, name)
            log = await service.end()

    assert [] == [answer for answer in customers.answers.values() if answer["state"] != "done"]
    assert sorted(names) == sorted(shot["prompt"] for shot in log["shots"])
    assert {shot["prompt"]: {"state": "done", "url": shot["url"]} for shot in log["shots"]} == customers.answers
    assert (0, True) == (log["refused"], log["busiest"] <= 20)


@pytest.mark.parametrize(
    "name", profile.scaled(quick=["fastapi"], check=["fastapi"], nightly=["fastapi", "litestar", "django", "aiohttp"])
)
async def test_backend_answers_503_while_its_database_is_away(name: str) -> None:
    """The customer is told to come again, and nothing of the database: the order is taken once it is back."""
    if name == "aiohttp":
        command: tuple[str, ...] = ("aiohttp_backend.py",)
        ready = "Running on"
    else:
        app = "application" if name == "django" else "app"
        command, ready = ("-m", "uvicorn", f"{name}_backend:{app}"), "Application startup complete."
    shot = {"image_url": "https://example.com/cat.png", "prompt": "The cat yawns"}
    with anyio.fail_after(TIMEOUT), free_port() as port:
        async with running_service("a-webhook-key") as service, AsyncExitStack() as stack:
            database = stack.enter_context(await in_thread(PostgresServer))
            settings = {"KIE_API_KEY": "an-api-key", "KIE_BASE_URL": service.url, "KIE_JOURNAL": database.dsn()}
            settings |= {"KIE_CALLBACK_URL": f"http://127.0.0.1:{port}/kie", "UVICORN_PORT": str(port)}
            server = await stack.enter_async_context(running_backend(Backend(command, ready, 1), port, **settings))
            http = await stack.enter_async_context(aiohttp.ClientSession(server.url))

            async def order(key: str) -> tuple[int, str]:
                async with http.post("/shots", json={"key": key, **shot}) as answer:
                    return answer.status, await answer.text()

            status, _ = await order("order-1")
            await in_thread(database.stop, "immediate")
            away, text = await order("order-2")
            async with http.get("/shots/kj_0123") as answer:
                shown = answer.status, await answer.text()
            await in_thread(database.start)
            while (again := await order("order-2"))[0] == 503:
                await anyio.sleep(0.05)
            await service.end()

    assert (202, 503, 503, 202) == (status, away, shown[0], again[0])
    assert "postgresql" not in text + shown[1]
