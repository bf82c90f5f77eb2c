"""
The kill sweep on PostgreSQL: ``kill -9`` at the points of a run, and a lost connection at each of its writes.

A lost connection leaves open whether the transaction was committed: both are tried.
"""

from __future__ import annotations

import os
import signal
from itertools import product
from pathlib import Path

import anyio
import attrs
import pytest

from tests import profile
from tests.figures import RecordFigures
from tests.real_time.crash import programs
from tests.real_time.crash.audit import audit
from tests.real_time.crash.kill_points import KillPoint, read_log
from tests.real_time.crash.processes import start, wait
from tests.real_time.crash.service import service
from tests.real_time.crash.sweep import Sweep
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import PostgresProxy

#: A part of each statement that writes a row of a job.
WRITES = {"it is added": b".intents (", "they are claimed": b".intents"}
CHANGE = b".intents SET"


@pytest.fixture
async def points(postgres_dsn: str, tmp_path: Path) -> list[KillPoint]:
    """Provide the points of an uninterrupted run."""
    return await Sweep(tmp_path / "whole", dsn=postgres_dsn).points()


async def test_kill_neither_pays_twice_nor_loses_a_task(
    points: list[KillPoint], postgres_dsn: str, tmp_path: Path, record_property: RecordFigures
) -> None:
    """Every wait of the next process ends, and every charged task is known."""
    sweep, sampled = Sweep(tmp_path / "sweep", dsn=postgres_dsn), profile.sample(points, check=0.006)
    await sweep.run(sampled)
    record_property("kill sweep on PostgreSQL", {"kills": sweep.signaled})

    assert sweep.signaled >= 0.75 * len(sampled)
    assert [] == sweep.wrong


#: The bugs to plant, and the number of processes that replace a killed one.
BUGS = [("resend-sending", 1), ("no-compare-and-set", 2)]


@pytest.mark.parametrize(("bug", "restarts"), profile.sample(BUGS, check=0.5))
async def test_sweep_finds_planted_bugs(
    bug: str, restarts: int, points: list[KillPoint], postgres_dsn: str, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", bug=bug, restarts=restarts, dsn=postgres_dsn)
    await sweep.run([point for point in points if "bytes" in point.phase], stop_at_first=True)

    assert any(finding.audit.paid_twice for finding in sweep.findings)


async def test_lost_connection_at_a_write_costs_nothing(
    points: list[KillPoint], postgres_server: PostgresServer, postgres_dsn: str, tmp_path: Path
) -> None:
    """Each write of a run is committed and its answer is lost, or it never arrives; the run ends as if nothing were."""
    writes = [point for point in points if point.phase.startswith("journal: before")]
    cuts = list(product(writes, (True, False)))
    happened, wrong = 0, []
    for number, (point, done) in enumerate(profile.sample(cuts, check=0.025)):
        sweep = Sweep(tmp_path / f"cut_{number}", dsn=postgres_dsn, by=signal.SIGSTOP)
        with PostgresProxy(postgres_server.port) as proxy:
            cut, findings = await run_with_cut(sweep, proxy, point, done=done)
        happened += cut
        wrong += [f"{point}, {'done' if done else 'not done'}: {finding}" for finding in findings]

    assert [] == wrong
    assert happened >= 0.75 * len(profile.sample(cuts, check=0.025))


async def run_with_cut(sweep: Sweep, proxy: PostgresProxy, point: KillPoint, *, done: bool) -> tuple[bool, list[str]]:
    """Run a process that loses its connection at the first write after a point; return whether it did, and errors."""
    pattern = WRITES.get(point.phase.removeprefix("journal: before "), CHANGE)
    async with service() as fake:
        options = attrs.evolve(sweep.first_options(fake, kill_at=point), journal=proxy.dsn(), speed=20.0)
        process = start(programs.submit_all, options)
        happened = None
        async with anyio.create_task_group() as group:
            ended: list[int | None] = []

            async def follow() -> None:
                ended.append(await wait(process))

            pid = process.pid
            group.start_soon(follow)
            while not ended and pid is not None:
                await anyio.sleep(0.005)
                if any(entry["event"] == "signal" for entry in read_log(options.log)) and _is_stopped(pid):
                    happened = proxy.cut_at(pattern, done=done)
                    os.kill(pid, signal.SIGCONT)
                    break
        events = read_log(options.log)
        findings = audit(fake.truth, options.journal, events, options.schema).findings
    if ended != [0]:
        findings = [*findings, f"the process ended with {ended}"]
    return happened is not None and happened.is_set(), findings


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
