"""Tier B of the simulation: the same worlds over HTTP and pipes, with aiohttp's real client and server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.profile import Size, seed, size
from tests.simulation.plan import Plan
from tests.simulation.runner import command_of, run_plan

_NUMBER = {Size.QUICK: 2, Size.CHECK: 5, Size.NIGHTLY: 200}[size()]
#: Prints the trace of a seed.
_TRACE = (
    "from tests.simulation.plan import Plan\n"
    "from tests.simulation.runner import run_plan\n"
    "print(run_plan(Plan.draw({seed}, tier='B')).trace)\n"
)


@pytest.mark.parametrize("number", range(_NUMBER))
def test_no_world_over_http_breaks_a_rule(number: int) -> None:
    plan = Plan.draw(seed() % 1_000_000 * 1000 + number, tier="B")
    result = run_plan(plan)
    assert not result.violations, "\n".join([command_of(plan), *result.violations, *result.events])


def test_same_seed_gives_the_same_trace_whatever_the_hashes() -> None:
    plan = Plan.draw(seed() % 1_000_000, tier="B")
    traces = {run_plan(plan).trace for _ in range(2)}
    for hashes in ("0", "1", "12345")[: 3 if size() is Size.NIGHTLY else 1]:
        command = [sys.executable, "-c", _TRACE.format(seed=plan.seed)]
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        traces.add(done.stdout.strip())
    assert len(traces) == 1, f"seed {plan.seed}: {traces}"
