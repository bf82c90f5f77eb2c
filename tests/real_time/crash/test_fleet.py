"""Four processes share one journal and one account, and one of them is killed in the middle."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from kie_async.testing import FakeKie
from tests.real_time.crash.fleet import EACH, JOBS, MEMBERS, SHARED, Share, member
from tests.real_time.crash.ledger import audit, read_rows
from tests.real_time.crash.perils import Point, read_diary
from tests.real_time.crash.processes import start, wait

if TYPE_CHECKING:
    from kie_async import JSON


async def test_fleet_ends_all_jobs_despite_a_kill(tmp_path: Path) -> None:
    """
    400 jobs, forty of them submitted by two processes at once with the same keys.

    What the killed one has left is adopted as soon as another one recovers; and whoever waits for a job in another
    process than its owner is told how it ended, too.
    """
    async with FakeKie(seed=400, limit=200, window=1.0, queries_per_second=1e6, duration=1.0, credits=1e9) as fake:
        shares = [
            Share(url=fake.url, folder=tmp_path, number=number, recovers=number == 2) for number in range(1, MEMBERS)
        ]
        doomed = Share(url=fake.url, folder=tmp_path, number=0, kill_at=Point("journal: after submitted", EACH // 2))
        others = [start(member, share) for share in shares]
        killed = await wait(start(member, doomed))
        of_the_dead = {
            row["owner"] for row in read_rows(tmp_path / "kie.db").values() if row["key"] == f"shot-{SHARED}"
        }
        left = _unfinished(tmp_path / "kie.db", of_the_dead)
        (tmp_path / "recover").touch()
        with anyio.move_on_after(10.0) as patience:
            while _unfinished(tmp_path / "kie.db", of_the_dead):
                await anyio.sleep(0.05)
        ended = [await wait(process) for process in others]
        told = [read_diary(doomed.diary(number)) for number in range(MEMBERS)]
        found = audit(fake.truth, tmp_path / "kie.db", [entry for diary in told for entry in diary])

    assert (-signal.SIGKILL, [0] * (MEMBERS - 1)) == (killed, ended)
    assert [] == found.findings
    assert JOBS == len(fake.truth.tasks) + sum(
        row["task_id"] is None for row in read_rows(tmp_path / "kie.db").values()
    )
    assert len(left) >= EACH // 4
    assert not patience.cancelled_caught
    for diary in told[1:]:
        answered = {entry["job"] for entry in diary if entry["told"] in ("Generation", "SubmitInDoubtError")}
        assert answered >= {entry["job"] for entry in diary if entry["told"] == "journaled"}
        assert EACH + SHARED == sum(entry["told"] == "journaled" for entry in diary)
    assert [] == fake.truth.rate_limited


def _unfinished(journal: Path, owners: set[JSON]) -> list[str]:
    """The jobs of *owners* of which something may still be expected."""
    states = ("intent", "sending", "submitted", "in_doubt", "stalled")
    return [job_id for job_id, row in read_rows(journal).items() if row["owner"] in owners and row["state"] in states]
