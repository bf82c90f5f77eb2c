"""SIGTERM and Ctrl-C: what is on the wire is let end, within a bound, and the journal tells the rest."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import attrs
import pytest

from kie_async import RetryPolicy
from kie_async.testing import Fault
from tests.real_time.crash import programs
from tests.real_time.crash.ledger import audit, read_rows
from tests.real_time.crash.perils import Point, read_diary
from tests.real_time.crash.processes import run
from tests.real_time.crash.programs import prompt
from tests.real_time.crash.service import of_shot, service
from tests.real_time.crash.sweep import Sweep

#: Where a job is when the signal comes; others are in other states then.
STATES = (
    "journal: after it is added #20",
    "journal: after sending #5",
    "create: after the bytes #10",
    "create: middle of the body #15",
    "journal: after intent #1",
    "journal: after in_doubt #1",
    "journal: after rejected #1",
    "journal: after submitted #10",
    "journal: after succeeded #3",
    "other: first byte #10",
)

both = pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT], ids=lambda by: by.name)


@both
async def test_signal_interrupts_no_create(by: signal.Signals, tmp_path: Path) -> None:
    """In whatever state its jobs are: no row is left in SENDING, and what was not sent is sent by the next process."""
    sweep = Sweep(tmp_path / "sweep", by=by)
    await sweep.run(Point.read(state) for state in STATES)

    assert len(STATES) == sweep.struck
    assert [] == sweep.wrong


@both
@pytest.mark.parametrize("state", ["stalled", "unresolved"])
async def test_jobs_past_a_deadline_survive_their_process(state: str, by: signal.Signals, tmp_path: Path) -> None:
    """A task that hangs, and one of which nobody knows whether there is one."""
    sweep = Sweep(tmp_path / "sweep", by=by)
    async with service(duration=1e6) as fake:
        orders = attrs.evolve(
            sweep.orders(fake, Point(f"journal: after {state}", 1)),
            retry=RetryPolicy(max_age=20.0, in_doubt_timeout=15.0),
        )
        code = await run(programs.first, orders)
    rows, told = read_rows(orders.journal), read_diary(orders.diary)

    assert (0, "left") == (code, told[-1]["told"])
    assert state in {row["state"] for row in rows.values()}
    assert {row["task_id"] for row in rows.values()} - {None} <= set(fake.truth.tasks)
    assert [] == [entry for entry in told if entry["told"] == "log"]
    assert len(fake.truth.tasks) == sum(
        row["state"] in ("submitted", "stalled", "in_doubt", "unresolved") for row in rows.values()
    )


@both
async def test_missing_response_delays_shutdown_by_the_drain(by: signal.Signals, tmp_path: Path) -> None:
    """A create may take a minute, and the drain is over before: its row stays in SENDING, which the next one doubts."""
    sweep = Sweep(tmp_path / "sweep", by=by)
    async with service(Fault("create", "silence", after=True, when=of_shot(4))) as fake:
        orders = sweep.orders(fake, Point("journal: after submitted", 10))
        code = await run(programs.first, orders)
        between = read_rows(orders.journal).values()
        again = sweep.again(orders, "second")
        ended = await run(programs.second, again)
        told = read_diary(orders.diary) + read_diary(again.diary)
        found = audit(fake.truth, orders.journal, told)

    assert (0, 0) == (code, ended)
    assert [prompt(4)] == [json.loads(str(row["input"]))["prompt"] for row in between if row["state"] == "sending"]
    assert [] == found.findings
    assert 1 == Counter(task.input["prompt"] for task in fake.truth.created)[prompt(4)]
    assert {"SubmitInDoubtError"} == {entry["told"] for entry in told if entry.get("shot") == 4}
