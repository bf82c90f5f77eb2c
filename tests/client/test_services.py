"""Jobs of another ``base_url`` are listed, and neither resumed, sent, polled nor reused."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import (
    Budget,
    ConfigurationError,
    Done,
    JobState,
    KieClient,
    KieError,
    Limits,
    MarketRequest,
    SubmitInDoubtError,
    Wan22TurboImageToVideo,
)
from kie_async._core.callback_token import make_callback_url
from kie_async._core.lifecycle import OPEN
from kie_async._io.journals.journal import Service
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import FakeKie
from tests import profile
from tests.client.backend import callback_body, post, running_backend
from tests.helpers import KEY, make_request
from tests.io.intents import bring_to_state, make_intent
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from kie_async._core.lifecycle import Intent

TRIAL = "http://trial.example.com:8080"


async def write_rows(path: Path, origin: str = TRIAL, *, key: str = KEY, **fields: Any) -> dict[JobState, Intent]:
    """Write one row in each state, as an ended process of a client of *origin* leaves them."""
    journal = SqliteStore(path, service=Service.of(origin, key))
    await journal.open()
    rows = {}
    for number, state in enumerate(JobState):
        new = await journal.add(make_intent(number, key=f"key-{number}", **fields))
        ended = {"credits": 999.0} if state is JobState.SUCCEEDED else {}
        rows[state] = await bring_to_state(journal, new, state, **ended)
    await journal.close()
    return rows


async def read_rows(path: Path) -> list[Intent]:
    """Return all rows of a journal."""
    journal = SqliteStore(path)
    await journal.open()
    rows = list(await journal.rows())
    await journal.close()
    return rows


USES: dict[str, Callable[[KieClient, str], Awaitable[object]]] = {
    "wait": lambda kie, job_id: kie.job(job_id).wait(),
    "status": lambda kie, job_id: kie.job(job_id).status(),
    "updates": lambda kie, job_id: anext(kie.job(job_id).updates()),
    "resolve": lambda kie, job_id: kie.job(job_id).resolve("c" * 32),
    "resubmit": lambda kie, job_id: kie.job(job_id).resubmit(allow_duplicate=True),
    "abandon": lambda kie, job_id: kie.job(job_id).abandon(),
}


@pytest.mark.parametrize("use", USES)
async def test_use_of_another_services_job_names_both(tmp_path: Path, use: str) -> None:
    """In each state, by the job's id and by the task's; the rows do not change, and the service hears nothing."""
    path = tmp_path / "kie.db"
    rows = await write_rows(path)
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, journal=path) as kie:
        for known_id in [row.id for row in rows.values()] + ["a-task"]:
            with pytest.raises(ConfigurationError) as raised:
                await USES[use](kie, known_id)
            for named in (TRIAL, fake.url, "KIE_BASE_URL"):
                assert named in str(raised.value)
        assert [] == [*fake.truth.create_requests, *fake.truth.polls]
    assert list(rows.values()) == await read_rows(path)


async def test_recover_leaves_another_services_jobs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are listed with their service; a client of that service resumes them later."""
    path = tmp_path / "kie.db"
    async with FakeKie() as trial, FakeKie() as real:
        rows = await write_rows(path, trial.url)
        async with KieClient(KEY, base_url=real.url, journal=path) as kie:
            assert [] == await kie.recover()
            assert {row.id: trial.url for row in rows.values()} == {i.job_id: i.origin for i in await kie.jobs()}
            info = await kie.job(rows[JobState.IN_DOUBT].id).info()
            assert info is not None
            assert trial.url == info.origin
            await anyio.sleep(4000.0)
        assert [] == [*real.truth.create_requests, *real.truth.polls]
        assert [] == [record.message for record in caplog.records if "recover()" in record.message]
        assert list(rows.values()) == await read_rows(path)
        async with KieClient(KEY, base_url=f"{trial.url}/", journal=path) as kie:
            assert {rows[state].id for state in OPEN} == {job.id for job in await kie.recover()}


@pytest.mark.parametrize("call", ["submit", "generate", "map", "map without keys"])
async def test_key_of_a_trial_is_new_at_the_service(tmp_path: Path, call: str) -> None:
    """In each state of the trial's job: it neither blocks the real run nor is mistaken for it; the key is paid once."""
    path, table = tmp_path / "kie.db", [(f"key-{number}", make_request(number)) for number in range(len(JobState))]
    async with FakeKie(duration=5.0) as trial, FakeKie(duration=5.0) as real:
        async with KieClient(KEY, base_url=trial.url, journal=path) as kie:
            await ask(kie, call, table)
        before = await change_states(path, trial.url)
        for _ in range(2):
            async with KieClient(KEY, base_url=real.url, journal=path) as kie:
                await ask(kie, call, table)
        assert len(table) == len(trial.truth.created) == len(real.truth.created) == len(real.truth.create_requests)
        rows = await read_rows(path)
        assert before == rows[: len(table)]
        assert {row.key for row in before} == {row.key for row in rows[len(table) :]}
        assert {task.task_id for task in real.truth.created} == {row.task_id for row in rows[len(table) :]}


