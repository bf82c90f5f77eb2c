"""``own_only=True`` and ``local_files=False``: what a stranger may send reaches no other task and no file."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import (
    ConfigurationError,
    Failed,
    InvalidRequestError,
    Job,
    JobState,
    KieClient,
    TaskNotFoundError,
    TaskTimeoutError,
    UploadError,
    Wan22TurboImageToVideo,
)
from kie_async.requests.media import MediaSource
from kie_async.testing import FakeKie
from tests.helpers import IMAGE, KEY, client_and_fake, create_foreign_task, make_request
from tests.requests.samples import JPEG, PNG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async.errors import Problem


async def read_updates(job: Job) -> None:
    async for _ in job.updates():
        pass


READS: dict[str, Callable[[Job], Awaitable[object]]] = {
    "wait": Job.wait,
    "wait with a timeout": lambda job: job.wait(timeout=0.5),
    "await": lambda job: job,
    "status": Job.status,
    "updates": read_updates,
}


@asynccontextmanager
async def client_and_foreign_task() -> AsyncIterator[tuple[KieClient, FakeKie, str]]:
    """Run a service with a task of another program, and a client."""
    async with FakeKie() as fake, KieClient(KEY, base_url=fake.url) as kie:
        yield kie, fake, await create_foreign_task(fake.url)


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_strangers_task_id_reads_no_other_task(read: Callable[[Job], Awaitable[object]]) -> None:
    """Any task of the account can be polled by its id, also those of other programs and customers."""
    async with client_and_foreign_task() as (kie, fake, foreign):
        for stranger in (foreign, "0" * 32, "kj_" + "0" * 32, f"{foreign}.", foreign.upper()):
            job = kie.job(stranger, own_only=True)
            with pytest.raises(TaskNotFoundError, match="The journal has no job with this id"):
                await read(job)
            assert await job.info() is None
            assert job.state is None

        assert [] == fake.truth.polls


async def test_a_task_awaited_by_the_operator_stays_unknown_to_strangers() -> None:
    """``kie.job(task_id)`` of the program itself makes the task known to the process, not to the journal."""
    async with client_and_foreign_task() as (kie, _, foreign), anyio.create_task_group() as group:
        group.start_soon(kie.job(foreign).wait)
        await anyio.sleep(1.0)
        job = kie.job(foreign, own_only=True)
        for read in READS.values():
            with pytest.raises(TaskNotFoundError):
                await read(job)
        assert job.state is None
        assert await job.info() is None


async def test_own_jobs_are_found_by_both_ids_in_every_worker(tmp_path: Path) -> None:
    """The journal counts, not the process or the API key that wrote it."""
    async with FakeKie() as fake:
        options: dict[str, Any] = {"base_url": fake.url, "journal": tmp_path / "kie.db"}
        async with KieClient(KEY, **options) as kie, KieClient("another-key", **options) as other:
            job = await kie.submit(make_request())
            assert job.task_id is not None
            for client in (kie, other):
                for own in (job.id, job.task_id):
                    with pytest.raises(TaskTimeoutError):
                        await client.job(own, own_only=True).wait(timeout=0.01)
            video = await other.job(job.id, own_only=True).wait()
            assert video.task_id == (await kie.job(job.task_id, own_only=True)).task_id
        async with KieClient(KEY, **options) as later:
            assert JobState.SUCCEEDED == getattr(await later.job(job.task_id, own_only=True).info(), "state", None)
            assert video.url == (await later.job(job.task_id, own_only=True)).url


async def test_a_job_of_another_service_is_unknown_to_strangers(tmp_path: Path) -> None:
    """The error for the program names the other service's URL, which is not for strangers."""
    async with FakeKie() as fake, FakeKie() as second:
        async with KieClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie:
            job = await kie.submit(make_request())
        async with KieClient(KEY, base_url=second.url, journal=tmp_path / "kie.db") as kie:
            for known in (job.id, job.task_id or ""):
                with pytest.raises(ConfigurationError, match="The job is for"):
                    await kie.job(known).wait()
                with pytest.raises(TaskNotFoundError):
                    await kie.job(known, own_only=True).wait()
                assert await kie.job(known).info() is not None
                assert await kie.job(known, own_only=True).info() is None
            assert [] == second.truth.polls


@pytest.mark.parametrize(
    "odd", ["", " ", "x" * 600, "kj_\ud800", "kj_ü", "kj_1\n", "../kj_1", "kj_1%00", "\0", "kj_1;--", "٣", "a b"]
)
def test_an_odd_id_of_a_stranger_is_an_unknown_one(odd: str) -> None:
    """A server needs to catch one error only; the program's own mistakes stay configuration errors."""
    kie = KieClient(KEY)
    with pytest.raises(TaskNotFoundError, match="Invalid id"):
        kie.job(odd, own_only=True)
    with pytest.raises(ConfigurationError, match="Invalid id"):
        kie.job(odd)


@pytest.mark.parametrize("wrong", [None, 7, b"kj_1", ["kj_1"]])
def test_an_id_that_is_no_string_is_a_mistake_of_the_program(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="Invalid id"):
        KieClient(KEY).job(wrong, own_only=True)


