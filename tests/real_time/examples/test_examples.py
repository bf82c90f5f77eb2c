"""
The examples under their real servers, with the service in another process, in real time.

They obey the account's limit, 20 creates in any 10 s, and mostly wait, so all of them run at the same time.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import anyio
import attrs
import pytest

from kie_async import KieClient, Wan22TurboImageToVideo
from tests.real_time.examples.odd_input import send_odd
from tests.real_time.examples.processes import (
    CALLBACK,
    WORKER,
    Backend,
    Server,
    free_port,
    running_backend,
    running_service,
)
from tests.real_time.examples.service import ServiceLog

KEY = "an-api-key"
WEBHOOK_KEY = "a-webhook-key"
IMAGE = "https://example.com/cat.png"
SHOTS = [f"The cat turns its head, take {number}" for number in range(50)]
LEFT = "An unsent shot of an earlier process"

#: Lines of a framework about odd requests.
ODD = (
    "Bad Request: /",
    "Unprocessable Entity: /",
    "Not Found: /",
    "Invalid HTTP request received.",
    "Unsupported Media",
)

#: What aiohttp logs after it has answered the request that is not gzip: it reads on.
DRAINING = re.compile(
    r"Unhandled exception\n.*?RequestPayloadError: [^\n]*\n  Can not decode content-encoding: gzip\n?", re.DOTALL
)

#: The timeout of a run, in seconds.
TIMEOUT = 100.0

UVICORN = ("-m", "uvicorn", "--no-access-log", "--timeout-keep-alive", "100", "--port")
UVICORN_IS_READY = "Application startup complete."


def under_uvicorn(app: str, port: int, *, workers: int = 1) -> Backend:
    return Backend((*UVICORN, str(port), app), UVICORN_IS_READY, workers)


def backend(name: str, port: int) -> Backend:
    """Return a backend by its name."""
    match name:
        case "fastapi":
            return under_uvicorn("fastapi_backend:app", port)
        case "fastapi, 4 workers":
            return under_uvicorn("tests.real_time.examples.labeled_app:app", port, workers=4)
        case "django":
            return under_uvicorn("django_backend:application", port)
        case "litestar":
            return under_uvicorn("litestar_backend:app", port)
        case _:
            return Backend(("aiohttp_backend.py",), "Running on")


NAMES = ["fastapi", "fastapi, 4 workers", "django", "litestar", "aiohttp"]

#: A backend's response about a job.
Answer: TypeAlias = Mapping[str, str]


@attrs.frozen
class Run:
    """
    The results of one backend.

    Attributes:
        service: The log of the service.

        ids: The job of each shot.

        answers: The final response about each shot, and about the unsent one.

        owners: The worker of each order; empty for a single worker.

        by_worker: The final response of each worker about each shot; empty for a single worker.

        invalid: The statuses of invalid requests to the receiver.

        odd: The statuses of odd requests of strangers, by name.

        output: The lines of the server.
    """

    service: ServiceLog
    ids: Mapping[str, str]
    answers: Mapping[str, Answer]
    owners: Mapping[str, str]
    by_worker: Mapping[str, Mapping[str, Answer]]
    invalid: Sequence[int]
    odd: Mapping[str, int]
    output: Sequence[str]


async def order(http: aiohttp.ClientSession, url: str, prompt: str) -> tuple[str, str]:
    """Order a shot; return the job's id and the worker."""
    shot = {"key": prompt, "image_url": IMAGE, "prompt": prompt}
    async with http.post(f"{url}/shots", json=shot) as answer:
        assert 202 == answer.status, await answer.text()
        return (await answer.json())["id"], answer.headers.get(WORKER, "")


async def result(http: aiohttp.ClientSession, url: str, job_id: str) -> Answer:
    """Request a shot until it is no longer running."""
    while True:
        async with http.get(f"{url}/shots/{job_id}") as answer:
            assert 200 == answer.status, await answer.text()
            found: Answer = await answer.json()
            if found["state"] != "running":
                return found


def unreachable_session(**settings: Any) -> aiohttp.ClientSession:
    """Return a session whose proxy refuses every connection."""
    return aiohttp.ClientSession(**settings, proxy="http://127.0.0.1:9")


async def leave_unsent(service: str, journal: Path, callback_url: str) -> str:
    """Journal a shot without reaching the service, as an earlier process; return its id."""
    async with KieClient(
        KEY, base_url=service, journal=journal, callback_url=callback_url, session_factory=unreachable_session
    ) as kie:
        return (await kie.submit(Wan22TurboImageToVideo(image=IMAGE, prompt=LEFT), wait=False)).id


async def one_session_per_worker(
    stack: AsyncExitStack, server: Server, workers: int
) -> dict[str, aiohttp.ClientSession]:
    """Return a session with one connection to each worker; the kernel chooses the worker, so some are unused."""
    found: dict[str, aiohttp.ClientSession] = {}
    while len(found) < workers:
        connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=TIMEOUT)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        async with session.get(f"{server.url}/docs") as answer:
            await answer.read()
        found.setdefault(answer.headers.get(WORKER, ""), session)
    return found


async def send_invalid(http: aiohttp.ClientSession, callback_url: str) -> list[int]:
    """Send invalid callbacks: without a token, without a signature, and without POST; return the statuses."""
    statuses = []
    for method, url in (
        ("POST", callback_url.rpartition("/")[0] + "/x"),
        ("POST", callback_url),
        ("GET", callback_url),
    ):
        async with http.request(method, url, json={"data": {"taskId": "0" * 32}}) as answer:
            statuses.append(answer.status)
    return statuses


