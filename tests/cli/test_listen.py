"""The command ``listen``."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import attrs
import pytest

from kie_async import JSON, Event, EventName, KieClient, Limits, Wan22TurboImageToVideo
from kie_async.cli import generate
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.listen import MAX_JOBS, MAX_QUEUED, CallbackLog, ListenAddress, run_listen
from kie_async.cli.output import Output
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault
from tests.cli.helpers import CapturedSession, run_cli

KEY = "key-for-the-fake"
SECRET = "webhook-secret"
CAT = "https://example.com/cat.png"


@attrs.frozen
class RunningListener:
    """A running command: its output and its address."""

    streams: CapturedSession
    url: str

    @property
    def lines(self) -> list[str]:
        """The lines of the log so far."""
        return self.streams.out.splitlines()[1:]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The lines of a JSON log: the fields that are not null."""
        entries = [json.loads(line) for line in self.lines]
        return [{name: value for name, value in fields.items() if value is not None} for fields in entries]


@asynccontextmanager
async def run_listener(
    streams: CapturedSession, *, path: str = "/kie", webhook_keys: tuple[str, ...] = ()
) -> AsyncGenerator[RunningListener]:
    """Run the command until the context is left; its exit code must be 0."""
    stop, ready = anyio.Event(), anyio.Event()
    codes: list[ExitCode] = []

    async def until() -> None:
        ready.set()
        await stop.wait()

    async def command() -> None:
        address = ListenAddress(port=0, path=path)
        codes.append(await run_listen(streams.session, address, webhook_keys=webhook_keys, until=until))

    async with anyio.create_task_group() as group:
        group.start_soon(command)
        await ready.wait()
        first = streams.out.splitlines()[0]
        yield RunningListener(streams, json.loads(first)["url"] if streams.session.output.as_json else first)
        stop.set()
    assert [ExitCode.DONE] == codes


@asynccontextmanager
async def open_submitter(fake: FakeKie, journal: Path | None, url: str) -> AsyncGenerator[KieClient]:
    """Open the client of another program, which polls its jobs."""
    limits = Limits(creates=MAX_JOBS + 5)
    async with KieClient(KEY, base_url=fake.url, journal=journal, callback_url=url, limits=limits) as kie:
        yield kie


def make_request(prompt: str = "Go") -> Wan22TurboImageToVideo:
    """Return a request that needs no upload."""
    return Wan22TurboImageToVideo(image=CAT, prompt=prompt)


async def send_request(method: str, url: str) -> int:
    """Send a request whose body is not JSON, and return the response's status."""
    async with aiohttp.ClientSession() as session, session.request(method, url, data=b"?") as answer:
        return answer.status


async def submit_and_get_token(fake: FakeKie, kie: KieClient) -> tuple[str, str]:
    """Return the callback URL of a new job, and its token."""
    await kie.submit(make_request())
    url = str(fake.truth.create_requests[-1].callback_url)
    return url, url.rpartition("/")[2]


