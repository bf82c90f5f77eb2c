"""A tenth of the siege of ``batch``: see ``batch_siege.py``, which is run whole by hand."""

from __future__ import annotations

from pathlib import Path

from tests.real_time.batch_siege import KILLS, siege


async def test_a_table_that_is_killed_three_times_is_done_and_paid_once(tmp_path: Path) -> None:
    """By the service's truth: nothing paid twice, nothing lost, every file right, manifest and page complete."""
    account = await siege(tmp_path, rows=200)

    assert ([], 0, []) == (account.paid_twice, account.lost, account.wrong)
    assert (200, 200) == (account.tasks + account.nothing, sum(account.states.values()))
    assert {"done", "failed", "in_doubt"} == set(account.states)
    # Four answers are lost; a kill may come between writing a create down and sending it, or before its answer.
    assert 4 + account.nothing <= account.states["in_doubt"] <= 4 + 20 * KILLS
    assert account.page
    assert account.starts > KILLS
    assert account.emptied > 0
    assert (True, 0) == (account.busiest <= 20, account.refused)
