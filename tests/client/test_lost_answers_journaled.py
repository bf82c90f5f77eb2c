"""Many responses are lost and the process ends: the next process knows every create and resends none."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from kie_async import ConfigurationError, KieClient, KieError, SubmitInDoubtError
from kie_async._io.journals.sqlite import SqliteStore
from kie_async.testing import FakeKie, Fault
from tests.helpers import CALLBACKS, KEY, assert_ledger, assert_settled, make_request

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async import Job
    from kie_async._core.lifecycle import Intent

JOBS = 50

#: The service created the task. These faults lose the response.
LOST: dict[str, dict[str, Any]] = {
    "reset": {"kind": "reset"},
    "silence": {"kind": "silence"},
    "half a body": {"kind": "half_body"},
    "502": {"kind": "html"},
    "504": {"kind": "html", "status": 504},
    "520": {"kind": "html", "status": 520},
    "data: null": {"kind": "null_data"},
    "truncated JSON": {"kind": "truncated_json"},
}


async def all_told(kie: KieClient, *, key: str | None = None) -> Counter[str]:
    """Count the errors of the callers of fifty creates by class."""
    told = Counter[str]()

    async def submit(number: int) -> None:
        try:
            await kie.submit(make_request(number), key=None if key is None else f"{key}-{number}")
        except KieError as error:
            told[type(error).__name__] += 1

    async with anyio.create_task_group() as group:
        for number in range(JOBS):
            group.start_soon(submit, number)
    return told


async def doubtful(jobs: list[Job]) -> int:
    """Count the jobs that end in doubt."""
    count = 0
    for job in jobs:
        with pytest.raises(SubmitInDoubtError) as raised:
            await job
        count += job.id == raised.value.job_id
    return count


async def rows_of(path: Path) -> list[Intent]:
    journal = SqliteStore(path)
    await journal.open()
    rows = list(await journal.rows())
    await journal.close()
    return rows


@pytest.mark.parametrize(
    ("name", "callback_url"), [*((name, None) for name in LOST), ("reset", CALLBACKS), ("502", CALLBACKS)]
)
async def test_fifty_lost_responses_are_never_resent(tmp_path: Path, name: str, callback_url: str | None) -> None:
    """Each caller gets an error, and neither recovery nor the same keys resend anything."""
    path, how = tmp_path / "kie.db", dict(LOST[name])
    options: Any = {"journal": path, "callback_url": callback_url}
    async with FakeKie(seed=len(name), faults=[Fault("create", how.pop("kind"), after=True, **how)]) as fake:
        async with KieClient(KEY, base_url=fake.url, **options) as kie:
            assert {"SubmitInDoubtError": JOBS} == await all_told(kie, key="order")
        assert {"in_doubt": JOBS} == Counter(row.state for row in await rows_of(path))

        async with KieClient(KEY, base_url=fake.url, **options) as kie:
            jobs = await kie.recover()
            assert JOBS == len({job.id for job in jobs}) == await doubtful(jobs)
            assert {"SubmitInDoubtError": JOBS} == await all_told(kie, key="order")
            await anyio.sleep(7200.0)
            assert {"unresolved": JOBS} == Counter(row.state for row in await rows_of(path))
            await assert_settled(kie)
        async with KieClient(KEY, base_url=fake.url, **options) as kie:
            await kie.recover()
            unfinished = [job.job_id for job in await kie.jobs(unfinished=True)]
            assert JOBS == len(unfinished) == await doubtful([kie.job(job_id) for job_id in unfinished])

        assert JOBS == len(fake.truth.create_requests) == len(fake.truth.created)
        assert_ledger(await rows_of(path), fake.truth)


async def test_fifty_redirects_are_fifty_rejections(tmp_path: Path) -> None:
    """A create does not follow a redirect: the address is configuration."""
    path = tmp_path / "kie.db"
    async with FakeKie(faults=[Fault("create", "redirect"), Fault("credit", "redirect")]) as fake:
        async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
            assert {ConfigurationError.__name__: JOBS} == await all_told(kie)
        async with KieClient(KEY, base_url=fake.url, journal=path) as kie:
            assert [] == await kie.recover()

        assert {"rejected": JOBS} == Counter(row.state for row in await rows_of(path))
        assert (JOBS, [], []) == (len(fake.truth.create_requests), fake.truth.created, fake.truth.followed_redirects)
