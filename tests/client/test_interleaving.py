"""Calls of two clients on one file, interleaved at any turn of the loop, while writes may fail; see interleaving.py."""

from __future__ import annotations

import pytest

from tests import profile
from tests.client.interleaving import run_case
from tests.client.planted_bugs import DecidesOnStaleRows, DropsLiveJobs, KeepsWhatItGivesUp
from tests.figures import RecordFigures
from tests.helpers import JournalClient

#: The number of interleavings of this run, and the first seed.
CASES = profile.scaled(quick=10, check=60, nightly=6000)
FIRST = profile.scaled(quick=profile.seed(), check=profile.seed(), nightly=0)
#: Seeds among which each planted bug is found.
FOUND_AMONG: dict[type[JournalClient], range] = {
    DropsLiveJobs: range(106, 110),
    DecidesOnStaleRows: range(320, 326),
    KeepsWhatItGivesUp: range(372, 376),
}


@pytest.mark.parametrize("part", range(10))
def test_any_interleaving_loses_no_task_and_ends_each_wait(part: int, record_property: RecordFigures) -> None:
    """Every paid task is known and polled, every wait ends, and no key is sent twice."""
    cases = range(FIRST + part, FIRST + CASES, 10)
    record_property("interleavings", {"tried": len(cases)})
    _run_cases(cases)


@pytest.mark.parametrize("plant", FOUND_AMONG)
def test_interleavings_find_each_planted_bug(plant: type[JournalClient], record_property: RecordFigures) -> None:
    record_property("planted bugs", {"planted": 1})
    with pytest.raises(AssertionError):
        _run_cases(FOUND_AMONG[plant], plant)
    record_property("planted bugs", {"found": 1})


def _run_cases(seeds: range, client: type[JournalClient] = JournalClient) -> None:
    for seed in seeds:
        run_case(seed, client)
