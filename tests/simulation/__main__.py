"""
Run simulations: ``python -m tests.simulation --seeds 5000`` many, ``--seed N`` one, with its last events.

``--seed N --reduce --keep NAME`` adds what is left of a plan that has failed to those that the tests run for ever, and
``--kept NAME`` runs one of these.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Annotated, TypeVar

import attrs
import typer

from tests.simulation.plan import Plan, Tier
from tests.simulation.runner import (
    Totals,
    always_same_fault,
    command_of,
    cores,
    keep_plan,
    kept_plan,
    reduce_plan,
    run_plan,
    run_seeds,
)

T = TypeVar("T")

#: The failures for which a command is shown.
_SHOWN = 5


def _parts(text: str | None, parts: tuple[T, ...]) -> tuple[T, ...]:
    if text is None:
        return parts
    return tuple(parts[int(index)] for index in text.split(",")) if text != "none" else ()


def _run_one(plan: Plan, *, reduce: bool, keep: str | None) -> int:
    result = run_plan(plan)
    if result.violations and reduce:
        fault = always_same_fault(result.violations)
        plan = reduce_plan(plan, lambda smaller: always_same_fault(run_plan(smaller).violations) == fault)
        result = run_plan(plan)
    if keep is not None:
        keep_plan(plan, keep)
    print(*result.events, sep="\n")
    for part in (*plan.troubles, *plan.accidents, *plan.steps):
        print(part)
    print(json.dumps({name: value for name, value in attrs.asdict(plan).items() if not isinstance(value, tuple)}))
    print(*result.violations, f"trace {result.trace}", command_of(plan), sep="\n")
    return 1 if result.violations else 0


def _print_trace(seeds: range) -> None:
    """Print one hash of the traces of seeds, to compare those of two versions of Python."""
    traces = " ".join(result.trace for result in run_seeds(seeds))
    print("traces", sha256(traces.encode()).hexdigest()[:16])


def _run_many(first: int, seeds: int, processes: int, tier: Tier) -> int:
    totals = Totals(tier=tier)
    for result in run_seeds(range(first, first + seeds), processes=processes, tier=tier):
        totals.add(result)
        if result.violations:
            print(f"seed {result.plan.seed}: {result.violations[0][:300]}", flush=True)
    print(json.dumps(totals.figures(), indent=1))
    print("never happened:", *totals.missing() or ["nothing"], sep="\n  ")
    for result in totals.failed[:_SHOWN]:
        print(f"replay: {command_of(result.plan)} --reduce")
    return 1 if totals.failed else 0


def main(
    seed: int | None = None,
    seeds: int = 100,
    first: int = 0,
    processes: Annotated[int, typer.Option(help="0 for one on each core.")] = 0,
    steps: Annotated[str | None, typer.Option(help="Keep these steps only: numbers, or none.")] = None,
    accidents: Annotated[str | None, typer.Option(help="Keep these accidents only.")] = None,
    troubles: Annotated[str | None, typer.Option(help="Keep these troubles only.")] = None,
    workers: int | None = None,
    *,
    http: Annotated[bool, typer.Option(help="Run tier B: HTTP over pipes.")] = False,
    trace: Annotated[bool, typer.Option(help="Print the hash of all traces, and nothing else.")] = False,
    reduce: Annotated[bool, typer.Option(help="Reduce the plan if it fails.")] = False,
    keep: Annotated[str | None, typer.Option(help="Keep the plan under this name.")] = None,
    kept: Annotated[str | None, typer.Option(help="Run the plan that was kept under this name.")] = None,
) -> None:
    """Run the simulation of one seed, or those of many."""
    tier: Tier = "B" if http else "A"
    if kept is not None:
        raise typer.Exit(_run_one(kept_plan(kept), reduce=False, keep=None))
    if trace:
        _print_trace(range(first, first + seeds))
        return
    if seed is None:
        raise typer.Exit(_run_many(first, seeds, processes or cores(), tier))
    plan = Plan.draw(seed, tier=tier)
    plan = attrs.evolve(
        plan,
        steps=_parts(steps, plan.steps),
        accidents=_parts(accidents, plan.accidents),
        troubles=_parts(troubles, plan.troubles),
        workers=workers or plan.workers,
    )
    raise typer.Exit(_run_one(plan, reduce=reduce, keep=keep))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
