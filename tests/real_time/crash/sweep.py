"""The sweep: kills a process at each point of its run, starts others in its place, and sees what became of its jobs."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import anyio
import attrs

from tests.real_time.crash import programs
from tests.real_time.crash.ledger import Audit, audit
from tests.real_time.crash.perils import Point, read_diary
from tests.real_time.crash.processes import run, start, wait
from tests.real_time.crash.programs import Orders
from tests.real_time.crash.service import service
from tests.requests.samples import png

if TYPE_CHECKING:
    from kie_async import JSON
    from kie_async.testing import FakeKie

__all__ = ["Finding", "Sweep", "shuffled"]

#: How many points are tried at once: each waits for half of its time.
LANES = 3


@attrs.frozen(kw_only=True)
class Finding:
    """
    What has become of one run.

    Attributes:
        point: Where the process was to die.

        killed: Whether it did; else it had ended without coming there.

        audit: What is wrong.
    """

    point: Point
    killed: bool
    audit: Audit

    def __str__(self) -> str:
        return f"{self.point}: {'; '.join(self.audit.findings) or 'all is well'}"


class Sweep:
    """
    Tries points, each with a journal and a service of its own.

    Args:
        folder: Where the files go.

        plant: The bug that all journals have, or None.

        restarts: How many processes start at once after each kill.

        by: The signal.

    Attributes:
        findings: What has become of each run.

        seconds: How long they took, in all.
    """

    def __init__(
        self, folder: Path, *, plant: str | None = None, restarts: int = 1, by: signal.Signals = signal.SIGKILL
    ) -> None:
        self.findings: list[Finding] = []
        self.seconds = 0.0
        self._folder = folder
        self._plant = plant
        self._restarts = restarts
        self._by = by
        self._runs = count()
        self._images = folder / "images"
        self._images.mkdir(parents=True)
        for number in range(programs.WITH_IMAGE):
            (self._images / f"{number}.png").write_bytes(png(padding=number))

    @property
    def wrong(self) -> list[str]:
        """The runs after which something was wrong."""
        return [str(finding) for finding in self.findings if finding.audit.findings]

    async def points(self) -> list[Point]:
        """The points of a run that nobody disturbs, in the order in which it passes them."""
        async with service() as fake:
            orders = self._orders(fake)
            code = await run(programs.first, orders)
            told = read_diary(orders.diary)
            wrong = audit(fake.truth, orders.journal, told).findings
        if code != 0 or wrong:
            msg = f"a run that nobody disturbs ends with {code}: {wrong}"
            raise RuntimeError(msg)
        return [Point.read(point) for point in _list(told[-1]["trail"])]

    async def run(self, points: Iterable[Point], *, stop_at_first: bool = False) -> None:
        """
        Try *points*, several at once.

        Args:
            points: Where to kill.

            stop_at_first: Whether to stop as soon as something is wrong.
        """
        began_at, ahead = time.monotonic(), iter(points)

        async def lane() -> None:
            for point in ahead:
                self.findings.append(await self.kill_at(point))
                if stop_at_first and self.wrong:
                    return

        async with anyio.create_task_group() as group:
            for _ in range(LANES):
                group.start_soon(lane)
        self.seconds += time.monotonic() - began_at

    async def kill_at(self, point: Point) -> Finding:
        """Kill a run at a point, start again, and look."""
        async with service() as fake:
            orders = self._orders(fake, kill_at=point)
            code = await run(programs.first, orders)
            again = [
                attrs.evolve(orders, kill_at=None, diary=orders.diary.with_name(f"second-{number}"))
                for number in range(self._restarts)
            ]
            codes = [await wait(process) for process in [start(programs.second, one) for one in again]]
            told = [read_diary(one.diary) for one in again]
            first = read_diary(orders.diary)
            found = audit(fake.truth, orders.journal, [entry for diary in (first, *told) for entry in diary])
        killed = code == -signal.SIGKILL or any(entry["told"] == "signal" for entry in first)
        if not killed and code != 0:
            found.untrue.append(f"the first process ended with {code}")
        found.untrue.extend(f"a process after it ended with {code}" for code in codes if code != 0)
        for diary in told:
            found.untrue.extend(_unanswered(diary))
        return Finding(point=point, killed=killed, audit=found)

    def _orders(self, fake: FakeKie, kill_at: Point | None = None) -> Orders:
        folder = self._folder / str(next(self._runs))
        folder.mkdir()
        return Orders(
            url=fake.url,
            journal=folder / "kie.db",
            diary=folder / "first",
            images=self._images,
            kill_at=kill_at,
            by=self._by,
            plant=self._plant,
        )


def shuffled(points: Sequence[Point], seed: int = 1) -> list[Point]:
    """*points* in another order, so that all kinds come early."""
    mixed = list(points)
    Random(seed).shuffle(mixed)
    return mixed


def _unanswered(told: Sequence[dict[str, JSON]]) -> Iterator[str]:
    """The waiters of a process that were never told how it ended."""
    answered = {entry["job"] for entry in told if entry["told"] not in ("recovered", "journaled") and "job" in entry}
    for entry in told:
        if entry["told"] == "recovered":
            yield from (f"nobody has told who waits for {job}" for job in _list(entry["jobs"]) if job not in answered)


def _list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []
