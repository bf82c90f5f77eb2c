"""Three processes run one table with ``share=True``, or one budget; one of them is killed in the middle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kie_async import JSON
from tests.fleet.figures import paid_twice
from tests.fleet.fleet import SCALED, Fleet, run_fleet
from tests.profile import sample, scaled

ROWS = scaled(quick=40, check=60, nightly=300)
LOOK_AHEAD = 6
PRICE = 80.0
MODEL = "wan/2-2-a14b-image-to-video-turbo"
#: A model that the catalogue does not have.
UNLISTED = "acme/image"


@pytest.fixture(params=["sqlite", "postgres"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path of a journal, and the DSN of another one."""
    return str(tmp_path / "kie.db" if request.param == "sqlite" else request.getfixturevalue("postgres_dsn"))


def keys(count: int = ROWS) -> list[str]:
    """Return the keys of a table."""
    return [f"shot-{number}" for number in range(count)]


def run_tables(fleet: Fleet, folder: Path, *, budget: float | None = None, model: str = MODEL) -> None:
    """Let each worker run the table, and save the files in a folder of its own, as on a machine of its own."""
    for worker in fleet.workers:
        options: dict[str, JSON] = {
            "share": True,
            "look_ahead": LOOK_AHEAD,
            "save_to": str(folder / worker.name / "{key}.mp4"),
        }
        worker.link.send(do="map", jobs=list(keys()), budget=budget, model=model, options=options)


def yielded(fleet: Fleet, outcome: str = "Done") -> Counter[str]:
    """Count the outcomes of one kind that the workers' callers have got, by their keys."""
    rows = [message for worker in fleet.workers for message in worker.reported("row")]
    return Counter(message["key"] for message in rows if message["outcome"] == outcome)


async def all_mapped(fleet: Fleet, count: int = 3) -> None:
    """Wait until the runs of *count* workers have ended."""
    await fleet.until(lambda: sum(len(worker.reported("mapped")) for worker in fleet.workers) == count)


async def test_killed_worker_of_a_shared_table_loses_no_row(journal: str, tmp_path: Path) -> None:
    """A create that was on its way when its worker was killed is told as one in doubt."""
    async with run_fleet(journal, SCALED) as fleet:
        killed, *_ = await fleet.start(3)
        run_tables(fleet, tmp_path)
        await fleet.until(lambda: len(fleet.fake.truth.tasks) >= ROWS // 2 and len(killed.reported("row")) >= 2)
        await fleet.kill(killed)
        await all_mapped(fleet, 2)
        rows = await fleet.rows()
        summaries = [worker.reported("mapped")[0] for worker in fleet.workers[1:]]
        fetched = Counter(download.path for download in fleet.fake.truth.downloads)

    done, in_doubt = yielded(fleet), yielded(fleet, "InDoubt")
    assert set(keys()) == set(rows) == {*done, *in_doubt}
    assert len(in_doubt) <= LOOK_AHEAD
    assert {key: "unresolved" if key in in_doubt else "succeeded" for key in keys()} == {
        key: row["state"] for key, row in rows.items()
    }
    assert len(done) <= len(fleet.fake.truth.tasks) <= ROWS
    assert [] == paid_twice(fleet.fake.truth)
    assert len(done) == len(fetched)
    assert max(fetched.values()) <= 2
    # Only what the killed worker has not yielded is yielded, and fetched, a second time.
    assert (done + in_doubt).total() <= ROWS + 1
    assert [ROWS, ROWS] == [one["ok"] + one["in_doubt"] + one["elsewhere"] for one in summaries]


@pytest.mark.parametrize(
    ("model", "kills"),
    sample([(MODEL, False), (MODEL, True), (UNLISTED, False), (UNLISTED, True)], check=0.5),
)
async def test_named_budget_holds_across_processes(journal: str, tmp_path: Path, model: str, *, kills: bool) -> None:
    """Without a listed price, one task of a model is sent until its cost is known."""
    async with run_fleet(journal, SCALED, models=[UNLISTED], prices={UNLISTED: PRICE}) as fleet:
        killed, *_ = await fleet.start(3)
        run_tables(fleet, tmp_path, budget=12.5 * PRICE, model=model)
        if kills:
            await fleet.until(lambda: len(fleet.fake.truth.tasks) >= 3)  # a price is known by then
            await fleet.kill(killed)
        await all_mapped(fleet, 3 - kills)
        rows = await fleet.rows()

    sent = {key: row["state"] for key, row in rows.items() if row["state"] != "cancelled"}
    in_doubt = sum(state == "unresolved" for state in sent.values())  # of the worker that was killed
    assert 12 == len(sent)
    assert 12 - in_doubt <= len(fleet.fake.truth.tasks) <= 12
    assert in_doubt == 0 or kills
    assert set(sent) == set(yielded(fleet)) | set(yielded(fleet, "InDoubt"))
    # Each row without a job is skipped by each worker that reads it.
    assert set(keys()) - set(sent) == set(yielded(fleet, "Skipped"))
