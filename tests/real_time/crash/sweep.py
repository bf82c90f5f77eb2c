"""The sweep: kills a process at each point of its run, starts others in its place, and sees what became of its jobs."""

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
from tests.real_time.crash.ledger import Audit, audit, read_rows
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
        points: Where the signal was to strike.

        struck: Whether it did; else a process had ended without coming there.

        audit: What is wrong.
    """

    points: tuple[Point, ...]
    struck: bool
    audit: Audit

    def __str__(self) -> str:
        return f"{', '.join(map(str, self.points))}: {'; '.join(self.audit.findings) or 'all is well'}"


class Sweep:
    """
    Tries points, each with a journal and a service of its own.

    Args:
        folder: Where the files go.

        plant: The bug that all journals have, or None.

        restarts: How many processes start at once after each kill.

        by: The signal. One that can be handled gives the process some seconds to drain, and they are hurried less.

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
    def struck(self) -> int:
        """In how many runs the signal has struck."""
        return sum(finding.struck for finding in self.findings)

    @property
    def wrong(self) -> list[str]:
        """The runs after which something was wrong."""
        return [str(finding) for finding in self.findings if finding.audit.findings]

    async def points(self) -> list[Point]:
        """The points of a run that nobody disturbs, in the order in which it passes them."""
        async with service() as fake:
            orders = self.orders(fake)
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

    async def kill_at(self, *points: Point) -> Finding:
        """
        Kill a run at a point, start again, and look.

        Args:
            *points: Where; each further one is where the process dies that was started after the one before.
        """
        async with service() as fake:
            orders = [self.orders(fake, kill_at=points[0])]
            codes = [await run(programs.first, orders[0])]
            for number, point in enumerate(points[1:]):
                orders.append(self.again(orders[0], f"killed-{number}", kill_at=point))
                codes.append(await run(programs.second, orders[-1]))
            left = self._left_in_sending(orders[-1])
            last = [self.again(orders[0], f"last-{number}") for number in range(self._restarts)]
            ended = [await wait(process) for process in [start(programs.second, one) for one in last]]
            diaries = [read_diary(one.diary) for one in (*orders, *last)]
            found = audit(fake.truth, orders[0].journal, [entry for diary in diaries for entry in diary])
        struck = [any(entry["told"] == "signal" for entry in diary) for diary in diaries[: len(points)]]
        found.untrue.extend(f"a process ended with {code}" for code in codes if code not in (0, -signal.SIGKILL))
        found.untrue.extend(f"a process that nobody disturbed ended with {code}" for code in ended if code != 0)
        found.untrue.extend(f"{count} creates were cut off by {self._by.name}" for count in left)
        for diary in diaries[len(points) :]:
            found.untrue.extend(_unanswered(diary))
        return Finding(points=points, struck=all(struck), audit=found)

    def _left_in_sending(self, orders: Orders) -> list[int]:
        """How many creates a process has left on the wire that had the time to drain; nothing where that is right."""
        if self._by is signal.SIGKILL or not orders.journal.exists():
            return []
        states = Counter(row["state"] for row in read_rows(orders.journal).values())
        return [states["sending"]] if states["sending"] else []

    def orders(self, fake: FakeKie, kill_at: Point | None = None) -> Orders:
        """The orders of a first process, in a folder of its own."""
        folder = self._folder / str(next(self._runs))
        folder.mkdir()
        return Orders(
            url=fake.url,
            journal=folder / "kie.db",
            diary=folder / "first",
            images=self._images,
            kill_at=kill_at,
            by=self._by,
            speed=20.0 if self._by is signal.SIGKILL else 8.0,
            plant=self._plant,
        )

    def again(self, orders: Orders, name: str, kill_at: Point | None = None) -> Orders:
        """The orders of a process that takes up what another one has left."""
        return attrs.evolve(orders, kill_at=kill_at, diary=orders.diary.with_name(name))


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
