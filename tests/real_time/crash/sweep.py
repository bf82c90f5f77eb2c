"""The kill sweep: kills a process at each point of its run, starts others in its place, and audits the jobs."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import anyio
import attrs

from tests.real_time.crash import programs
from tests.real_time.crash.audit import Audit, audit, read_rows
from tests.real_time.crash.kill_points import KillPoint, read_log
from tests.real_time.crash.processes import run, start, wait
from tests.real_time.crash.programs import ProgramOptions
from tests.real_time.crash.service import service
from tests.requests.samples import png

if TYPE_CHECKING:
    from kie_async import JSON
    from kie_async.testing import FakeKie

__all__ = ["KillResult", "Sweep", "shuffled"]

#: The number of points that are tried at the same time; each run waits half of its time.
CONCURRENCY = 3


@attrs.frozen(kw_only=True)
class KillResult:
    """
    The result of one run.

    Attributes:
        points: The points of the signals.

        signaled: True if every signal was sent; False if a process ended without reaching its point.

        audit: The errors.
    """

    points: tuple[KillPoint, ...]
    signaled: bool
    audit: Audit

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.points))}: {'; '.join(self.audit.findings) or 'no errors'}"


class Sweep:
    """
    A sweep over points, each with its own journal and service.

    Args:
        folder: The folder of all files.

        bug: The name of the journals' bug, or None.

        restarts: The number of processes that start at the same time after each kill.

        by: The signal. A signal that can be handled leaves some seconds for the drain, so the clock is slower then.

        dsn: The database of the journals, each in a schema of its own; None for files.

    Attributes:
        findings: The result of each run.

        seconds: The total time of the runs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bug: str | None = None,
        restarts: int = 1,
        by: signal.Signals = signal.SIGKILL,
        dsn: str | None = None,
    ) -> None:
        self.findings: list[KillResult] = []
        self.seconds = 0.0
        self._folder = folder
        self._bug = bug
        self._restarts = restarts
        self._by = by
        self._dsn = dsn
        self._runs = count()
        self._images = folder / "images"
        self._images.mkdir(parents=True)
        for number in range(programs.SHOTS_WITH_IMAGE):
            (self._images / f"{number}.png").write_bytes(png(padding=number))

    @property
    def signaled(self) -> int:
        """The number of runs in which every signal was sent."""
        return sum(finding.signaled for finding in self.findings)

    @property
    def wrong(self) -> list[str]:
        """The results of the runs with errors."""
        return [str(finding) for finding in self.findings if finding.audit.findings]

    async def points(self) -> list[KillPoint]:
        """Return the points of an uninterrupted run in their order."""
        async with service() as fake:
            options = self.first_options(fake)
            code = await run(programs.submit_all, options)
            events = read_log(options.log)
            if code != 0:
                msg = f"An uninterrupted run ended with {code}: {events}"
                raise RuntimeError(msg)
            wrong = audit(fake.truth, options.journal, events, options.schema).findings
        if wrong:
            msg = f"An uninterrupted run has errors: {wrong}"
            raise RuntimeError(msg)
        return [KillPoint.parse(point) for point in _list(events[-1]["passed"])]

    async def run(self, points: Iterable[KillPoint], *, stop_at_first: bool = False) -> None:
        """
        Try *points*, several at the same time.

        Args:
            points: The points of the kills.

            stop_at_first: True to stop at the first error.
        """
        began_at, remaining = time.monotonic(), iter(points)

        async def worker() -> None:
            for point in remaining:
                self.findings.append(await self.kill_at(point))
                if stop_at_first and self.wrong:
                    return

        async with anyio.create_task_group() as group:
            for _ in range(CONCURRENCY):
                group.start_soon(worker)
        self.seconds += time.monotonic() - began_at

    async def kill_at(self, *points: KillPoint) -> KillResult:
        """
        Kill a run at a point, start another process, and audit the result.

        Args:
            *points: The point; each further point kills the process that was started after the previous kill.
        """
        async with service() as fake:
            options = [self.first_options(fake, kill_at=points[0])]
            codes = [await run(programs.submit_all, options[0])]
            for number, point in enumerate(points[1:]):
                await end_leases(options[-1])
                options.append(self.next_options(options[0], f"killed-{number}", kill_at=point))
                codes.append(await run(programs.recover_all, options[-1]))
            left = self._left_in_sending(options[-1])
            await end_leases(options[-1])
            last = [self.next_options(options[0], f"last-{number}") for number in range(self._restarts)]
            ended = [await wait(process) for process in [start(programs.recover_all, one) for one in last]]
            logs = [read_log(one.log) for one in (*options, *last)]
            entries = [entry for log in logs for entry in log]
            found = audit(fake.truth, options[0].journal, entries, options[0].schema)
        signaled = [any(entry["event"] == "signal" for entry in log) for log in logs[: len(points)]]
        found.inconsistent.extend(f"a process ended with {code}" for code in codes if code not in (0, -signal.SIGKILL))
        found.inconsistent.extend(f"an uninterrupted process ended with {code}" for code in ended if code != 0)
        found.inconsistent.extend(f"{count} creates were interrupted by {self._by.name}" for count in left)
        for log in logs[len(points) :]:
            found.inconsistent.extend(_without_outcome(log))
        return KillResult(points=points, signaled=all(signaled), audit=found)

    def _left_in_sending(self, options: ProgramOptions) -> list[int]:
        """Return the number of rows that a drained process has left in SENDING, if that is an error."""
        if self._by is signal.SIGKILL or not (isinstance(options.journal, Path) and options.journal.exists()):
            return []
        states = Counter(row["state"] for row in read_rows(options.journal).values())
        return [states["sending"]] if states["sending"] else []

    def first_options(self, fake: FakeKie, kill_at: KillPoint | None = None) -> ProgramOptions:
        """Return the options of a first process, in a new folder."""
        folder = self._folder / str(next(self._runs))
        folder.mkdir()
        return ProgramOptions(
            url=fake.url,
            journal=folder / "kie.db" if self._dsn is None else self._dsn,
            schema=f"{self._folder.name}_{folder.name}",
            log=folder / "submit",
            images=self._images,
            kill_at=kill_at,
            by=self._by,
            speed=20.0 if self._by is signal.SIGKILL else 8.0,
            bug=self._bug,
        )

    def next_options(self, options: ProgramOptions, name: str, kill_at: KillPoint | None = None) -> ProgramOptions:
        """Return the options of a process that continues after another one."""
        return attrs.evolve(options, kill_at=kill_at, log=options.log.with_name(name))