async def ask(kie: KieClient, call: str, table: list[tuple[str, Wan22TurboImageToVideo]]) -> None:
    """Have all results of a table."""
    if call.startswith("map"):
        async with kie.map(table if call == "map" else [request for _, request in table]) as run:
            assert all([isinstance(outcome, Done) async for outcome in run])
        return
    for job in [await kie.submit(request, key=key, wait=False) for key, request in table]:
        await job
    if call == "generate":
        for key, request in table:
            await kie.generate(request, key=key)


async def change_states(path: Path, origin: str) -> list[Intent]:
    """Write a journal anew, so that its rows are in all states."""
    rows = await read_rows(path)
    path.unlink()  # noqa: ASYNC240 (a small file)
    journal = SqliteStore(path, service=Service.of(origin, KEY))
    await journal.open()
    for number, (row, state) in enumerate(zip(rows, JobState, strict=True)):
        new = make_intent(number, key=row.key, input=row.input, fingerprint=row.fingerprint, model=row.model)
        await bring_to_state(journal, await journal.add(new), state)
    await journal.close()
    return await read_rows(path)


async def test_prices_and_spend_of_a_trial_do_not_count(tmp_path: Path) -> None:
    """Its tasks cost play credits: an estimate, ``spent()`` and a budget ignore them."""
    path = tmp_path / "kie.db"
    rows = await write_rows(path)
    request = MarketRequest(model=rows[JobState.SUCCEEDED].model, input={"prompt": "a"})
    async with FakeKie(duration=5.0) as fake, KieClient(KEY, base_url=fake.url, journal=path) as kie:
        estimate = await kie.estimate(request)
        assert "seen" != estimate.basis
        table = [(row.key or "", make_request(number)) for number, row in enumerate(rows.values())]
        assert 0.0 == await kie.spent(table, price=7.0)
        async with kie.map(table, budget=Budget(credits=1e4, price=30.0)) as run:
            found = [outcome async for outcome in run]
        assert len(rows) == len([outcome for outcome in found if isinstance(outcome, Done)])


async def test_callback_for_another_services_job_is_refused(tmp_path: Path) -> None:
    """Its token is genuine, because the API key is the same; nothing is polled or journaled."""
    path = tmp_path / "kie.db"
    async with running_backend() as backend:
        rows = await write_rows(path, callback_url=backend.url)
        async with FakeKie() as fake, KieClient(KEY, base_url=fake.url, journal=path, callback_url=backend.url) as kie:
            backend.serve(kie)
            for row in rows.values():
                url = make_callback_url(backend.url, Service.of(TRIAL, KEY).callback_secret, row.id, 1)
                assert 404 == await post(url, callback_body("d" * 32))
            await anyio.sleep(100.0)
            assert [] == fake.truth.polls
    assert list(rows.values()) == await read_rows(path)


async def test_two_services_work_side_by_side(tmp_path: Path) -> None:
    """Both seeded fakes give the same task ids; each client ends its own job, and leaves the other's."""
    path = tmp_path / "kie.db"
    async with FakeKie(seed=1, duration=30.0) as one, FakeKie(seed=1, duration=90.0) as other:
        async with (
            KieClient(KEY, base_url=one.url, journal=path) as first,
            KieClient(KEY, base_url=other.url, journal=path) as second,
        ):
            jobs = [await kie.submit(make_request(), key="a") for kie in (first, second)]
            assert jobs[0].task_id == jobs[1].task_id
            await first.recover()
            await second.recover()
            assert [job.id for job in jobs] == [(await job).job_id for job in jobs]
            for kie, job in zip((first, second), jobs, strict=True):
                assert job.id == (await kie.job(str(job.task_id)).wait()).job_id
        assert 1 == len(one.truth.created) == len(other.truth.created)


@pytest.mark.parametrize(
    ("journaled", "now", "same"),
    [
        ("https://api.kie.ai", "HTTPS://API.KIE.AI:443//", True),
        ("http://localhost:80", "http://localhost", True),
        ("http://localhost:8080/kie/", "http://LOCALHOST:8080/kie", True),
        ("http://localhost:8080", "http://localhost:8081", False),
        ("http://localhost:8080", "https://localhost:8080", False),
        ("http://localhost:8080/staging", "http://localhost:8080/live", False),
        ("http://localhost", "http://127.0.0.1", False),
    ],
)
async def test_spelling_of_the_base_url_makes_no_difference(
    tmp_path: Path, journaled: str, now: str, *, same: bool
) -> None:
    path = tmp_path / "kie.db"
    await write_rows(path, journaled)
    journal = SqliteStore(path, service=Service.of(now, KEY))
    await journal.open()
    assert same is bool(await journal.claim())
    await journal.close()