async def test_listen_prints_a_callback_and_its_jobs_end(tmp_path: Path) -> None:
    """A callback's content is not trusted; the end comes from the journal after a confirmation by recordInfo."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, webhook_key=SECRET) as fake,
        run_listener(CapturedSession(fake, journal=journal), webhook_keys=(SECRET,)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        job = await kie.submit(make_request())
        assert [] == listener.lines
        await job
        await anyio.sleep(5.0)

    callback, ended = listener.lines
    assert f"callback  {job.id} attempt 1 names task {job.task_id}, job submitted" == callback
    assert f"ended     {job.id} task {job.task_id}: succeeded, 80 credits" == ended
    assert [200] == [post.status for post in fake.truth.callbacks]
    assert "callback_url='https://YOUR-TUNNEL/kie'" in listener.streams.err
    assert "Signatures are checked." in listener.streams.err


async def test_callback_recovers_a_lost_create_response(tmp_path: Path) -> None:
    """JSON output is one object a line; missing values are null."""
    journal, lost = tmp_path / "kie.db", Fault("create", "reset", after=True)
    async with (
        FakeKie(duration=60.0, faults=[lost]) as fake,
        run_listener(CapturedSession(fake, as_json=True, journal=journal)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        video = await kie.generate(make_request())
        await anyio.sleep(5.0)

    job_id, task_id = listener.entries[0]["job_id"], video.task_id
    assert listener.entries == [
        {"event": "callback", "job_id": job_id, "task_id": task_id, "attempt": 1, "state": "in_doubt"},
        {"event": "ended", "job_id": job_id, "task_id": task_id, "state": "succeeded", "credits": 80.0},
    ]
    assert 1 == len({tuple(json.loads(line)) for line in listener.streams.out.splitlines()}), "the same fields in each"


@pytest.mark.parametrize("copies", [1, 3])
async def test_end_seen_by_another_process_is_printed_once(tmp_path: Path, copies: int) -> None:
    """A confirmation of an early callback polls for half a minute; afterwards the submitter's poller sees the end."""
    journal = tmp_path / "kie.db"
    early = Fault("callback", "early", seconds=120.0, copies=copies)
    async with (
        FakeKie(duration=300.0, faults=[early]) as fake,
        run_listener(CapturedSession(fake, as_json=True, journal=journal)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        await kie.generate(make_request())
        await anyio.sleep(5.0)

    assert [*["callback"] * copies, "ended"] == [line["event"] for line in listener.entries]


async def test_late_callback_is_printed_with_the_end(tmp_path: Path) -> None:
    """A callback that is hours late changes nothing, but is printed."""
    journal, late = tmp_path / "kie.db", Fault("callback", "slow", seconds=7200.0)
    async with (
        FakeKie(duration=60.0, fail_rate=1.0, faults=[late]) as fake,
        run_listener(CapturedSession(fake, as_json=True, journal=journal)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        await kie.submit(make_request())
        await anyio.sleep(8000.0)

    assert [("callback", "failed"), ("ended", "failed")] == [
        (line["event"], line["state"]) for line in listener.entries
    ]


async def test_callback_for_a_foreign_task_is_refused(tmp_path: Path) -> None:
    """The response is 200; the confirmation by recordInfo shows that the task is foreign."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, webhook_key=SECRET) as fake,
        run_listener(CapturedSession(fake, as_json=True, journal=journal), webhook_keys=(SECRET,)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        foreign = (await kie.submit(make_request("another"))).task_id
        fake.inject(Fault("callback", "alter", data={"taskId": foreign}, nth=2))
        job = await kie.submit(make_request())
        await anyio.sleep(300.0)
        mine = [line for line in listener.entries if line["job_id"] == job.id]

    assert [("callback", foreign), ("refused", foreign)] == [(line["event"], line["task_id"]) for line in mine[:2]]
    assert (200, "the task that it names was not created by its job") == (mine[1]["status"], mine[1]["reason"])
    assert ("ended", job.task_id) == (mine[2]["event"], mine[2]["task_id"]), "by the submitter's polling"


@pytest.mark.parametrize(
    ("method", "path", "status", "line"),
    [
        ("POST", "/kie/hello", 404, "refused   404: its URL has no token of ours"),
        ("POST", "/other", 404, "refused   404: POST /other is not below /kie/"),
        ("POST", "/%0A%1B", 404, "refused   404: POST /%0A%1B is not below /kie/"),
        ("GET", "/", 405, "refused   405: GET / is not a POST request"),
        ("GET", "/kie/{token}", 405, "refused   405: GET /kie/kj_… is not a POST request"),
        (
            "POST",
            "/{token}",
            404,
            "refused   404: its token is valid, but it arrived at /kj_…, not at /kie/kj_…: see --path",
        ),
        ("POST", "/kie/{token}/more", 404, "refused   404: its URL has no token of ours"),
    ],
)
async def test_refusals_print_a_reason_without_the_token(
    tmp_path: Path, method: str, path: str, status: int, line: str
) -> None:
    """Requests to another path are printed too: a wrong path is the first mistake behind a tunnel."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=1e6) as fake,
        run_listener(CapturedSession(fake, journal=journal)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        _, token = await submit_and_get_token(fake, kie)
        parts = urlsplit(listener.url)
        answered = await send_request(method, f"http://{parts.netloc}{path.format(token=token)}")
        await anyio.sleep(1.0)

    assert (status, [line.format(job=token.partition(".")[0])]) == (answered, listener.lines)
    assert token not in listener.streams.out + listener.streams.err


async def test_job_of_another_journal_is_named(tmp_path: Path) -> None:
    """The token is valid, so the API key is the same; but the submitter uses another journal."""
    async with (
        FakeKie(duration=60.0) as fake,
        run_listener(CapturedSession(fake, as_json=True, journal=tmp_path / "kie.db")) as listener,
        open_submitter(fake, None, listener.url) as kie,
    ):
        job = await kie.submit(make_request())
        await job
        await anyio.sleep(60.0)

    refusal = {"event": "refused", "job_id": job.id, "status": 404, "reason": "the journal does not know its job"}
    assert [refusal] * 3 == listener.entries
    assert 1 == listener.streams.err.count(f"{job.id} is not in the journal {tmp_path}/kie.db. Use the journal of")


async def test_listen_without_a_journal_refuses_callbacks(tmp_path: Path) -> None:
    async with (
        FakeKie(duration=60.0) as fake,
        run_listener(CapturedSession(fake, as_json=True)) as listener,
        open_submitter(fake, tmp_path / "kie.db", listener.url) as kie,
    ):
        job = await kie.submit(make_request())
        await job
        await anyio.sleep(60.0)

    assert {("refused", job.id, 404)} == {(line["event"], line["job_id"], line["status"]) for line in listener.entries}
    assert f"without a journal no job is known. The callback was for {job.id}." in listener.streams.err


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "it is not signed, and webhook_key is set"),
        ("another", "the signature was not made with webhook_key for a task of this callback"),
    ],
)
async def test_wrong_signature_is_refused_with_a_hint(tmp_path: Path, key: str | None, reason: str) -> None:
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, webhook_key=key) as fake,
        run_listener(CapturedSession(fake, as_json=True, journal=journal), webhook_keys=(SECRET,)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        await kie.generate(make_request())
        await anyio.sleep(60.0)

    assert {(401, reason)} == {(line["status"], line["reason"]) for line in listener.entries}
    assert 1 == listener.streams.err.count("Compare --webhook-key (KIE_WEBHOOK_KEY) with the webhookHmacKey")
    assert SECRET not in listener.streams.out + listener.streams.err


async def test_duplicate_task_prints_a_warning(tmp_path: Path) -> None:
    """An ambiguous 500 was paid and retried: only the callback shows the first task."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, faults=[Fault("create", "code", code=500, after=True, nth=1)]) as fake,
        run_listener(CapturedSession(fake, journal=journal)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        await kie.generate(make_request())
        await anyio.sleep(60.0)

    assert 2 == len(fake.truth.created)
    assert "The service has created a second task for this job: it was paid twice." in listener.streams.err


async def test_number_of_awaited_jobs_is_limited(tmp_path: Path) -> None:
    """Callbacks of jobs that never end must not fill memory: the oldest jobs are dropped."""
    journal = tmp_path / "kie.db"
    early = Fault("callback", "early", seconds=5000.0)
    async with (
        FakeKie(duration=50.0, limit=1000, credits=1e9, faults=[early]) as fake,
        run_listener(CapturedSession(fake, as_json=True, journal=journal)) as listener,
        open_submitter(fake, journal, listener.url) as kie,
    ):
        for number in range(MAX_JOBS + 5):
            await kie.submit(make_request(str(number)))
        await anyio.sleep(600.0)
    events = [line["event"] for line in listener.entries]

    assert (MAX_JOBS + 5, MAX_JOBS) == (events.count("callback"), events.count("ended"))


@pytest.mark.parametrize("name", [EventName.CALLBACK, EventName.CALLBACK_REFUSED])
@pytest.mark.parametrize("as_json", [False, True])
async def test_events_that_come_too_fast_are_counted(tmp_path: Path, name: EventName, *, as_json: bool) -> None:
    """A flood fills no memory, and the end of a job whose callback was not written is still reported."""
    streams = CapturedSession(as_json=as_json)
    log, flood = CallbackLog(streams.session), 5 * MAX_QUEUED
    async with FakeKie(duration=60.0) as fake, anyio.create_task_group() as group:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            job = await kie.submit(make_request())
            await job
            group.start_soon(log.write_all, kie)
            await anyio.sleep(1.0)
            detail: dict[str, JSON] = {
                "named_task_id": "t",
                "attempt": 1,
                "state": "in_doubt",
                "status": 404,
                "reason": "",
            }
            for number in range(flood):
                log.enqueue(Event(name=name, job_id=f"kj_{number % 7}", detail=detail))
                log.enqueue_refusal(404, "noise")
            log.enqueue(Event(name=EventName.CALLBACK, job_id=job.id, detail=detail))
            await anyio.sleep(10.0)
            log.enqueue_refusal(404, "later")
            await anyio.sleep(1.0)
        group.cancel_scope.cancel()

    *written, last = streams.out.splitlines()
    ends = [line for line in written if "ended" in line and job.id in line]
    omitted = [line for line in written if "omitted" in line]
    assert ("later" in last, 1, 1) == (True, len(ends), len(omitted))
    assert f"{2 * flood + 1 - MAX_QUEUED} further events, which came too fast to be written" in omitted[0]
    assert MAX_QUEUED + 2 == len(written)


async def test_unreadable_journal_is_read_again(tmp_path: Path) -> None:
    """The end is printed when the journal is readable again; listener the client is closed for a while."""
    streams = CapturedSession(as_json=True)
    log = CallbackLog(streams.session)
    async with FakeKie(duration=60.0) as fake, anyio.create_task_group() as group:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            job = await kie.submit(make_request())
            await job
        detail = {"named_task_id": job.task_id, "attempt": 1, "state": "submitted"}
        log.enqueue(Event(name=EventName.CALLBACK, job_id=job.id, detail=detail))
        group.start_soon(log.write_all, kie)
        await anyio.sleep(10.0)
        assert 1 == len(streams.out.splitlines())
        async with kie:
            await anyio.sleep(10.0)
        group.cancel_scope.cancel()

    assert ["callback", "ended"] == [json.loads(line)["event"] for line in streams.out.splitlines()]


async def test_listen_ends_when_its_pipe_closes() -> None:
    """The next write after the pipe has closed ends the command."""

    class Pipe(io.StringIO):
        def write(self, text: str, /) -> int:
            if self.getvalue():
                raise BrokenPipeError
            return super().write(text)

    out = Pipe()
    session = Session(output=Output(out=out, err=io.StringIO()), api_key=KEY)

    async def until() -> None:
        url = out.getvalue().strip()
        assert 404 == await send_request("POST", f"{url}/hello")
        await anyio.sleep_forever()

    await run_listen(session, ListenAddress(port=0), webhook_keys=(), until=until)

    assert isinstance(session.output.broken, BrokenPipeError)


async def test_generate_waits_for_the_callback_of_a_lost_create(tmp_path: Path) -> None:
    """With a receiver on the same journal, generate waits for the callback and saves the video."""
    journal, file = tmp_path / "kie.db", tmp_path / "cat.mp4"
    async with (
        FakeKie(duration=60.0, faults=[Fault("create", "reset", after=True)]) as fake,
        run_listener(CapturedSession(fake, journal=journal), path="/hooks/kie") as listener,
    ):
        options = generate.GenerateOptions(request=make_request(), name="cat", target=file, callback_url=listener.url)
        streams = CapturedSession(fake, journal=journal)
        code = await generate.run_generate(streams.session, options)
        await anyio.sleep(5.0)

    assert (ExitCode.DONE, f"{file}\n", True) == (code, streams.out, file.exists())
    assert ["callback", "ended"] == [line.split()[0] for line in listener.lines]
    assert str(fake.truth.create_requests[0].callback_url).startswith(f"{listener.url}/kj_")


@pytest.mark.parametrize("option", ["--fake", "--no-journal"])
def test_callback_url_requires_a_journal(option: str) -> None:
    """Without a journal, a receiver does not know the job."""
    result = run_cli("generate", "-i", CAT, "-p", "Go", "--callback-url", "https://a.example/kie", "--key", "1", option)

    assert 2 == result.code
    assert "--callback-url: got a value; allowed: nothing without a journal" in result.err
    assert "--key: got a value; allowed: nothing without a journal" in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--path", "/kie/{id}"], "got '/kie/{id}'"),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--host", "192.0.2.1", "--no-journal"], "error: "),
        *(
            (["--webhook-key", key, "--no-journal"], "error: Invalid webhook_key: expected the webhookHmacKey")
            for key in ("", "a key", "key\n", '"key"', "\tkey")
        ),
        ([], "Nothing was sent"),
    ],
)
def test_listen_reports_invalid_options(options: list[str], message: str) -> None:
    """192.0.2.1 is not an address of this machine; the journal's folder does not exist."""
    result = run_cli("listen", *options, KIE_API_KEY=KEY)

    assert (2, "") == (result.code, result.out)
    assert message in result.err
    assert "Traceback" not in result.err


def test_listen_requires_a_key() -> None:
    result = run_cli("listen", "--no-journal")

    assert (2, "") == (result.code, result.out)
    assert "No API key is set." in result.err
