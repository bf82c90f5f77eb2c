"""SIGTERM and Ctrl-C: requests on the wire may end within the drain, and the journal keeps the rest."""

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
from tests.real_time.crash.audit import audit, read_rows
from tests.real_time.crash.kill_points import KillPoint, read_log
from tests.real_time.crash.processes import run
from tests.real_time.crash.programs import prompt
from tests.real_time.crash.service import is_shot, service
from tests.real_time.crash.sweep import Sweep

#: The points of the signal; other jobs are in other states then.
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
    """No row stays in SENDING in any state of the jobs, and the next process sends the unsent requests."""
    sweep = Sweep(tmp_path / "sweep", by=by)
    await sweep.run(KillPoint.parse(state) for state in STATES)

    assert len(STATES) == sweep.signaled
    assert [] == sweep.wrong


@both
@pytest.mark.parametrize("state", ["stalled", "unresolved"])
async def test_jobs_past_a_deadline_survive_their_process(state: str, by: signal.Signals, tmp_path: Path) -> None:
    """A task that hangs, and a create in doubt."""
    sweep = Sweep(tmp_path / "sweep", by=by)
    async with service(duration=1e6) as fake:
        options = attrs.evolve(
            sweep.first_options(fake, KillPoint(f"journal: after {state}", 1)),
            retry=RetryPolicy(max_age=20.0, in_doubt_timeout=15.0),
        )
        code = await run(programs.submit_all, options)
    rows, events = read_rows(options.journal), read_log(options.log)

    assert (0, "left") == (code, events[-1]["event"])
    assert state in {row["state"] for row in rows.values()}
    assert {row["task_id"] for row in rows.values()} - {None} <= set(fake.truth.tasks)
    assert [] == [entry for entry in events if entry["event"] == "log"]
    assert len(fake.truth.tasks) == sum(
        row["state"] in ("submitted", "stalled", "in_doubt", "unresolved") for row in rows.values()
    )


@both
async def test_missing_response_delays_shutdown_by_the_drain(by: signal.Signals, tmp_path: Path) -> None:
    """A create takes longer than the drain: its row stays in SENDING, and is in doubt in the next process."""
    sweep = Sweep(tmp_path / "sweep", by=by)
    async with service(Fault("create", "silence", after=True, when=is_shot(4))) as fake:
        options = sweep.first_options(fake, KillPoint("journal: after submitted", 10))
        code = await run(programs.submit_all, options)
        between = read_rows(options.journal).values()
        again = sweep.next_options(options, "second")
        ended = await run(programs.recover_all, again)
        events = read_log(options.log) + read_log(again.log)
        found = audit(fake.truth, options.journal, events)

    assert (0, 0) == (code, ended)
    assert [prompt(4)] == [json.loads(str(row["input"]))["prompt"] for row in between if row["state"] == "sending"]
    assert [] == found.findings
    assert 1 == Counter(task.input["prompt"] for task in fake.truth.created)[prompt(4)]
    assert {"SubmitInDoubtError"} == {entry["event"] for entry in events if entry.get("shot") == 4}
