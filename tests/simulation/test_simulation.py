"""
Worlds drawn from seeds break no rule, and plans that have found a fault break none any more.

``python -m tests.simulation --seed N --reduce`` repeats and reduces one that fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.figures import RecordFigures
from tests.profile import Size, seed, size
from tests.simulation.plan import Plan
from tests.simulation.runner import FOUND, Result, Totals, command_of, cores, kept_plan, run_plan, run_seeds

#: The parts and the seeds of each; the last size runs all in one part, whose totals must have everything.
_PARTS, _SEEDS = {Size.QUICK: (1, 8), Size.CHECK: (4, 50), Size.NIGHTLY: (1, 5000)}[size()]
#: The gate runs the same seeds each time, so that it fails for a change only; the search for others is nightly.
_FIRST = seed() % 1_000_000 * 10_000 if size() is Size.NIGHTLY else 0
#: The traces of some seeds.
_TRACES = (
    "from tests.simulation.plan import Plan\n"
    "from tests.simulation.runner import run_plan\n"
    "print(*(run_plan(Plan.draw(seed)).trace for seed in range({first}, {end})))\n"
)
_REPEATED = {Size.QUICK: 2, Size.CHECK: 4, Size.NIGHTLY: 20}[size()]


def _told(failed: Sequence[Result]) -> str:
    return "\n".join(line for one in failed for line in (f"{command_of(one.plan)} --reduce", *one.violations[:3]))


@pytest.mark.parametrize("part", range(_PARTS))
def test_no_world_breaks_a_rule(part: int, record_property: RecordFigures) -> None:
    totals = Totals()
    first = _FIRST + part * _SEEDS
    for result in run_seeds(range(first, first + _SEEDS), processes=cores() if size() is Size.NIGHTLY else 1):
        totals.add(result)
    record_property("simulation", totals.figures())
    assert not totals.failed, _told(totals.failed)
    if size() is Size.NIGHTLY:
        assert not totals.missing(), "these must happen in enough simulations"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOUND.glob("*.json")))
def test_plan_that_has_found_a_fault_breaks_no_rule(name: str) -> None:
    result = run_plan(kept_plan(name))
    assert not result.violations, "\n".join([f"--kept {name}", *result.violations, *result.events])


def _traces(python: str, hashes: str) -> str:
    end = _FIRST + _REPEATED
    command = [python, "-c", _TRACES.format(first=_FIRST, end=end)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": hashes}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_same_seeds_give_the_same_traces_whatever_the_hashes() -> None:
    expected = " ".join(run_plan(Plan.draw(number)).trace for number in range(_FIRST, _FIRST + _REPEATED))
    for hashes in ("0", "1", "12345"):
        assert expected == _traces(sys.executable, hashes).strip()


def test_figures_of_simulations_are_sums() -> None:
    totals = Totals()
    for number in range(2):
        totals.add(run_plan(Plan.draw(number)))
    figures = json.loads(json.dumps(totals.figures()))
    assert {"seeds": 2, "violations": 0}.items() <= figures.items()
    assert figures["paid tasks"] > 0
