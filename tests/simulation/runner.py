"""Run simulations: one of a plan, or many of seeds; reduce a plan that fails; add up what has happened in all."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import attrs
import cattrs

from kie_async._core.lifecycle import TRANSITIONS
from kie_async.events import EventName
from tests.figures import Figures
from tests.simulation.plan import ACCIDENTS, CALLS, FILE_TROUBLES, PIPE_ACCIDENTS, SAVING, TROUBLES, Plan, Tier
from tests.simulation.world import World

__all__ = [
    "FOUND",
    "Result",
    "Totals",
    "always_same_fault",
    "command_of",
    "cores",
    "keep_plan",
    "kept_plan",
    "reduce_plan",
    "run_plan",
    "run_seeds",
]

T = TypeVar("T")

#: Where the journals are written: in memory, if there is such a folder.
_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
#: The plans that have found a fault of the package, reduced.
FOUND = Path(__file__).with_name("found")
#: The simulations that reduce one plan at most.
_MOST_REDUCTIONS = 300


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
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder, warnings.catch_warnings():
        world = World(plan, Path(folder))
        try:
            world.run()
        finally:
            world.close()
    counts, truth = world.counts, world.fake.truth
    counts.update(
        {
            "simulations": 1,
            "paid tasks": len(truth.tasks),
            "create requests": len(truth.create_requests),
            "polls": len(truth.polls),
            "callbacks": len(truth.callbacks),
            "requests": sum(
                len(log)
                for log in (truth.create_requests, truth.polls, truth.queries, truth.downloads, truth.callbacks)
            ),
            "connections": world.network.connections,
            "simulated seconds": round(world.scheduler.now),
            "turns": world.scheduler.turns,
            "CPU milliseconds": round((time.process_time() - began) * 1000),
            f"mix {plan.mix}": 1,
            f"journal {plan.journal}": 1,
        }
    )
    return Result(
        plan=plan,
        violations=world.violations,
        counts=counts,
        pairs=world.pairs,
        events=list(world.shown),
        trace=world.trace_hash(),
    )


@attrs.define
class Totals:
    """
    The sums of many simulations.

    Attributes:
        counts: The sums.

        pairs: The calls that have overlapped in any of them.

        failed: The results with violations.

        tier: Their tier.
    """

    counts: Counter[str] = attrs.field(factory=Counter)
    pairs: set[tuple[str, str]] = attrs.field(factory=set)
    failed: list[Result] = attrs.field(factory=list)
    tier: Tier = "A"

    def add(self, result: Result) -> None:
        """Add a result."""
        self.counts.update(result.counts)
        self.pairs |= result.pairs
        if result.violations:
            self.failed.append(result)

    def missing(self) -> list[str]:
        """Return what must happen in enough simulations, and has not happened in any of these."""
        calls = list(CALLS)
        transitions = [f"transition {old} -> {new}" for old, all_new in TRANSITIONS.items() for new in sorted(all_new)]
        expected = [
            *(f"call {name}" for name in calls),
            *(f"accident {kind}" for kind in ACCIDENTS),
            *(f"trouble {kind}" for kind in TROUBLES),
            *(f"event {name}" for name in EventName),
            *transitions,
            *((f"call {name}" for name in SAVING) if self.tier == "B" else ()),
            *((f"accident {kind}" for kind in PIPE_ACCIDENTS) if self.tier == "B" else ()),
            *((f"trouble {kind}" for kind in FILE_TROUBLES) if self.tier == "B" else ()),
            *("kill", "cancel", "refused after a fork", "told in time"),
        ]
        pairs = [(one, other) for one in calls for other in calls if one <= other]
        return [name for name in expected if not self.counts[name]] + [
            f"{one} beside {other}" for one, other in pairs if (one, other) not in self.pairs
        ]

    def figures(self) -> dict[str, Figures]:
        """Return the sums by kind, for the page of figures."""
        counts = self.counts
        kinds = ("call", "accident", "trouble", "event", "transition", "error", "outcome")
        return {
            "seeds": counts["simulations"],
            "violations": sum(len(result.violations) for result in self.failed),
            "paid tasks": counts["paid tasks"],
            "create requests": counts["create requests"],
            "polls": counts["polls"],
            "callbacks": counts["callbacks"],
            "requests": counts["requests"],
            "connections": counts["connections"],
            "kills": counts["kill"],
            "cancels": counts["cancel"],
            "ends told within the bound": counts["told in time"],
            "simulated hours": counts["simulated seconds"] / 3600,
            "cpu seconds": counts["CPU milliseconds"] / 1000,
            **{
                f"{kind}s": {
                    name.removeprefix(f"{kind} "): number
                    for name, number in sorted(counts.items())
                    if name.startswith(f"{kind} ")
                }
                for kind in kinds
            },
        }


def _run_seed(seed: int, tier: Tier) -> Result:
    plan = Plan.draw(seed, tier=tier)
    try:
        return run_plan(plan)
    except Exception as error:  # noqa: BLE001 (a finding, of the simulation itself)
        return Result(
            plan=plan,
            violations=[f"the simulation failed: {error!r}"],
            counts=Counter(),
            pairs=set(),
            events=[],
            trace="",
        )


def run_seeds(seeds: Iterable[int], *, processes: int = 1, tier: Tier = "A") -> Iterator[Result]:
    """Run the simulations of seeds, in their order, in this process or in several others."""
    run = partial(_run_seed, tier=tier)
    if processes == 1:
        yield from map(run, seeds)
        return
    # Each process runs some, so that no simulation keeps the memory of many.
    with ProcessPoolExecutor(processes, get_context("spawn"), max_tasks_per_child=500) as pool:
        yield from pool.map(run, seeds, chunksize=10)


def always_same_fault(violations: Sequence[str]) -> str:
    """Return what two failures of the same fault have in common: the words of the first violation."""
    return " ".join(word for word in violations[0].split() if word.isalpha())[:60] if violations else ""


def reduce_plan(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """
    Return a plan that fails with fewer steps, accidents, troubles and workers.

    Args:
        plan: A plan that fails.

        fails: Returns True if a plan fails in the same way.
    """
    left = _MOST_REDUCTIONS

    def fails_still(smaller: Plan) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and fails(smaller)

    for field in ("troubles", "accidents", "steps"):
        parts = getattr(plan, field)
        size = max(1, len(parts) // 2)
        while parts and left > 0:
            for first in range(0, len(parts), size):
                fewer = parts[:first] + parts[first + size :]
                if fails_still(smaller := attrs.evolve(plan, **{field: fewer})):
                    plan, parts = smaller, fewer
                    break
            else:
                if size == 1:
                    break
                size = max(1, size // 2)
    while plan.workers > 1:
        used = {step.worker for step in plan.steps} | {accident.worker for accident in plan.accidents}
        if plan.workers - 1 in used or not fails_still(smaller := attrs.evolve(plan, workers=plan.workers - 1)):
            break
        plan = smaller
    return plan


def command_of(plan: Plan) -> str:
    """Return the command that runs a plan, by its seed and what is left of it."""
    drawn = Plan.draw(plan.seed, tier=plan.tier)
    options = [f"--seed {plan.seed}", *(["--http"] if plan.tier == "B" else [])]
    for name, kept, all_parts in (
        ("steps", plan.steps, drawn.steps),
        ("accidents", plan.accidents, drawn.accidents),
        ("troubles", plan.troubles, drawn.troubles),
    ):
        if kept != all_parts:
            options.append(f"--{name} {','.join(str(all_parts.index(part)) for part in kept) or 'none'}")
    if plan.workers != drawn.workers:
        options.append(f"--workers {plan.workers}")
    return f"python -m tests.simulation {' '.join(options)}"


def keep_plan(plan: Plan, name: str) -> None:
    """Add a plan that has found a fault to those that run for ever; a plan of a seed changes with how it is drawn."""
    (FOUND / f"{name}.json").write_text(json.dumps(attrs.asdict(plan), indent=1) + "\n")


def kept_plan(name: str) -> Plan:
    """Return a plan that has found a fault."""
    return cattrs.structure(json.loads((FOUND / f"{name}.json").read_text()), Plan)


def cores() -> int:
    """Return the number of processes that may run at the same time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
