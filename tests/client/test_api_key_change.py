"""After a change of the API key: what was sent is awaited as before, and what was not sent waits for consent."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import anyio
import pytest

from kie_async import (
    ConfigurationError,
    Done,
    InsufficientCreditsError,
    JobState,
    KieClient,
    SqliteJournal,
    SubmitInDoubtError,
    TransportError,
)
from kie_async._core.callback_token import account_of, callback_secret, make_callback_url
from kie_async._core.job_errors import dump_error
from kie_async._core.lifecycle import OPEN
from kie_async._io.journals.journal import Service
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import FakeKie, Fault
from kie_async.testing.faults import Call
from tests.client.backend import ADAPTERS, callback_body, post, running_backend
from tests.client.test_services import read_rows, write_rows
from tests.helpers import CALLBACKS, PROMPT, create_foreign_task, make_request

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "canary-of-the-older-key", "canary-of-the-newer-key"


#: The instant at which the service ceases to accept the older key, in seconds after its start.
REVOKED_AT = 10.0


def revoked(call: Call) -> bool:
    """Return True for a request with the older key after its end."""
    return OLD in call.headers["Authorization"] and call.at >= REVOKED_AT


REVOKED = tuple(Fault(place, "code", code=401, when=revoked) for place in ("create", "poll"))
LOST = Fault("create", "reset", after=True, nth=1)


async def leave_in_doubt(path: Path, fake: FakeKie, callback_url: str | None = None, inputs: str = "full") -> str:
    """Submit a request with the older key, lose the response, and return the job's id."""
    journal = SqliteJournal(path, store_inputs=inputs)  # type: ignore[arg-type]  # from a parameter
    async with KieClient(OLD, base_url=fake.url, journal=journal, callback_url=callback_url) as kie:
        with pytest.raises(SubmitInDoubtError) as raised:
            await kie.submit(make_request())
        assert raised.value.job is not None
        return raised.value.job.id


@pytest.mark.parametrize("given_up", [False, True], ids=["with a dead owner", "given up for the account"])
async def test_unsent_jobs_of_the_older_key_wait_for_consent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, given_up: bool
) -> None:
    """``recover()`` leaves and logs them, and a wait says what to do; ``adopt_key=True`` sends them, once."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=5.0, faults=REVOKED) as fake:
        rows = await write_rows(path, fake.url, key=OLD, sources=())
        await anyio.sleep(REVOKED_AT)
        unsent = rows[JobState.INTENT].id
        if given_up:
            await give_up(path, fake.url, unsent)
        async with KieClient(NEW, base_url=fake.url, journal=path) as kie:
            left = OPEN - {JobState.INTENT}
            assert {rows[state].id for state in left} == {job.id for job in await kie.recover()}
            assert unsent not in {job.id for job in await kie.recover()}
            for wait in (kie.job(unsent).wait, kie.job(unsent).status):
                with pytest.raises(TransportError, match=r"another API key .* recover\(adopt_key=True\)"):
                    await wait()
            assert [] == fake.truth.create_requests
            assert "1 unsent jobs of another API key; recover(adopt_key=True)" in caplog.text
            assert JobState.INTENT is {info.job_id: info.state for info in await kie.jobs()}[unsent]
            assert unsent in {job.id for job in await kie.recover(adopt_key=True)}
            await kie.job(unsent).wait()
            assert unsent in {info.job_id for info in await kie.jobs() if info.state is JobState.SUCCEEDED}
        assert 1 == len(fake.truth.create_requests) == len(fake.truth.created)


@pytest.mark.parametrize("call", ["submit", "generate", "map"])
async def test_same_key_sends_a_job_of_the_older_api_key(tmp_path: Path, call: str) -> None:
    """The caller's idempotency key is consent, and the job is the same one."""
    path = tmp_path / "kie.db"
    down = Fault("create", "code", code=402, times=1)
    async with FakeKie(duration=5.0, faults=[down, *REVOKED]) as fake:
        async with KieClient(OLD, base_url=fake.url, journal=path) as kie:
            job = await kie.submit(make_request(), key="order-7", wait=False)
            await anyio.sleep(REVOKED_AT)
        (row,) = await read_rows(path)
        assert (JobState.INTENT, account_of(OLD)) == (row.state, row.account)
        async with KieClient(NEW, base_url=fake.url, journal=path) as kie:
            match call:
                case "submit":
                    await (await kie.submit(make_request(), key="order-7"))
                case "generate":
                    await kie.generate(make_request(), key="order-7")
                case _:
                    async with kie.map([("order-7", make_request())]) as run:
                        assert all([isinstance(outcome, Done) async for outcome in run])
        (row,) = await read_rows(path)
        assert (job.id, JobState.SUCCEEDED, account_of(NEW)) == (row.id, row.state, row.account)
        assert 1 == len(fake.truth.created)


