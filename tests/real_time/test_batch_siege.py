"""The siege of ``batch`` with 200 rows, and with 2,000 in a nightly run: see ``batch_siege.py``."""

from __future__ import annotations

from pathlib import Path

from tests import profile
from tests.real_time.batch_siege import KILLS, LOST, siege

ROWS = profile.scaled(quick=100, check=120, nightly=2000)


async def test_run_killed_three_times_pays_once(tmp_path: Path) -> None:
    """Nothing is paid twice or lost, files are correct, manifest and page are complete."""
    result = await siege(tmp_path, rows=ROWS, seed=profile.seed())

    assert ([], 0, []) == (result.paid_twice, result.lost, result.wrong)
    assert (ROWS, ROWS) == (result.tasks + result.without_task, sum(result.states.values()))
    assert {"done", "failed", "in_doubt"} == set(result.states)
    # Responses are lost, and a kill may come between journaling a create and its response.
    lost = round(ROWS * LOST)
    assert lost + result.without_task <= result.states["in_doubt"] <= lost + 20 * KILLS
    assert result.page_complete
    assert result.starts > KILLS
    assert result.unaffordable > 0
    assert (True, 0) == (result.busiest <= 20, result.rate_limited)
