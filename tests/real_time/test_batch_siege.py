"""The siege of ``batch`` with 200 rows, and with 2,000 in a nightly run: see ``batch_siege.py``."""

from __future__ import annotations

from pathlib import Path

from tests import profile
from tests.real_time.batch_siege import KILLS, LOST, siege

ROWS = profile.scaled(quick=100, check=200, nightly=2000)


async def test_a_table_that_is_killed_three_times_is_done_and_paid_once(tmp_path: Path) -> None:
    """By the service's truth: nothing paid twice, nothing lost, every file right, manifest and page complete."""
    account = await siege(tmp_path, rows=ROWS, seed=profile.seed())

    assert ([], 0, []) == (account.paid_twice, account.lost, account.wrong)
    assert (ROWS, ROWS) == (account.tasks + account.nothing, sum(account.states.values()))
    assert {"done", "failed", "in_doubt"} == set(account.states)
    # A few answers are lost; a kill may come between writing a create down and sending it, or before its answer.
    lost = round(ROWS * LOST)
    assert lost + account.nothing <= account.states["in_doubt"] <= lost + 20 * KILLS
    assert account.page
    assert account.starts > KILLS
    assert account.emptied > 0
    assert (True, 0) == (account.busiest <= 20, account.refused)