@pytest.mark.parametrize("wrong", [None, 0, 1, "yes", [True]])
def test_own_only_is_true_or_false(wrong: Any) -> None:
    """A value that is taken for False would let a stranger read any task."""
    with pytest.raises(ConfigurationError, match="Invalid own_only: expected True or False"):
        KieClient(KEY).job("kj_" + "0" * 32, own_only=wrong)


async def test_a_handle_keeps_its_restriction() -> None:
    """A handle that was pickled, or made of another handle, reads no more than before."""
    async with client_and_foreign_task() as (kie, fake, foreign):
        job = kie.job(foreign, own_only=True)
        for handle in (job, pickle.loads(pickle.dumps(job))):
            with pytest.raises(TaskNotFoundError):
                await kie.job(handle).wait()
        with pytest.raises(TaskNotFoundError):
            await kie.job(kie.job(foreign), own_only=True).wait()
        assert [] == fake.truth.polls


# -- paths -------------------------------------------------------------------------------------------------------------


class PathLike:
    """A path of another library."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


def paths_to(file: str) -> dict[str, Any]:
    """Return the ways to name a file."""
    return {
        "string": file,
        "path": Path(file),
        "path of another library": PathLike(file),
        "source": MediaSource(Path(file)),
        "relative": os.path.relpath(file),
        "home": "~/cat.png",
        "network share": r"\\server\share\cat.png",
        "missing": "/etc/no/such/file",
        "NUL": "cat.png\0.jpg",
        "surrogate": "cat\ud800.png",
        "device": "/dev/stdin",
        "process": "/proc/self/environ",
        "drive": "C:/cat.png",
        "blanks before a URL": " \t/etc/passwd#https://example.com",
    }


@pytest.mark.parametrize("way", paths_to("/x"))
async def test_paths_are_refused_before_anything_is_read(way: str, tmp_path: Path) -> None:
    """The answer for a file that exists is the one for a file that does not."""
    file = tmp_path / "cat.png"
    os.mkfifo(file)  # reading it would be noticed: "is not a regular file"
    image = paths_to(str(file))[way]
    async with client_and_fake(client={"local_files": False}) as setup:
        request = Wan22TurboImageToVideo(image=image, prompt="The cat yawns")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: setup.kie.generate(request),
            lambda: setup.kie.submit(request, wait=False),
            lambda: setup.kie.submit(request, key="order-7"),
            lambda: setup.kie.upload(image),
        ]
        for call in calls:
            with pytest.raises(InvalidRequestError, match="since this client has local_files=False"):
                await call()
        rows: list[Any] = [("first", request), request, ("last", make_request())]
        async with setup.kie.map(rows) as run:
            outcomes = [outcome async for outcome in run]
        errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
        assert 2 == len(errors)
        assert all("local_files=False" in str(error) for error in errors)
        assert 1 == len(setup.truth.created)
        assert [] == setup.truth.uploads
        assert 1 == len(await setup.rows())


class TwoImages:
    """A request of the caller's own, with an image that is a URL, one that is bytes, and one that is a path."""

    model = "wan/2-2-a14b-image-to-video-turbo"

    def files(self) -> Mapping[str, MediaSource]:
        return {"first": MediaSource(PNG), "second": MediaSource(Path("/etc/passwd"))}

    def problems(self, *, allowed_origins: frozenset[str] = frozenset()) -> list[Problem]:
        del allowed_origins
        msg = "it would be read"
        raise AssertionError(msg)

    def check(self) -> None: ...

    def input(self, uploaded: Mapping[str, str]) -> dict[str, Any]:
        return dict(uploaded)


async def test_paths_in_requests_of_the_caller_are_refused() -> None:
    async with client_and_fake(client={"local_files": False}) as setup:
        with pytest.raises(InvalidRequestError, match="second: got '/etc/passwd'") as raised:
            await setup.kie.generate(TwoImages())
        assert ["second"] == [problem.field for problem in raised.value.problems]


async def test_urls_bytes_and_open_files_need_no_local_files() -> None:
    """Only the program can make bytes and open files; a stranger sends strings."""
    async with client_and_fake(client={"local_files": False}) as setup:
        for number, image in enumerate((PNG, bytearray(JPEG), io.BytesIO(PNG), MediaSource(JPEG), IMAGE)):
            await setup.kie.generate(make_request(number, image=image))
        url = await setup.kie.upload(PNG)
        await setup.kie.generate(make_request(5, image=url))
        with pytest.raises(UploadError, match="is a URL already"):
            await setup.kie.upload(url)

        assert 6 == len(setup.truth.created)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "FILE:///etc/passwd", "data:image/png;base64,AAAA", "//host/a.png"]
)
async def test_other_schemes_are_refused_with_and_without_local_files(url: str) -> None:
    for local_files in (True, False):
        async with client_and_fake(client={"local_files": local_files}) as setup:
            with pytest.raises(InvalidRequestError):
                await setup.kie.generate(make_request(image=url))
            assert [] == setup.truth.created


@pytest.mark.parametrize("wrong", ["no", 0, 1, []])
def test_local_files_is_true_or_false(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="Invalid local_files: expected bool"):
        KieClient(KEY, local_files=wrong)
