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

from kie_async import Event, EventName, KieClient, Limits, Wan22TurboImageToVideo
from kie_async.cli import generate
from kie_async.cli.exit_codes import ExitCode
from kie_async.cli.listen import MAX_JOBS, CallbackLog, ListenAddress, run_listen
from kie_async.cli.output import Output
from kie_async.cli.session import Session
from kie_async.testing import FakeKie, Fault
from tests.cli.helpers import Streams, invoke

KEY = "key-for-the-fake"
SECRET = "webhook-secret"
CAT = "https://example.com/cat.png"


@attrs.frozen
class Listening:
    """The command at work: what it writes, and its address."""

    streams: Streams
    url: str

    @property
    def lines(self) -> list[str]:
        """What it has told so far."""
        return self.streams.out.splitlines()[1:]

    @property
    def told(self) -> list[dict[str, Any]]:
        """The same, where it is JSON: what has a value."""
        told = [json.loads(line) for line in self.lines]
        return [{name: value for name, value in fields.items() if value is not None} for fields in told]


@asynccontextmanager
async def listening(
    streams: Streams, *, path: str = "/kie", webhook_keys: tuple[str, ...] = ()
) -> AsyncGenerator[Listening]:
    """Run the command until the context is left; then it must have ended well."""
    stop, ready = anyio.Event(), anyio.Event()
    codes: list[ExitCode] = []

    async def until() -> None:
        ready.set()
        await stop.wait()

    async def command() -> None:
        place = ListenAddress(port=0, path=path)
        codes.append(await run_listen(streams.session, place, webhook_keys=webhook_keys, until=until))

    async with anyio.create_task_group() as group:
        group.start_soon(command)
        await ready.wait()
        first = streams.out.splitlines()[0]
        yield Listening(streams, json.loads(first)["url"] if streams.session.output.as_json else first)
        stop.set()
    assert [ExitCode.DONE] == codes


@asynccontextmanager
async def submitter(fake: FakeKie, journal: Path | None, url: str) -> AsyncGenerator[KieClient]:
    """Another program, which submits, and hears of ends by polling alone."""
    limits = Limits(creates=MAX_JOBS + 5)
    async with KieClient(KEY, base_url=fake.url, journal=journal, callback_url=url, limits=limits) as kie:
        yield kie


def ask(prompt: str = "Go") -> Wan22TurboImageToVideo:
    """A request that needs no upload."""
    return Wan22TurboImageToVideo(image=CAT, prompt=prompt)


async def send(method: str, url: str) -> int:
    """Send a request whose body is no JSON, and return the status of its answer."""
    async with aiohttp.ClientSession() as session, session.request(method, url, data=b"?") as answer:
        return answer.status


async def token_of(fake: FakeKie, kie: KieClient) -> tuple[str, str]:
    """The callback URL of a new job, and the token in it."""
    await kie.submit(ask())
    url = str(fake.truth.create_requests[-1].callback_url)
    return url, url.rpartition("/")[2]


