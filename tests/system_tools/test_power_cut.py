"""Simulated power cuts: with ``synchronous=FULL``, a real journal file loses no acknowledged move."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import attrs
import pytest

from tests.figures import RecordFigures
from tests.io.intents import make_intent, open_store
from tests.system_tools.journal_writer import JOBS, WAY
from tests.system_tools.recorded_disk import Call, Disk, Printed, Removed, Synced, Truncated, Written, record

CUTS = 180


@attrs.frozen
class Damage:
    """The effect of a power cut: dropped calls, acknowledged moves, and lost moves."""

    dropped: int
    acknowledged: int
    lost: list[str]


def recorded(folder: Path, synchronous: str) -> list[Call]:
    path = folder / "kie.db"
    return record(["-m", "tests.system_tools.journal_writer", str(path), synchronous], path)


def cut_at(calls: list[Call], place: int, folder: Path) -> Damage:
    """Cut the power after *place* calls, open the journal again, and compare."""
    disk, steps = Disk(), dict[int, int]()
    for call in calls[:place]:
        disk.apply(call)
        if isinstance(call, Printed):
            number, step = map(int, call.line.split())
            steps[number] = step
    folder.mkdir()
    disk.cut(Random(place), folder)
    found = asyncio.run(steps_in(folder / "kie.db"))
    with closing(sqlite3.connect(folder / "kie.db")) as connection:
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    lost = [f"job {number}: {step} was acknowledged" for number, step in steps.items() if found.get(number, -1) < step]
    return Damage(dropped=disk.dropped, acknowledged=sum(step + 1 for step in steps.values()), lost=lost)


async def steps_in(path: Path) -> dict[int, int]:
    """Return the number of moves of each job in the journal, and check each row's state."""
    async with open_store(path) as journal:
        rows = await journal.rows()
    steps = {int(row.id[3:], 16): int(row.credits or 0) for row in rows}
    states = [WAY[step - 1] if step else make_intent().state for step in steps.values()]
    assert states == [row.state for row in rows]
    return steps


def all_cuts(calls: list[Call], folder: Path) -> list[Damage]:
    """Cut at random places between the first acknowledged move and the end, the same in each run."""
    first = next(place for place, call in enumerate(calls) if isinstance(call, Printed))
    places = sorted(Random(0).sample(range(first, len(calls) + 1), CUTS))
    return [cut_at(calls, place, folder / str(place)) for place in places]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """Provide the file operations of a journal during twelve jobs."""
    return recorded(tmp_path_factory.mktemp("calls"), "default")


def test_record_contains_the_expected_calls(calls: list[Call]) -> None:
    """All moves, syncs, a checkpoint in the middle, and the removal of the log at the end."""
    kinds = [type(call) for call in calls]
    said = [place for place, call in enumerate(calls) if isinstance(call, Printed)]
    into_database = [place for place, call in enumerate(calls) if isinstance(call, Written) and call.name == "kie.db"]

    assert JOBS * (len(WAY) + 1) == len(said)
    assert kinds.count(Synced) >= 3 * len(WAY)
    assert any(said[0] < place < said[-1] for place in into_database)
    assert {Removed, Truncated} <= set(kinds)


def test_power_cut_loses_no_acknowledged_move(
    calls: list[Call], tmp_path: Path, record_property: RecordFigures
) -> None:
    """Any part of the unsynced writes may be lost; the file stays valid."""
    damages = all_cuts(calls, tmp_path)
    record_property("power cuts", {"tried": len(damages)})

    assert [] == [damage.lost for damage in damages if damage.lost]
    assert sum(damage.acknowledged for damage in damages) > 30 * CUTS
    assert sum(damage.dropped > 0 for damage in damages) >= 60, "most cuts must drop unsynced calls"


def test_power_cut_leaves_no_file_or_a_valid_one(calls: list[Call], tmp_path: Path) -> None:
    """The power is cut at every call until the first move is acknowledged."""
    first = next(place for place, call in enumerate(calls) if isinstance(call, Printed))
    damages = [cut_at(calls, place, tmp_path / str(place)) for place in range(first + 1)]

    assert first > 30
    assert [] == [damage.lost for damage in damages if damage.lost]


def test_check_finds_a_journal_without_sync(tmp_path: Path) -> None:
    """``synchronous=NORMAL`` survives kill -9 as FULL does, but a power cut loses acknowledged moves."""
    calls = recorded(tmp_path, "NORMAL")
    damages = all_cuts(calls, tmp_path)

    assert sum(bool(damage.lost) for damage in damages) > CUTS / 2