class OutrunStore(SqliteStore):
    """A journal of which another process takes a page of rows between finding and taking them."""

    rival: SqliteStore | None = None

    async def _write(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        rival, self.rival = self.rival, None
        if rival is not None:
            await rival.claim(limit=2)
        return await super()._write(query, *args, **kwargs)


async def test_a_page_that_another_process_takes_is_not_the_last(tmp_path: Path) -> None:
    """Else the rows after it would wait for the next recovery: a process with another key takes no unsent ones."""
    path = tmp_path / "kie.db"
    writer = SqliteStore(path, service=Service.of(TRIAL, KEY))
    await writer.open()
    for number, state in enumerate((JobState.SUBMITTED, JobState.IN_DOUBT, JobState.INTENT)):
        await bring_to_state(writer, await writer.add(make_intent(number)), state)
    await writer.close()
    rival = SqliteStore(path, service=Service.of(TRIAL, KEY))
    journal = OutrunStore(path, service=Service.of(TRIAL, KEY))
    await rival.open()
    await journal.open()
    journal.rival = rival

    assert [JobState.INTENT] == [row.state for row in await journal.claim(limit=2)]
    await journal.close()
    await rival.close()


async def test_upload_of_a_trial_is_not_sent_to_the_service(tmp_path: Path) -> None:
    """The image is uploaded to each service; neither gets a URL of the other."""
    image = tmp_path / "cat.png"
    image.write_bytes(PNG)
    path, request = tmp_path / "kie.db", make_request(image=str(image))
    async with FakeKie(duration=5.0) as trial, FakeKie(duration=5.0) as real:
        for fake in (trial, real):
            async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
                await kie.generate(request, key="a")
            assert 1 == len(fake.truth.uploads)
            assert all(str(task.input["image_url"]).startswith(fake.url) for task in fake.truth.created)


async def use_for_a_while(kie: KieClient, random: Random) -> set[str]:
    """Make some calls, close the client in the middle of its work, and return the keys of what was submitted."""
    asked: set[str] = set()
    for _ in range(random.randrange(1, 6)):
        match random.choice(["submit", "recover", "adopt", "wait", "sleep"]):
            case "submit":
                number = random.randrange(4)
                asked.add(f"key-{number}")
                with suppress(SubmitInDoubtError):  # a client has closed while the create was on the wire
                    await kie.submit(make_request(number), key=f"key-{number}", wait=False)
            case "wait":
                for info in await kie.jobs():
                    with suppress(KieError):
                        await kie.job(info.job_id).wait(timeout=random.choice([0.1, 30.0]))
            case "sleep":
                await anyio.sleep(random.uniform(0.0, 20.0))
            case how:
                await kie.recover(adopt_key=how == "adopt")
    await kie.aclose(drain=random.choice([0.0, 5.0]))
    return asked


@pytest.mark.parametrize("number", range(profile.scaled(quick=1, check=3, nightly=60)))
async def test_services_and_accounts_share_a_file_in_any_order(tmp_path: Path, number: int) -> None:
    """Clients of two services with two API keys each: a key is paid once at each service, and polled only there."""
    path, random, asked = tmp_path / "kie.db", Random(f"{profile.seed()} {number}"), set[tuple[str, str]]()
    async with FakeKie(duration=(20.0, 0.5), seed=1) as one, FakeKie(duration=(20.0, 0.5), seed=2) as other:
        fakes = {one.url: one, other.url: other}

        async def live(url: str, api_key: str) -> None:
            limits = Limits(creates=random.choice([1, 2, 20]))
            async with KieClient(api_key, base_url=url, journal=path, limits=limits) as kie:
                asked.update((url, key) for key in await use_for_a_while(kie, random))

        for _ in range(6):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(live, random.choice(list(fakes)), random.choice([KEY, "another-key"]))
        for url in fakes:
            async with KieClient("a-third-key", base_url=url, journal=path) as kie:
                for job in await kie.recover(adopt_key=True):
                    with suppress(SubmitInDoubtError):
                        await job.wait()
        rows = await read_rows(path)
        assert sorted(asked) == sorted((row.origin, row.key or "") for row in rows)
        assert {row.state for row in rows} <= {JobState.SUCCEEDED, JobState.IN_DOUBT, JobState.UNRESOLVED}
        for url, fake in fakes.items():
            own = {row.task_id for row in rows if row.origin == url}
            posted = len(fake.truth.create_requests) - len(fake.truth.rate_limited)
            assert posted <= len([row for row in rows if row.origin == url])
            assert own - {None} <= set(fake.truth.tasks)
            assert {poll.task_id for poll in fake.truth.polls} <= own
