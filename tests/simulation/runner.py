"""Runs simulations: one of a plan or a seed, or many; reduces a failing plan; adds the figures of all."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

import attrs

from tests.simulation.plan import Plan
from tests.simulation.world import World

__all__ = ["Result", "run_plan"]

#: Where the journals are written: in memory, if there is such a folder.
_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None


@attrs.frozen(kw_only=True)
class Result:
    """
    The result of one simulation.

    Attributes:
        plan: The plan.

        violations: What must not be.

        counts: What has happened.

        pairs: The calls that have overlapped.

        events: The last events.

        trace: The hash of all events.
    """

    plan: Plan
    violations: list[str]
    counts: Counter[str]
    pairs: set[tuple[str, str]]
    events: list[str]
    trace: str


def run_plan(plan: Plan) -> Result:
    """Run a simulation."""
    began = time.process_time()
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
        world = World(plan, Path(folder))
        try:
            world.run()
        finally:
            world.close()
    counts = world.counts
    counts["paid tasks"] = len(world.fake.truth.tasks)
    counts["create requests"] = len(world.fake.truth.create_requests)
    counts["polls"] = len(world.fake.truth.polls)
    counts["callbacks"] = len(world.fake.truth.callbacks)
    counts["simulated seconds"] = round(world.scheduler.now)
    counts["turns"] = world.scheduler.turns
    counts["CPU milliseconds"] = round((time.process_time() - began) * 1000)
    for fault, times in world.fake._server.script.fired.items():
        counts[f"fault {fault.place} {fault.kind}"] += times
    return Result(
        plan=plan,
        violations=world.violations,
        counts=counts,
        pairs=world.pairs,
        events=list(world.shown),
        trace=world.trace_hash(),
    )