async def test_a_callback_is_told_and_then_how_its_job_has_ended(tmp_path: Path) -> None:
    """The callback alone says nothing that is believed; the end is what the journal says after recordInfo was asked."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, webhook_key=SECRET) as fake,
        listening(Streams(fake, journal=journal), webhook_keys=(SECRET,)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        job = await kie.submit(ask())
        assert [] == here.lines
        await job
        await anyio.sleep(5.0)

    callback, ended = here.lines
    assert f"callback  {job.id} attempt 1 names task {job.task_id}, job submitted" == callback
    assert f"ended     {job.id} task {job.task_id}: succeeded, 80 credits" == ended
    assert [200] == [post.status for post in fake.truth.callbacks]
    assert "callback_url='https://YOUR-TUNNEL/kie'" in here.streams.err
    assert "Signatures are checked." in here.streams.err


async def test_a_create_whose_answer_was_lost_is_seen_to_come_home(tmp_path: Path) -> None:
    """In JSON, one object a line; what has no value is null."""
    journal, lost = tmp_path / "kie.db", Fault("create", "reset", after=True)
    async with (
        FakeKie(duration=60.0, faults=[lost]) as fake,
        listening(Streams(fake, as_json=True, journal=journal)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        video = await kie.generate(ask())
        await anyio.sleep(5.0)

    job_id, task_id = here.told[0]["job_id"], video.task_id
    assert here.told == [
        {"event": "callback", "job_id": job_id, "task_id": task_id, "attempt": 1, "state": "in_doubt"},
        {"event": "ended", "job_id": job_id, "task_id": task_id, "state": "succeeded", "credits": 80.0},
    ]
    assert 1 == len({tuple(json.loads(line)) for line in here.streams.out.splitlines()}), "the same fields in each"


@pytest.mark.parametrize("copies", [1, 3])
async def test_an_end_that_another_process_has_seen_is_told_once_all_the_same(tmp_path: Path, copies: int) -> None:
    """An early callback is looked into for half a minute; then it is the submitter's polling that sees the end."""
    journal = tmp_path / "kie.db"
    early = Fault("callback", "early", seconds=120.0, copies=copies)
    async with (
        FakeKie(duration=300.0, faults=[early]) as fake,
        listening(Streams(fake, as_json=True, journal=journal)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        await kie.generate(ask())
        await anyio.sleep(5.0)

    assert [*["callback"] * copies, "ended"] == [line["event"] for line in here.told]


async def test_a_callback_after_the_end_is_told_with_the_end(tmp_path: Path) -> None:
    """Hours late, it changes nothing, and whoever watches wants to see that it came."""
    journal, late = tmp_path / "kie.db", Fault("callback", "slow", seconds=7200.0)
    async with (
        FakeKie(duration=60.0, fail_rate=1.0, faults=[late]) as fake,
        listening(Streams(fake, as_json=True, journal=journal)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        await kie.submit(ask())
        await anyio.sleep(8000.0)

    assert [("callback", "failed"), ("ended", "failed")] == [(line["event"], line["state"]) for line in here.told]


async def test_a_callback_about_a_foreign_task_is_told_as_refused(tmp_path: Path) -> None:
    """It is answered with 200 and looked into; recordInfo then shows whose the task is. A good signature is no help."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, webhook_key=SECRET) as fake,
        listening(Streams(fake, as_json=True, journal=journal), webhook_keys=(SECRET,)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        foreign = (await kie.submit(ask("another"))).task_id
        fake.inject(Fault("callback", "alter", data={"taskId": foreign}, nth=2))
        job = await kie.submit(ask())
        await anyio.sleep(300.0)
        mine = [line for line in here.told if line["job_id"] == job.id]

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
        ("POST", "/kie/{token}", 400, "refused   {job} 400: the body is not JSON in UTF-8"),
    ],
)
async def test_why_a_request_was_refused_is_told_and_no_token_with_it(
    tmp_path: Path, method: str, path: str, status: int, line: str
) -> None:
    """What does not even reach the client is told as well: a wrong path is what goes wrong first behind a tunnel."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=1e6) as fake,
        listening(Streams(fake, journal=journal)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        _, token = await token_of(fake, kie)
        parts = urlsplit(here.url)
        answered = await send(method, f"http://{parts.netloc}{path.format(token=token)}")
        await anyio.sleep(1.0)

    assert (status, [line.format(job=token.partition(".")[0])]) == (answered, here.lines)
    assert token not in here.streams.out + here.streams.err


async def test_a_job_of_another_journal_is_named(tmp_path: Path) -> None:
    """The token is good, so the key is the same; but who has submitted the job writes it down somewhere else."""
    async with (
        FakeKie(duration=60.0) as fake,
        listening(Streams(fake, as_json=True, journal=tmp_path / "kie.db")) as here,
        submitter(fake, None, here.url) as kie,
    ):
        job = await kie.submit(ask())
        await job
        await anyio.sleep(60.0)

    refusal = {"event": "refused", "job_id": job.id, "status": 404, "reason": "the journal does not know its job"}
    assert [refusal] * 3 == here.told
    assert 1 == here.streams.err.count(f"{job.id} is not in the journal {tmp_path}/kie.db. Use the journal of")


async def test_without_a_journal_no_job_is_known(tmp_path: Path) -> None:
    async with (
        FakeKie(duration=60.0) as fake,
        listening(Streams(fake, as_json=True)) as here,
        submitter(fake, tmp_path / "kie.db", here.url) as kie,
    ):
        job = await kie.submit(ask())
        await job
        await anyio.sleep(60.0)

    assert {("refused", job.id, 404)} == {(line["event"], line["job_id"], line["status"]) for line in here.told}
    assert f"without a journal no job is known. The callback was for {job.id}." in here.streams.err


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "it is not signed, and webhook_key is set"),
        ("another", "the signature was not made with webhook_key"),
    ],
)
async def test_a_callback_with_the_wrong_signature_is_refused_with_advice(
    tmp_path: Path, key: str | None, reason: str
) -> None:
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, webhook_key=key) as fake,
        listening(Streams(fake, as_json=True, journal=journal), webhook_keys=(SECRET,)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        await kie.generate(ask())
        await anyio.sleep(60.0)

    assert {(401, reason)} == {(line["status"], line["reason"]) for line in here.told}
    assert 1 == here.streams.err.count("Compare --webhook-key (KIE_WEBHOOK_KEY) with the webhookHmacKey")
    assert SECRET not in here.streams.out + here.streams.err


async def test_a_second_task_of_a_job_is_told(tmp_path: Path) -> None:
    """An unclear 500 that was paid after all, and sent again: only the callback shows it."""
    journal = tmp_path / "kie.db"
    async with (
        FakeKie(duration=60.0, faults=[Fault("create", "code", code=500, after=True, nth=1)]) as fake,
        listening(Streams(fake, journal=journal)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        await kie.generate(ask())
        await anyio.sleep(60.0)

    assert 2 == len(fake.truth.created)
    assert "The service has created a second task for this job: it was paid twice." in here.streams.err


async def test_the_jobs_whose_ends_are_waited_for_are_bounded(tmp_path: Path) -> None:
    """Callbacks that lead to no end fill no memory: of the oldest jobs the end is not told any more."""
    journal = tmp_path / "kie.db"
    early = Fault("callback", "early", seconds=5000.0)
    async with (
        FakeKie(duration=50.0, limit=1000, credits=1e9, faults=[early]) as fake,
        listening(Streams(fake, as_json=True, journal=journal)) as here,
        submitter(fake, journal, here.url) as kie,
    ):
        for number in range(MAX_JOBS + 5):
            await kie.submit(ask(str(number)))
        await anyio.sleep(600.0)
    events = [line["event"] for line in here.told]

    assert (MAX_JOBS + 5, MAX_JOBS) == (events.count("callback"), events.count("ended"))


async def test_a_journal_that_cannot_be_read_is_asked_again(tmp_path: Path) -> None:
    """The end is told as soon as it can be; here it is the client that is closed meanwhile."""
    streams = Streams(as_json=True)
    teller = CallbackLog(streams.session)
    async with FakeKie(duration=60.0) as fake, anyio.create_task_group() as group:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            job = await kie.submit(ask())
            await job
        detail = {"named_task_id": job.task_id, "attempt": 1, "state": "submitted"}
        teller.enqueue(Event(name=EventName.CALLBACK, job_id=job.id, detail=detail))
        group.start_soon(teller.write_all, kie)
        await anyio.sleep(10.0)
        assert 1 == len(streams.out.splitlines())
        async with kie:
            await anyio.sleep(10.0)
        group.cancel_scope.cancel()

    assert ["callback", "ended"] == [json.loads(line)["event"] for line in streams.out.splitlines()]


async def test_nobody_reads_it_any_more() -> None:
    """A closed pipe ends it, with the next thing to tell."""

    class Pipe(io.StringIO):
        def write(self, text: str, /) -> int:
            if self.getvalue():
                raise BrokenPipeError
            return super().write(text)

    out = Pipe()
    session = Session(output=Output(out=out, err=io.StringIO()), api_key=KEY)

    async def until() -> None:
        url = out.getvalue().strip()
        assert 404 == await send("POST", f"{url}/hello")
        await anyio.sleep_forever()

    with pytest.raises(BrokenPipeError):
        await run_listen(session, ListenAddress(port=0), webhook_keys=(), until=until)


async def test_generate_gives_the_service_a_url_and_a_lost_answer_is_no_end(tmp_path: Path) -> None:
    """With a receiver that shares its journal, a create without an answer is waited for, and its video is saved."""
    journal, file = tmp_path / "kie.db", tmp_path / "cat.mp4"
    async with (
        FakeKie(duration=60.0, faults=[Fault("create", "reset", after=True)]) as fake,
        listening(Streams(fake, journal=journal), path="/hooks/kie") as here,
    ):
        wish = generate.GenerateOptions(request=ask(), name="cat", target=file, callback_url=here.url)
        streams = Streams(fake, journal=journal)
        code = await generate.run_generate(streams.session, wish)
        await anyio.sleep(5.0)

    assert (ExitCode.DONE, f"{file}\n", True) == (code, streams.out, file.exists())
    assert ["callback", "ended"] == [line.split()[0] for line in here.lines]
    assert str(fake.truth.create_requests[0].callback_url).startswith(f"{here.url}/kj_")


@pytest.mark.parametrize("option", ["--fake", "--no-journal"])
def test_a_callback_url_without_a_journal_is_refused(option: str) -> None:
    """The receiver would know nothing of the job."""
    ended = invoke("generate", "-i", CAT, "-p", "Go", "--callback-url", "https://a.example/kie", "--key", "1", option)

    assert 2 == ended.code
    assert "--callback-url: got a value; allowed: nothing without a journal" in ended.err
    assert "--key: got a value; allowed: nothing without a journal" in ended.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--path", "/kie/{id}"], "got '/kie/{id}'"),
        (["--port", "70000"], "Invalid value for '--port'"),
        (["--host", "192.0.2.1", "--no-journal"], "error: "),
        (["--webhook-key", "", "--no-journal"], "error: Invalid webhook_key: expected the webhookHmacKey"),
        ([], "Nothing was sent"),
    ],
)
def test_what_cannot_be_is_said_without_a_traceback(options: list[str], message: str) -> None:
    """192.0.2.1 is nobody's address here, so it cannot be listened on; and there is no folder for a journal."""
    ended = invoke("listen", *options, KIE_API_KEY=KEY)

    assert (2, "") == (ended.code, ended.out)
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_without_a_key_nothing_can_be_told_from_noise() -> None:
    ended = invoke("listen", "--no-journal")

    assert (2, "") == (ended.code, ended.out)
    assert "No API key is set." in ended.err
