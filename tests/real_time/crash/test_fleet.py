"""Four processes share one journal and one account; one of them is killed in the middle."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from kie_async.testing import FakeKie
from tests.real_time.crash.audit import audit, read_rows
from tests.real_time.crash.fleet import EACH, JOBS, MEMBERS, SHARED, MemberOptions, run_member
from tests.real_time.crash.kill_points import KillPoint, read_log
from tests.real_time.crash.processes import TIMEOUT, start, wait

if TYPE_CHECKING:
    from kie_async import JSON


async def test_fleet_ends_all_jobs_despite_a_kill(tmp_path: Path) -> None:
    """
    400 jobs, forty of them submitted by two processes at once with the same keys.

    ``recover()`` of another process adopts the jobs of the killed one at once. A wait for a job of another process ends
    with the job's outcome.
    """
    async with FakeKie(seed=400, limit=200, window=1.0, queries_per_second=1e6, duration=1.0, credits=1e9) as fake:
        all_options = [
            MemberOptions(url=fake.url, folder=tmp_path, number=number, recovers=number == 2)
            for number in range(1, MEMBERS)
        ]
        killed_options = MemberOptions(
            url=fake.url, folder=tmp_path, number=0, kill_at=KillPoint("journal: after submitted", EACH // 2)
        )
        others = [start(run_member, options) for options in all_options]
        killed = await wait(start(run_member, killed_options))
        dead_owners = {
            row["owner"] for row in read_rows(tmp_path / "kie.db").values() if row["key"] == f"shot-{SHARED}"
        }
        left = _unfinished(tmp_path / "kie.db", dead_owners)
        (tmp_path / "recover").touch()
        with anyio.move_on_after(TIMEOUT / 2) as timeout:
            while _unfinished(tmp_path / "kie.db", dead_owners):
                await anyio.sleep(0.05)
        ended = [await wait(process) for process in others]
        all_events = [read_log(killed_options.log_path(number)) for number in range(MEMBERS)]
        found = audit(fake.truth, tmp_path / "kie.db", [entry for log in all_events for entry in log])

    assert (-signal.SIGKILL, [0] * (MEMBERS - 1)) == (killed, ended)
    assert [] == found.findings
    # A create that was on the wire when its process was killed may have made a task that no row knows.
    unknown = sum(row["task_id"] is None for row in read_rows(tmp_path / "kie.db").values())
    assert JOBS - unknown <= len(fake.truth.tasks) <= JOBS
    assert len(left) >= EACH // 4
    assert not timeout.cancelled_caught
    for log in all_events[1:]:
        answered = {entry["job"] for entry in log if entry["event"] in ("Generation", "SubmitInDoubtError")}
        assert answered >= {entry["job"] for entry in log if entry["event"] == "journaled"}
        assert EACH + SHARED == sum(entry["event"] == "journaled" for entry in log)
    assert [] == fake.truth.rate_limited


def _unfinished(journal: Path, owners: set[JSON]) -> list[str]:
    """Return the unfinished jobs of *owners*."""
    states = ("intent", "sending", "submitted", "in_doubt", "stalled")
    return [job_id for job_id, row in read_rows(journal).items() if row["owner"] in owners and row["state"] in states]