@pytest.mark.parametrize("unknown", [0, 3, 10**6], ids=["known", "known late", "not known"])
async def test_running_job_of_the_older_key_is_awaited(tmp_path: Path, unknown: int) -> None:
    """That a task is not found under another key proves nothing: the job does not fail, and is polled again."""
    path, not_found = tmp_path / "kie.db", Fault("poll", "code", code=422, msg="recordInfo is null", times=unknown)
    async with FakeKie(duration=60.0, faults=[*REVOKED, *([not_found] if unknown else [])]) as fake:
        async with KieClient(OLD, base_url=fake.url, journal=path) as kie:
            job = await kie.submit(make_request())
        await anyio.sleep(REVOKED_AT)
        async with KieClient(NEW, base_url=fake.url, journal=path) as kie:
            await kie.recover()
            await anyio.sleep(1000.0)
            (info,) = await kie.jobs()
            found = JobState.SUBMITTED if unknown > 1000 else JobState.SUCCEEDED
            assert (job.task_id, found, None) == (info.task_id, info.state, info.error)
            assert len(fake.truth.polls) > 1
        assert 1 == len(fake.truth.create_requests)


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_callback_with_a_token_of_the_older_key_is_accepted(tmp_path: Path, adapter: str) -> None:
    """It settles a job in doubt; when the job has ended, the older token is refused, and the present one is not."""
    path = tmp_path / "kie.db"
    async with running_backend() as backend, FakeKie(duration=30.0, faults=[LOST, *REVOKED]) as fake:
        job_id = await leave_in_doubt(path, fake, backend.url)
        async with KieClient(NEW, base_url=fake.url, journal=path, callback_url=backend.url) as kie:
            await kie.recover()
            backend.serve(kie, ADAPTERS[adapter])
            older = str(fake.truth.create_requests[0].callback_url)
            assert kie.callbacks.admits(older)
            video = await kie.job(job_id).wait()
            assert [200] == backend.answers
            task_id = fake.truth.created[0].task_id
            assert task_id == video.task_id
            await anyio.sleep(100.0)
            assert 404 == await post(older, callback_body(task_id))
            present = make_callback_url(backend.url, callback_secret(NEW), job_id, 1)
            assert 200 == await post(present, callback_body(task_id))
            foreign = make_callback_url(backend.url, callback_secret("a third key"), job_id, 1)
            assert not kie.callbacks.admits(foreign)
            assert 404 == await post(foreign, callback_body(task_id))
        assert 1 == len(fake.truth.create_requests)


async def test_older_token_is_accepted_after_its_job_was_adopted(tmp_path: Path) -> None:
    """An ambiguous attempt with the older key was accepted; its callback proves that before it is sent again."""
    path = tmp_path / "kie.db"
    ambiguous = Fault("create", "code", code=500, msg="Internal Error", after=True, nth=1)
    refusals = Fault("create", "code", code=455, nth=range(2, 10**6))
    async with running_backend() as backend, FakeKie(duration=300.0, faults=[ambiguous, refusals]) as fake:
        async with KieClient(OLD, base_url=fake.url, journal=path, callback_url=backend.url) as kie:
            job = await kie.submit(make_request(), key="order-7", wait=False)
            await anyio.sleep(REVOKED_AT)
        async with KieClient(NEW, base_url=fake.url, journal=path, callback_url=backend.url) as kie:
            backend.serve(kie)
            assert [job.id] == [adopted.id for adopted in await kie.recover(adopt_key=True)]
            (row,) = await read_rows(path)
            assert (account_of(NEW), 1) == (row.account, row.ambiguous_attempts)
            assert fake.truth.created[0].task_id == (await kie.job(job.id).wait()).task_id
        assert 1 == len(fake.truth.created)


async def give_up(path: Path, url: str, job_id: str) -> None:
    """Leave an unsent job as a process does whose account cannot pay."""
    journal = SqliteStore(path, service=Service.of(url, OLD))
    await journal.open()
    error = dump_error(InsufficientCreditsError("Top up.", code=402, job_id=job_id))
    await journal.update_fields(job_id, at=1.0, owner=None, error=error)
    await journal.close()


ECHOES: dict[str, tuple[str | None, str, bool]] = {
    "no URL, the same request": (None, f"{PROMPT}, take 0", True),
    "another URL, the same request": (f"{CALLBACKS}/somewhere", f"{PROMPT}, take 0", True),
    "no URL, another request": (None, f"{PROMPT}, take 1", False),
    "another URL, another request": (f"{CALLBACKS}/somewhere", f"{PROMPT}, take 1", False),
    "a token of another job": (f"{CALLBACKS}/kj_{'0' * 32}.1.{'A' * 22}", f"{PROMPT}, take 0", False),
}


@pytest.mark.parametrize("ours", [None, CALLBACKS], ids=["without callbacks", "with callbacks"])
@pytest.mark.parametrize("now", [None, CALLBACKS, "https://new.example.com/kie"], ids=["none", "the same", "another"])
@pytest.mark.parametrize("inputs", ["full", "hash"])
@pytest.mark.parametrize("known", [True, False], ids=["older secret known", "older secret unknown"])
async def test_resolve_accepts_the_right_task(
    tmp_path: Path, ours: str | None, now: str | None, inputs: str, *, known: bool
) -> None:
    """Whatever the API key and the callback URL were and are; without inputs and token, nothing could be compared."""
    path = tmp_path / "kie.db"
    async with FakeKie(duration=5.0, faults=[LOST, *REVOKED]) as fake:
        job_id = await leave_in_doubt(path, fake, ours, inputs)
        if not known:
            forget_secrets(path)
        async with KieClient(NEW, base_url=fake.url, journal=path, callback_url=now) as kie:
            job, task_id = kie.job(job_id), fake.truth.created[0].task_id
            if inputs == "hash" and ours is None:
                with pytest.raises(ConfigurationError, match="another request"):
                    await job.resolve(task_id)
                return
            await job.resolve(task_id)
            assert task_id == (await job.wait()).task_id


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("ours", [None, CALLBACKS], ids=["without callbacks", "with callbacks"])
async def test_resolve_compares_where_the_echo_is_not_ours(tmp_path: Path, echo: str, ours: str | None) -> None:
    """``recordInfo`` is asked over an authenticated channel, so what it echoes is what was requested."""
    url, prompt, right = ECHOES[echo]
    path = tmp_path / "kie.db"
    async with FakeKie(duration=5.0, faults=[LOST]) as fake:
        job_id = await leave_in_doubt(path, fake, ours)
        task_id = await create_foreign_task(fake.url, prompt, url)
        async with KieClient(NEW, base_url=fake.url, journal=path) as kie:
            if right:
                await kie.job(job_id).resolve(task_id)
                assert task_id == (await kie.job(job_id).wait()).task_id
            else:
                with pytest.raises(ConfigurationError, match="another request"):
                    await kie.job(job_id).resolve(task_id)
                assert ("in_doubt", None) == ((row := (await read_rows(path))[0]).state, row.task_id)


def forget_secrets(path: Path) -> None:
    """Delete the secrets of callback tokens from a journal."""
    file = sqlite3.connect(path)
    file.execute("DELETE FROM callback_secrets")
    file.commit()
    file.close()


async def test_two_accounts_work_side_by_side(tmp_path: Path) -> None:
    """One file, two living clients: each sends and polls its own jobs with its own key."""
    path = tmp_path / "kie.db"

    def of_other(call: Call) -> bool:
        sent = "take 0" in call.body.decode()
        return (OLD if sent else NEW) not in call.headers["Authorization"]

    wrong_key = Fault("create", "code", code=401, when=of_other)
    async with FakeKie(duration=30.0, faults=[wrong_key]) as fake:
        async with (
            KieClient(OLD, base_url=fake.url, journal=path) as one,
            KieClient(NEW, base_url=fake.url, journal=path) as other,
        ):
            jobs = [await kie.submit(make_request(n), key=f"key-{n}", wait=False) for n, kie in enumerate((one, other))]
            for kie in (one, other):
                await kie.recover(adopt_key=True)
            for kie in (one, other):
                for job in jobs:
                    assert job.id == (await kie.job(job.id).wait()).job_id
        assert [account_of(OLD), account_of(NEW)] == [row.account for row in await read_rows(path)]
        assert 2 == len(fake.truth.create_requests) == len(fake.truth.created)


@pytest.mark.parametrize("restart", ["recover", "wait"])
async def test_an_account_gets_its_jobs_back_from_another(tmp_path: Path, restart: str) -> None:
    """Another account, which cannot see the tasks, has adopted them meanwhile; it lives on, and lets them go."""
    path = tmp_path / "kie.db"

    def by_other(call: Call) -> bool:
        return NEW in call.headers["Authorization"]

    denied = Fault("poll", "code", code=422, msg="recordInfo is null", when=by_other)
    async with FakeKie(duration=60.0, faults=[denied]) as fake:
        async with KieClient(OLD, base_url=fake.url, journal=path) as one:
            job = await one.submit(make_request())
        async with KieClient(NEW, base_url=fake.url, journal=path) as other:
            assert [job.id] == [adopted.id for adopted in await other.recover()]
            await anyio.sleep(100.0)
            async with KieClient(OLD, base_url=fake.url, journal=path) as one:
                if restart == "recover":
                    assert [job.id] == [adopted.id for adopted in await one.recover()]
                assert job.id == (await one.job(job.id).wait(timeout=30.0)).job_id
                assert job.id == (await other.job(job.id).wait(timeout=5.0)).job_id
                polls = len(fake.truth.polls)
                await anyio.sleep(500.0)
                assert len(fake.truth.polls) <= polls + 1  # one may have been on its way


async def test_the_journal_has_no_api_key(tmp_path: Path) -> None:
    """It has 48 bits of a keyed hash, and the derived secret; neither is in a ``repr`` or gives the key away."""
    path = tmp_path / "kie.db"
    async with (
        FakeKie(duration=5.0) as fake,
        KieClient(OLD, base_url=fake.url, journal=path, callback_url=CALLBACKS) as kie,
    ):
        await kie.generate(make_request())
        written = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())  # noqa: ASYNC240 (small)
        assert OLD.encode() not in written
        assert account_of(OLD).encode() in written
        assert 12 == len(account_of(OLD))
        assert account_of(OLD) != account_of(NEW)
        assert str(callback_secret(OLD)) not in repr(Service.of(fake.url, OLD))
