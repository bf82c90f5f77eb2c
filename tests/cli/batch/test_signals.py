"""Ctrl-C during a run: the first signal drains it, the second one ends it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kie_async.cli.batch.folder import PAGE
from kie_async.cli.exit_codes import ExitCode
from kie_async.testing import FakeKie, Fault
from tests.cli.batch.helpers import make_options, read_manifest, row_states, run_to_end, run_with_signals, write_table


async def test_first_signal_leaves_running_tasks(fake: FakeKie, folder: Path) -> None:
    """No request is open, so the command exits at once; manifest and page have every task."""
    options = make_options(write_table(folder, 30))
    code, streams, took = await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=20)

    assert (ExitCode.INTERRUPTED, 20, ["running"] * 20) == (code, len(fake.truth.tasks), row_states(options))
    assert [None] * 20 == [line["created_at"] for line in read_manifest(options)], "the service has not said"
    assert took <= 0.2
    assert "The run was stopped." in (options.out / PAGE).read_text()
    assert 1 == streams.err.count(f"To resume: {options.resume_command()}")
    code, _ = await run_to_end(fake, options)
    assert (ExitCode.DONE, 30, ["done"] * 30) == (code, len(fake.truth.tasks), row_states(options))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_other_signals_drain_the_run_as_well(fake: FakeKie, folder: Path, number: signal.Signals) -> None:
    """A terminal that has gone sends SIGHUP; the manifest has every task."""
    options = make_options(write_table(folder, 4))
    code, _, _ = await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=4, number=number)

    assert (ExitCode.INTERRUPTED, ["running"] * 4) == (code, row_states(options))


async def test_ignored_hang_up_stays_ignored(fake: FakeKie, folder: Path) -> None:
    """``nohup`` ignores it, so that the run goes on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        options = make_options(write_table(folder, 2))
        code, _, _ = await run_with_signals(fake, options, after=lambda truth: truth.tasks, number=signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert (ExitCode.DONE, ["done"] * 2) == (code, row_states(options))


async def test_first_signal_awaits_open_create(fake: FakeKie, folder: Path) -> None:
    """The response tells the task's id."""
    fake.inject(Fault("create", "slow", after=True, seconds=4.0, nth=20))
    options = make_options(write_table(folder, 30))
    _, _, took = await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=20)

    assert 3.0 < took < 4.0, "it waits for the response, and no longer"
    assert {str(line["task_id"]) for line in read_manifest(options)} == set(fake.truth.tasks)


async def test_unanswered_create_is_bounded_by_the_drain(fake: FakeKie, folder: Path) -> None:
    """The row is recorded as in doubt."""
    fake.inject(Fault("create", "silence", after=True, nth=20))
    options = make_options(write_table(folder, 30))
    code, _, took = await run_with_signals(fake, options, after=lambda truth: truth.tasks, count=20)

    assert ExitCode.INTERRUPTED == code
    assert 4.9 < took < 5.5
    assert (19, 1) == (row_states(options).count("running"), row_states(options).count("in_doubt"))


async def test_first_signal_awaits_downloads_within_the_drain(fake: FakeKie, folder: Path) -> None:
    fake.inject(
        Fault("download", "slow", after=True, seconds=3.0, nth=1),
        Fault("download", "slow", after=True, seconds=60.0, nth=2),
    )
    options = make_options(write_table(folder, 2))
    _, _, took = await run_with_signals(fake, options, after=lambda truth: truth.downloads, count=2)

    assert 4.9 < took < 5.5
    assert ["done", "running"] == sorted(map(str, row_states(options)))
    assert [
        "not fetched yet" in str(line["reason"]) for line in read_manifest(options) if line["state"] == "running"
    ] == [True]
    code, _ = await run_to_end(fake, options)
    assert (ExitCode.DONE, ["done"] * 2, 2) == (code, row_states(options), len(fake.truth.tasks))


async def test_second_signal_exits_at_once(fake: FakeKie, folder: Path) -> None:
    """The journal has the rows that the manifest lacks; the same command resumes them."""
    fake.inject(Fault("download", "slow", after=True, seconds=60.0, nth=range(1, 21)))
    options = make_options(write_table(folder, 20))
    code, streams, took = await run_with_signals(fake, options, after=lambda truth: truth.downloads, count=8, times=2)

    assert (ExitCode.INTERRUPTED, []) == (code, row_states(options))
    assert took <= 0.2
    assert "The run had not ended when this page was written" in (options.out / PAGE).read_text()
    assert 1 == streams.err.count(f"To resume: {options.resume_command()}")
    code, _ = await run_to_end(fake, options)
    assert (ExitCode.DONE, 20, ["done"] * 20) == (code, len(fake.truth.tasks), row_states(options))
