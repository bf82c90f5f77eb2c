"""Workers of one journal share the account's slots and polls; its limits are the account's, not a worker's."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anyio
import pytest

from kie_async import KieClient, Limits
from kie_async.testing import FakeKie
from tests.helpers import KEY, JournalClient, make_request

WORKERS = 3


async def submit_all(kie: KieClient, jobs: int) -> None:
    for number in range(jobs):
        await kie.submit(make_request(number), wait=False)


async def test_workers_share_the_slots_of_the_account(tmp_path: Path) -> None:
    """The first one has taken all; the others get theirs, and the limit is exceeded by one each at most."""
    limits = Limits(in_flight=6)
    async with (
        FakeKie(duration=30.0) as fake,
        JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", limits=limits) as first,
        JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", limits=limits) as second,
        JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", limits=limits) as third,
    ):
        workers = (first, second, third)
        await submit_all(first, 20)
        await anyio.sleep(10.0)
        assert (6, 0, 0) == tuple(kie.statistics().in_flight for kie in workers)
        await submit_all(second, 20)
        await submit_all(third, 20)
        taken: list[tuple[int, ...]] = []
        while any(kie.statistics().jobs for kie in workers):
            await anyio.sleep(1.0)
            taken.append(tuple(kie.statistics().in_flight for kie in workers))

        assert max(map(sum, taken)) <= 6 + WORKERS
        assert (2, 2, 2) == tuple(sorted(each)[len(each) // 2] for each in zip(*taken[30:180], strict=True))
        assert 60 == len(fake.truth.created)


async def test_workers_share_the_polls_of_the_account(tmp_path: Path) -> None:
    limits = Limits(creates=100, polls_per_second=4.0)
    async with (
        FakeKie(duration=300.0, limit=100, queries_per_second=1000.0) as fake,
        JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", limits=limits) as first,
        JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", limits=limits) as second,
    ):
        await submit_all(first, 60)
        await submit_all(second, 20)
        await anyio.sleep(310.0)
        polls = Counter(int(poll.at) for poll in fake.truth.polls if poll.at > 20.0)

        assert max(polls.values()) <= 6
        assert sum(count for second, count in polls.items() if 290 <= second < 310) >= 70
        await anyio.sleep(30.0)
        assert 0 == first.statistics().jobs == second.statistics().jobs


async def test_strictest_limits_count_and_one_warning_names_the_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        FakeKie(duration=60.0) as fake,
        JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db") as kie,
        JournalClient(KEY, base_url=fake.url, journal=tmp_path / "kie.db", limits=Limits(in_flight=4)) as strict,
    ):
        await strict.credits()
        await anyio.sleep(3.0)
        await submit_all(kie, 12)
        await anyio.sleep(20.0)

        assert kie.statistics().in_flight <= 4
        assert 1 == caplog.text.count("do not divide them among workers")