async def run(name: str, journal: Path) -> Run:
    """Order all shots of a backend and wait for them."""
    ids: dict[str, str] = {}
    owners: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    by_worker: dict[str, dict[str, Answer]] = {}

    async def get(http: aiohttp.ClientSession, prompt: str, job_id: str) -> None:
        answers[prompt] = await result(http, server.url, job_id)

    async def get_all(worker: str, session: aiohttp.ClientSession) -> None:
        for prompt, job_id in ids.items():
            by_worker.setdefault(worker, {})[prompt] = await result(session, server.url, job_id)

    with anyio.fail_after(TIMEOUT), free_port() as port:
        started = backend(name, port)
        callback_url = f"http://127.0.0.1:{port}/kie"
        async with running_service(WEBHOOK_KEY) as service:
            left = await leave_unsent(service.url, journal, callback_url)
            settings = {"API_KEY": KEY, "BASE_URL": service.url, "WEBHOOK_KEY": WEBHOOK_KEY}
            settings |= {"CALLBACK_URL": callback_url, "JOURNAL": str(journal)}
            async with (
                running_backend(
                    started, port, **{f"KIE_{setting}": value for setting, value in settings.items()}
                ) as server,
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
                AsyncExitStack() as stack,
            ):
                workers = await one_session_per_worker(stack, server, started.workers)
                for number, prompt in enumerate(SHOTS):
                    session = list(workers.values())[number % len(workers)]
                    ids[prompt], owners[prompt] = await order(session, server.url, prompt)
                async with anyio.create_task_group() as group:
                    for prompt, job_id in {**ids, LEFT: left}.items():
                        group.start_soon(get, http, prompt, job_id)
                if started.workers > 1:
                    async with anyio.create_task_group() as group:
                        for worker, session in workers.items():
                            group.start_soon(get_all, worker, session)
                odd = await send_odd(http, server.url)
                truth = await service.end()
                refused = await send_invalid(http, truth["shots"][0]["callback_url"])
    return Run(truth, ids, answers, owners, by_worker, refused, odd, server.output)


async def run_all(folder: Path) -> Mapping[str, asyncio.Task[Run]]:
    """Run all backends at the same time."""
    tasks = {name: asyncio.create_task(run(name, folder / f"{name}.db")) for name in NAMES}
    await asyncio.wait(tasks.values())
    return tasks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, asyncio.Task[Run]]:
    """Provide the result of each backend, or its error."""
    return asyncio.run(run_all(tmp_path_factory.mktemp("journals")))


@pytest.mark.parametrize("name", NAMES)
def test_every_order_gets_its_own_video(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    """This includes the unsent shot of an earlier process, since the backend calls ``recover()`` at its start."""
    came = runs[name].result()
    urls = {shot["prompt"]: shot["url"] for shot in came.service["shots"]}

    assert 51 == len(urls) == len(came.service["shots"])
    assert 50 == len(set(came.ids.values()))
    assert {prompt: {"state": "done", "url": urls[prompt]} for prompt in [*SHOTS, LEFT]} == came.answers
    assert (0, True) == (came.service["refused"], came.service["busiest"] <= 20)


@pytest.mark.parametrize("name", NAMES)
def test_every_end_came_by_callback(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    """Each callback is sent once, accepted at once, and confirmed once; fallback polls are rare."""
    # Up to one fallback poll a job is sent while polls are idle, so about one in ten crosses its callback; on a busy
    # machine more do, and a poll with a late response is repeated.
    came = runs[name].result()
    posts = [shot["callbacks"] for shot in came.service["shots"]]
    fallback = sum(poll < shot["callbacks"][0][0] for shot in came.service["shots"] for poll in shot["polls"])
    polls = sum(len(shot["polls"]) for shot in came.service["shots"])

    assert [[200]] * 51 == [[status for _, status in posted] for posted in posts]
    assert fallback <= 1.0 * 51
    assert 51 <= polls - fallback <= 1.5 * 51


@pytest.mark.parametrize("name", NAMES)
def test_receiver_accepts_signed_callbacks_only(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    assert [404, 401, 405] == runs[name].result().invalid


@pytest.mark.parametrize("name", NAMES)
def test_odd_input_is_the_strangers_error(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    """A status of 500 would be an alarm for the operator, and 202 a paid task."""
    came = runs[name].result()

    assert {} == {odd: status for odd, status in came.odd.items() if not 400 <= status < 500}
    assert len(came.odd) >= 90
    assert 51 == len(came.service["shots"])


@pytest.mark.parametrize("name", NAMES)
def test_server_ends_without_errors(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    """The log contains the start, the expected warnings and the end: no error, no open session."""
    provoked = ("1 intent); recover() resumes them.", "it is not signed, and webhook_key is set.", *ODD)
    usual = ("INFO: ", "======== Running on ", "(Press CTRL+C to quit)", f"{CALLBACK} ", *provoked)

    output = DRAINING.sub("", "\n".join(runs[name].result().output), count=1)

    assert [] == [line for line in output.split("\n") if not any(text in line for text in usual)]


def test_any_worker_receives_callbacks_for_all(
    runs: Mapping[str, asyncio.Task[Run]],
) -> None:
    """Four workers share only the journal's file."""
    came = runs["fastapi, 4 workers"].result()
    jobs = {job_id: prompt for prompt, job_id in came.ids.items()}
    lines = [line.split() for line in came.output if line.startswith(CALLBACK)]
    takers = {
        jobs.get(path.split("/")[-1].split(".")[0], LEFT): pid for _, pid, path, status in lines if status == "200"
    }
    elsewhere = [prompt for prompt in SHOTS if takers[prompt] != came.owners[prompt]]
    answers = {prompt: came.answers[prompt] for prompt in SHOTS}

    assert 4 == len(came.by_worker)
    assert dict.fromkeys(came.owners.values(), answers) == came.by_worker
    assert len(Counter(takers.values())) >= 2
    assert elsewhere