async def end_leases(options: ProgramOptions) -> None:
    """End the leases of a journal in PostgreSQL, as time would: its workers were killed."""
    if isinstance(options.journal, str):
        import psycopg

        async with await psycopg.AsyncConnection.connect(options.journal, autocommit=True) as connection:
            found = await connection.execute("SELECT to_regclass(%s)", (f"{options.schema}.workers",))
            if await found.fetchone() != (None,):  # it was killed before it had made the tables
                workers = psycopg.sql.Identifier(options.schema, "workers")
                await connection.execute(psycopg.sql.SQL("DELETE FROM {}").format(workers))


def shuffled(points: Sequence[KillPoint], seed: int = 1) -> list[KillPoint]:
    """Return *points* in a random order, so that all kinds come early."""
    mixed = list(points)
    Random(seed).shuffle(mixed)
    return mixed


def _without_outcome(events: Sequence[dict[str, JSON]]) -> Iterator[str]:
    """Find recovered jobs of a process whose waiters received no outcome."""
    answered = {entry["job"] for entry in events if entry["event"] not in ("recovered", "journaled") and "job" in entry}
    for entry in events:
        if entry["event"] == "recovered":
            yield from (f"the wait for {job} has no outcome" for job in _list(entry["jobs"]) if job not in answered)


def _list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []
