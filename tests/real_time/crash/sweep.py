"""The sweep: kill a process at every point of its run, start another one, and look at what has become of the jobs."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async.testing import FakeKie, Fault
from tests.real_time.crash import programs
from tests.real_time.crash.ledger import Audit, audit
from tests.real_time.crash.perils import Point, read_diary
from tests.real_time.crash.processes import run, start, wait
from tests.real_time.crash.programs import SHOTS, Orders, prompt
from tests.requests.samples import png

if TYPE_CHECKING:
    from kie_async import JSON
    from kie_async.testing import Call

__all__ = ["Finding", "Sweep"]

#: How many points are tried at once: the machine waits half of the time.
LANES = 3

_seeds = count(1)


@attrs.frozen(kw_only=True)
class Finding:
    """
    What has become of one run.

    Attributes:
        point: Where the first process was killed.

        killed: Whether it was; else it had ended without coming that far.

        audit: What is wrong.
    """

    point: Point | None
    killed: bool
    audit: Audit


class Sweep:
    """
    One sweep.

    Args:
        folder: Where the files of each run go.

        plant: The bug that all journals have, or None.

        restarts: How many processes start at once after each kill.
    """

    def __init__(self, folder: Path, *, plant: str | None = None, restarts: int = 1) -> None:
        self._folder = folder
        self._plant = plant
        self._restarts = restarts
        self.findings: list[Finding] = []
        self.seconds = 0.0
        self._images = folder / "images"
        self._images.mkdir(parents=True)
        for number in range(2):
            (self._images / f"{number}.png").write_bytes(png(padding=number))

    async def points(self) -> list[Point]:
        """The points of a run that nobody kills, in the order in which it passed them."""
        async with _service() as fake:
            orders = self._orders(fake)
            assert 0 == await run(programs.first, orders)
            assert [] == audit(fake.truth, orders.journal, _told(orders)).findings
        trail = read_diary(orders.diary)[-1]["trail"]
        assert isinstance(trail, list)
        return [Point(**point) for point in trail if isinstance(point, dict)]  # type: ignore[arg-type]  # as written

    async def run(self, points: Iterable[Point], *, stop_at_first: bool = False) -> None:
        """
        Try *points*, several at once.

        Args:
            points: Where to kill.

            stop_at_first: Whether to stop where something is wrong.
        """
        began_at, ahead = time.monotonic(), iter(points)

        async def lane() -> None:
            for point in ahead:
                self.findings.append(await self.kill_at(point))
                if stop_at_first and self.findings[-1].audit.findings:
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for _ in range(LANES):
                group.start_soon(lane)
        self.seconds += time.monotonic() - began_at

    async def kill_at(self, point: Point) -> Finding:
        """Kill a run at a point, start again, and look."""
        async with _service() as fake:
            orders = self._orders(fake, kill_at=point)
            code = await run(programs.first, orders)
            after = [self._again(orders, number) for number in range(self._restarts)]
            codes = [await wait(process) for process in [start(programs.second, again) for again in after]]
            found = audit(fake.truth, orders.journal, [entry for one in (orders, *after) for entry in _told(one)])
        if code not in (0, -signal.SIGKILL):
            found.untrue.append(f"the first process ended with {code}")
        found.untrue.extend(f"a process after it ended with {code}" for code in codes if code != 0)
        for again in after:
            found.untrue.extend(_unanswered(_told(again)))
        return Finding(point=point, killed=code == -signal.SIGKILL, audit=found)

    def _orders(self, fake: FakeKie, kill_at: Point | None = None) -> Orders:
        folder = self._folder / f"run-{next(_seeds)}"
        folder.mkdir()
        return Orders(
            url=fake.url,
            journal=folder / "kie.db",
            diary=folder / "first",
            images=self._images,
            kill_at=kill_at,
            plant=self._plant,
        )

    def _again(self, orders: Orders, number: int) -> Orders:
        return attrs.evolve(orders, diary=orders.diary.with_name(f"second-{number}"), kill_at=None)

    def of_phase(self, points: Sequence[Point]) -> set[str]:
        """The phases of *points*."""
        return {point.phase for point in points}


def _told(orders: Orders) -> list[dict[str, JSON]]:
    return [entry for entry in read_diary(orders.diary) if entry["told"] != "done"]


def _unanswered(told: Sequence[dict[str, JSON]]) -> Iterable[str]:
    """The waiters of a process that were never told."""
    asked = [job for entry in told if entry["told"] == "recovered" for job in entry["jobs"]]  # type: ignore[union-attr]
    answered = {entry["job"] for entry in told if entry["told"] not in ("recovered", "journaled")}
    yield from (f"nobody told who waits for {job}" for job in asked if job not in answered)


@asynccontextmanager
async def _service() -> AsyncIterator[FakeKie]:
    """A service on which a few of the shots meet something: a refusal, an unclear error, a lost answer."""
    faults = [
        Fault("create", "code", code=429, when=_of(3), times=1),
        Fault("create", "code", code=500, when=_of(5), times=1),
        Fault("create", "reset", after=True, when=_of(7), times=1),
        Fault("create", "reset", after=True, when=_of(8), times=1),
        Fault("create", "code", code=422, when=_of(10), times=1),
    ]
    async with FakeKie(
        seed=next(_seeds),
        limit=1000,
        queries_per_second=100_000.0,
        duration=lambda _, rng: rng.choice((0.0, 0.2)),
        fail_rate=0.1,
        faults=faults,
        credits=1_000_000.0,
    ) as fake:
        yield fake


def _of(number: int) -> _Names:
    return _Names(prompt(number).encode())


@attrs.frozen
class _Names:
    """Whether a call names a text."""

    text: bytes

    def __call__(self, call: Call) -> bool:
        return self.text in call.body


def shuffled(points: Sequence[Point], seed: int = 1) -> list[Point]:
    """*points* in another order, so that one kind does not come after all others."""
    mixed = list(points)
    Random(seed).shuffle(mixed)
    return mixed
