"""
The examples as people run them: each under its real server, the service in another process, real time.

They keep the account's limit, 20 creates in any 10 s, and so they mostly wait: all of them run at the same time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import aiohttp
import anyio
import attrs
import pytest

from kie_async import KieClient, Wan22TurboImageToVideo
from tests.real_time.examples.processes import CALLBACK, WORKER, Backend, Server, free_port, serving, the_service
from tests.real_time.examples.service import Told

KEY = "an-api-key"
WEBHOOK_KEY = "a-webhook-key"
IMAGE = "https://example.com/cat.png"
SHOTS = [f"The cat turns its head, take {number}" for number in range(50)]
LEFT = "What the process before has left"

#: Nothing here takes that long, in seconds.
PATIENCE = 100.0

UVICORN = ("-m", "uvicorn", "--no-access-log", "--timeout-keep-alive", "100", "--port")
UVICORN_IS_READY = "Application startup complete."


def under_uvicorn(app: str, port: int, *, workers: int = 1) -> Backend:
    return Backend((*UVICORN, str(port), app), UVICORN_IS_READY, workers)


def backend(name: str, port: int) -> Backend:
    """A backend by its name here."""
    match name:
        case "fastapi":
            return under_uvicorn("fastapi_backend:app", port)
        case "fastapi, 4 workers":
            return under_uvicorn("tests.real_time.examples.telling:app", port, workers=4)
        case "django":
            return under_uvicorn("django_backend:application", port)
        case "litestar":
            return under_uvicorn("litestar_backend:app", port)
        case _:
            return Backend(("aiohttp_backend.py",), "Running on")


NAMES = ["fastapi", "fastapi, 4 workers", "django", "litestar", "aiohttp"]

#: What a backend has said of a job.
Answer: TypeAlias = Mapping[str, str]


@attrs.frozen
class Run:
    """
    What came of one backend.

    Attributes:
        truth: What the service has seen.

        ids: The job of each shot.

        answers: What was said of each shot, and of the one that was left.

        owners: Which worker has taken each order; empty unless there are several.

        retold: What each worker has said of each shot; empty unless there are several.

        strangers: The statuses of requests to the receiver that are no callbacks.

        said: The server's messages.
    """

    truth: Told
    ids: Mapping[str, str]
    answers: Mapping[str, Answer]
    owners: Mapping[str, str]
    retold: Mapping[str, Mapping[str, Answer]]
    strangers: Sequence[int]
    said: Sequence[str]


async def order(http: aiohttp.ClientSession, url: str, prompt: str) -> tuple[str, str]:
    """Order a shot; returns the job's id, and the worker that has taken it."""
    shot = {"key": prompt, "image_url": IMAGE, "prompt": prompt}
    async with http.post(f"{url}/shots", json=shot) as answer:
        assert 202 == answer.status, await answer.text()
        return (await answer.json())["id"], answer.headers.get(WORKER, "")


async def result(http: aiohttp.ClientSession, url: str, job_id: str) -> Answer:
    """Ask for a shot until it is no longer running."""
    while True:
        async with http.get(f"{url}/shots/{job_id}") as answer:
            assert 200 == answer.status, await answer.text()
            said: Answer = await answer.json()
            if said["state"] != "running":
                return said


async def leave_one(journal: Path, callback_url: str) -> str:
    """An earlier process has written a shot down, could not reach the service, and has ended; returns its id."""
    async with KieClient(KEY, base_url="http://127.0.0.1:9", journal=journal, callback_url=callback_url) as kie:
        return (await kie.submit(Wan22TurboImageToVideo(image=IMAGE, prompt=LEFT), wait=False)).id


async def one_session_per_worker(
    stack: AsyncExitStack, server: Server, workers: int
) -> dict[str, aiohttp.ClientSession]:
    """Sessions of one connection each; whose connection it is, the system decides, so some are made in vain."""
    found: dict[str, aiohttp.ClientSession] = {}
    while len(found) < workers:
        connector = aiohttp.TCPConnector(limit=1, keepalive_timeout=PATIENCE)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        async with session.get(f"{server.url}/docs") as answer:
            await answer.read()
        found.setdefault(answer.headers.get(WORKER, ""), session)
    return found


async def strangers(http: aiohttp.ClientSession, callback_url: str) -> list[int]:
    """The answers to what is no callback: no token, the right URL without a signature, the right URL but no POST."""
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
    """Order all shots of a backend, and get them."""
    ids: dict[str, str] = {}
    owners: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    retold: dict[str, dict[str, Answer]] = {}

    async def get(http: aiohttp.ClientSession, prompt: str, job_id: str) -> None:
        answers[prompt] = await result(http, server.url, job_id)

    async def retell(worker: str, session: aiohttp.ClientSession) -> None:
        for prompt, job_id in ids.items():
            retold.setdefault(worker, {})[prompt] = await result(session, server.url, job_id)

    with anyio.fail_after(PATIENCE), free_port() as port:
        started = backend(name, port)
        callback_url = f"http://127.0.0.1:{port}/kie"
        left = await leave_one(journal, callback_url)
        async with the_service(WEBHOOK_KEY) as service:
            settings = {"API_KEY": KEY, "BASE_URL": service.url, "WEBHOOK_KEY": WEBHOOK_KEY}
            settings |= {"CALLBACK_URL": callback_url, "JOURNAL": str(journal)}
            async with (
                serving(started, port, **{f"KIE_{setting}": value for setting, value in settings.items()}) as server,
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
                            group.start_soon(retell, worker, session)
                truth = await service.end()
                refused = await strangers(http, truth["shots"][0]["callback_url"])
    return Run(truth, ids, answers, owners, retold, refused, server.said)


async def run_all(folder: Path) -> Mapping[str, asyncio.Task[Run]]:
    """Run every backend, all at once."""
    tasks = {name: asyncio.create_task(run(name, folder / f"{name}.db")) for name in NAMES}
    await asyncio.wait(tasks.values())
    return tasks


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, asyncio.Task[Run]]:
    """What came of each backend, or what went wrong with it."""
    return asyncio.run(run_all(tmp_path_factory.mktemp("journals")))


@pytest.mark.parametrize("name", NAMES)
def test_every_order_gets_its_own_video(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    """What an earlier process has left unsent is among them, since the backend calls ``recover()`` when it starts."""
    came = runs[name].result()
    urls = {shot["prompt"]: shot["url"] for shot in came.truth["shots"]}

    assert 51 == len(urls) == len(came.truth["shots"])
    assert 50 == len(set(came.ids.values()))
    assert {prompt: {"state": "done", "url": urls[prompt]} for prompt in [*SHOTS, LEFT]} == came.answers
    assert (0, True) == (came.truth["refused"], came.truth["busiest"] <= 20)


@pytest.mark.parametrize("name", NAMES)
def test_every_end_came_by_callback(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    """Each is posted once, taken at once, and looked into once; the net looks now and then."""
    # On a busy machine a look may cross its callback, and one that is answered late is made again.
    came = runs[name].result()
    posts = [shot["callbacks"] for shot in came.truth["shots"]]
    of_the_net = sum(poll < shot["callbacks"][0][0] for shot in came.truth["shots"] for poll in shot["polls"])
    polls = sum(len(shot["polls"]) for shot in came.truth["shots"])

    assert [[200]] * 51 == [[status for _, status in posted] for posted in posts]
    assert of_the_net <= 0.2 * 51
    assert 51 <= polls - of_the_net <= 54


@pytest.mark.parametrize("name", NAMES)
def test_receiver_accepts_signed_callbacks_only(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    assert [404, 401, 405] == runs[name].result().strangers


@pytest.mark.parametrize("name", NAMES)
def test_the_server_ends_in_peace(runs: Mapping[str, asyncio.Task[Run]], name: str) -> None:
    """Nothing was logged but its start, what was provoked here, and its end: no error, no session left open."""
    provoked = ("1 intent); recover() resumes them.", "it is not signed, and webhook_key is set.")
    usual = ("INFO: ", "======== Running on ", "(Press CTRL+C to quit)", f"{CALLBACK} ", *provoked)

    assert [] == [line for line in runs[name].result().said if not any(text in line for text in usual)]


def test_any_worker_receives_callbacks_for_all(
    runs: Mapping[str, asyncio.Task[Run]],
) -> None:
    """Four workers share nothing but the journal's file."""
    came = runs["fastapi, 4 workers"].result()
    jobs = {job_id: prompt for prompt, job_id in came.ids.items()}
    lines = [line.split() for line in came.said if line.startswith(CALLBACK)]
    takers = {
        jobs.get(path.split("/")[-1].split(".")[0], LEFT): pid for _, pid, path, status in lines if status == "200"
    }
    elsewhere = [prompt for prompt in SHOTS if takers[prompt] != came.owners[prompt]]
    answers = {prompt: came.answers[prompt] for prompt in SHOTS}

    assert 4 == len(came.retold)
    assert dict.fromkeys(came.owners.values(), answers) == came.retold
    assert len(Counter(takers.values())) >= 2
    assert elsewhere
