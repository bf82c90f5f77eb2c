"""A journal of hashes: no prompt and no image URL on the disk, and the consequences after a restart."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import KieClient, KieError, Limits, ServerError, SqliteJournal, SubmitInDoubtError, UploadError
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.states import JobState
from kie_async.testing import FakeKie, Fault
from tests.helpers import CALLBACKS, KEY, PROMPT, make_request
from tests.requests.samples import PNG

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async._core.lifecycle import Intent

S = JobState


async def rows_of(path: Path) -> dict[JobState, Intent]:
    journal = SqliteStore(path)
    await journal.open()
    rows = await journal.rows()
    await journal.close()
    return {row.state: row for row in rows}


def bytes_of(path: Path) -> bytes:
    """Return all bytes of a journal on disk, its log included."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*") if file.is_file())


@pytest.mark.parametrize("store_inputs", ["full", "hash"])
async def test_hash_mode_stores_no_prompts_or_urls(tmp_path: Path, store_inputs: Any) -> None:
    """
    In every state: succeeded, failed, rejected, in doubt, cancelled and unsent.

    With ``"full"`` all of it is found, which shows that the search works.
    """
    folder = tmp_path / "journal"
    folder.mkdir()
    image, path = tmp_path / "canary.png", folder / "kie.db"
    image.write_bytes(PNG)
    faults = [Fault("create", "html", after=True, nth=3), Fault("create", "code", code=422, nth=4)]
    journal = SqliteJournal(path, store_inputs=store_inputs)
    found = b""

    async def attempt(number: int, **options: Any) -> None:
        with suppress(KieError):
            await kie.generate(make_request(number, image=image), **options)

    async with FakeKie(faults=faults, duration=30.0) as fake:
        async with KieClient(KEY, base_url=fake.url, journal=journal, limits=Limits(creates=4)) as kie:
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(partial(attempt, number, key=f"order-{number}"))
                await anyio.sleep(1.0)
                group.start_soon(partial(attempt, 4, timeout=3.0))
                await anyio.sleep(5.0)
                fake.fail(list(fake.truth.tasks)[1])
                found += bytes_of(path)
            for number in range(5, 10):
                await kie.submit(make_request(number, image=image), wait=False)
            found += bytes_of(path)
        found += bytes_of(path)
    states = {S.SUCCEEDED, S.FAILED, S.REJECTED, S.IN_DOUBT, S.CANCELLED, S.INTENT, S.SUBMITTED}
    secrets = [PROMPT.encode(), b"canary", str(fake.truth.uploads[0].path).encode()]

    assert states <= {*await rows_of(path)}
    assert b"order-1" in found
    assert [store_inputs == "full"] * 3 == [secret in found for secret in secrets]
    assert (store_inputs == "full") == all(row.input for row in (await rows_of(path)).values())


async def test_unsent_job_is_cancelled_by_the_next_process(tmp_path: Path) -> None:
    """Its waiter gets the reason, and the same key with the request sends it."""
    path = tmp_path / "kie.db"
    options: Any = {"limits": Limits(creates=1), "callback_url": CALLBACKS}
    async with FakeKie() as fake:
        journal = SqliteJournal(path, store_inputs="hash")
        async with KieClient(KEY, base_url=fake.url, journal=journal, **options) as kie:
            await kie.submit(make_request(0))
            left = [await kie.submit(make_request(number), key=f"order-{number}", wait=False) for number in (1, 2)]

        async with KieClient(KEY, base_url=fake.url, journal=journal, **options) as kie:
            again = await kie.submit(make_request(1), key="order-1", wait=False)
            jobs = {job.id: job for job in await kie.recover()}
            with pytest.raises(UploadError, match=r"keeps only hashes of inputs\. Submit the request again"):
                await jobs[left[1].id]
            assert left[0].id == again.id
            assert (await again).task_id in fake.truth.tasks
            assert "cancelled" == (await rows_of(path))[S.CANCELLED].state
            video = await kie.generate(make_request(2), key="order-2")
            assert left[1].id == video.job_id
        assert 3 == len(fake.truth.create_requests) == len(fake.truth.created)


async def test_job_in_doubt_is_not_cancelled(tmp_path: Path) -> None:
    """It cannot be sent again, but may have been paid, which must not be forgotten."""
    path = tmp_path / "kie.db"
    async with FakeKie(faults=[Fault("create", "reset", after=True)]) as fake:
        journal = SqliteJournal(path, store_inputs="hash")
        async with KieClient(KEY, base_url=fake.url, journal=journal) as kie:
            with pytest.raises(SubmitInDoubtError) as raised:
                await kie.submit(make_request(0), key="order")
            job = raised.value.job
            await job.resubmit(allow_duplicate=True)
            with pytest.raises(ServerError, match="may have been paid"):
                await job
            with pytest.raises(ServerError, match="may have been paid"):
                await kie.submit(make_request(0), key="order")
        assert 1 == len(fake.truth.create_requests)
        assert S.CANCELLED not in await rows_of(path)
