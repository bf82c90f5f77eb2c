"""
Planted bugs: the simulation is run on a package with one fault each, to see that it finds what it looks for.

``mutants`` has the list. Each fault is a change of the package's source, which an import hook loads in a process of its
own; nothing is patched. A seed counts only if the unchanged package passes it. For all of them, or for some by name::

    python -m tests.simulation.planted
    python -m tests.simulation.planted --write   # and writes the table of the documentation anew
    python -m tests.simulation.planted "NAME" --seeds 0 100
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import attrs

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.plan import Plan

__all__ = ["FOUND", "Found", "find", "known_seeds", "table"]

ROOT = Path(__file__).parents[2]
#: The seeds that have found each mutant last.
FOUND = Path(__file__).with_name("planted.json")
PAGE = ROOT / "docs" / "crash-tests.md"
#: The marks between which the table is in the page.
_BEGIN, _END = "<!-- planted bugs: begin -->", "<!-- planted bugs: end -->"
#: The seeds that are tried for a plan that suits a mutant.
_MOST_SEEDS = 100_000
#: What a simulation says if a real thread was too slow, which is no fault of the package.
_OVERLOAD = "a thread of "
#: The CPU seconds of a process that runs a mutant.
_MOST_CPU = 600


@attrs.frozen(kw_only=True)
class Found:
    """
    The seed that has found a mutant.

    Attributes:
        seed: The seed that has found it.

        seeds: The number of seeds that were run for that.

        cpu: The CPU seconds that they took.

        violation: What was found.
    """

    seed: int
    seeds: int
    cpu: float
    violation: str


# -- in the process of a mutant ---------------------------------------------------------------------------------------


class _Loader(SourceFileLoader):
    """Loads a module with a change of its source."""

    def __init__(self, name: str, path: str, changes: Sequence[tuple[str, str]]) -> None:
        super().__init__(name, path)
        self._changes = changes

    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed source; compiled files are neither read nor written."""
        path = self.get_filename(fullname)
        source = change_source(self.get_data(path).decode(), self._changes)
        return self.source_to_code(source, path)


class _Finder(MetaPathFinder):
    """Finds the modules that a mutant changes."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a changed module."""
        changes = self._mutant.changes.get(fullname)
        spec = None if changes is None else PathFinder.find_spec(fullname, path, target)
        if changes is None or spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_file_location(
            fullname, spec.origin, loader=_Loader(fullname, spec.origin, changes)
        )


def change_source(source: str, changes: Iterable[tuple[str, str]]) -> str:
    """
    Return a module's source with changes.

    Raises:
        ValueError: If a text to replace does not occur exactly once: the package has changed since.
    """
    for before, after in changes:
        if (times := source.count(before)) != 1:
            msg = f"The text to replace occurs {times} times, and must occur once: {before!r}"
            raise ValueError(msg)
        source = source.replace(before, after)
    return source


def plans(mutant: Mutant, first: int, last: int = _MOST_SEEDS) -> Iterator[Plan]:
    """Yield the plans of seeds in which a mutant is looked for."""
    for seed in range(first, last):
        plan = Plan.draw(seed)
        if mutant.where(plan):
            yield plan


def _run(mutant: Mutant, first: int, last: int, most: int, *, stop: bool) -> None:
    """Run the plans of a mutant, and print what each has found; called in a process of its own."""
    if early := mutant.changes.keys() & sys.modules.keys():
        msg = f"The modules {sorted(early)} were imported before they could be changed."
        raise RuntimeError(msg)
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_CPU, _MOST_CPU + 5))
    sys.meta_path.insert(0, _Finder(mutant))
    from tests.simulation.runner import run_plan

    for number, plan in enumerate(plans(mutant, first, last)):
        if number == most:
            return
        began = time.process_time()
        try:
            violations = [text for text in run_plan(plan).violations if not text.startswith(_OVERLOAD)]
        except Exception as error:  # noqa: BLE001 (the simulation itself has failed)
            violations = [f"the simulation raised {error!r}"]
        cpu = time.process_time() - began
        print(json.dumps([plan.seed, round(cpu, 3), violations[:1]]), flush=True)
        if stop and violations:
            return


# -- in a process without a mutant ------------------------------------------------------------------------------------


def _output_of(mutant: Mutant, first: int, most: int) -> list[Any]:
    command = [sys.executable, "-m", "tests.simulation.planted", mutant.name, "--seeds", str(first), str(_MOST_SEEDS)]
    done = subprocess.run(
        [*command, "--most", str(most), "--stop"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode:
        msg = f"{mutant.name!r} ended with {done.returncode} after {len(lines)} seeds: {done.stderr[-2000:]}"
        raise RuntimeError(msg)
    return lines


def find(mutant: Mutant, *, first: int = 0, most: int | None = None) -> Found | None:
    """
    Look for a mutant.

    Args:
        mutant: The mutant.

        first: The first seed.

        most: The number of seeds to run; by default those within which the mutant is to be found.

    Returns:
        How it was found, or None if it was not.

    Raises:
        RuntimeError: If its process has failed.
    """
    left, seeds, cpu = mutant.within if most is None else most, 0, 0.0
    while left > 0:
        lines = _output_of(mutant, first, left)
        seeds, cpu, left = seeds + len(lines), cpu + sum(line[1] for line in lines), left - len(lines)
        if not lines or not lines[-1][2]:
            return None
        seed, _, (violation,) = lines[-1]
        if passes(Plan.draw(seed)):
            return Found(seed=seed, seeds=seeds, cpu=round(cpu, 1), violation=violation)
        first = seed + 1  # not the mutant's fault
    return None


def passes(plan: Plan) -> bool:
    """Return True if the unchanged package breaks no rule in a plan, and the simulation itself does not fail in it."""
    from tests.simulation.runner import run_plan

    try:
        return not run_plan(plan).violations
    except Exception:  # noqa: BLE001 (whatever it is, the mutant is not its reason)
        return False


def known_seeds() -> Mapping[str, Found]:
    """Return how each mutant was found last."""
    return {name: Found(**values) for name, values in json.loads(FOUND.read_text()).items()}


def table(found: Mapping[str, Found]) -> str:
    """Return the table of all mutants for the documentation."""
    lines = ["| planted bug | seeds | CPU | found by |", "| --- | ---: | ---: | --- |"]
    for mutant in MUTANTS:
        result = found.get(mutant.name)
        how = "" if result is None else _shortened(result.violation)
        figures = "| | " if result is None else f"{result.seeds} | {result.cpu:.1f} s"
        lines.append(f"| **{mutant.name}**: {mutant.sentence} | {figures} | {how} |")
    return "\n".join(lines)


def _shortened(violation: str) -> str:
    line = " ".join(violation.split()).replace("|", "/")
    return line if len(line) <= 60 else line[:60] + " …"


def main() -> int:
    """Look for mutants, and print a table of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planted")
    parser.add_argument("names", nargs="*", help="the mutants; all by default")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "END"), help="run these seeds of one mutant")
    parser.add_argument("--most", type=int, default=_MOST_SEEDS, help="the number of seeds to run")
    parser.add_argument("--stop", action="store_true", help="stop at the first violation")
    parser.add_argument("--write", action="store_true", help="keep the seeds, and write the table of the documentation")
    parser.add_argument("--list", action="store_true", help="check that all changes can be made, and print the names")
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not given.names or mutant.name in given.names]
    if given.list:
        for mutant in chosen:
            for module, changes in mutant.changes.items():
                compile(change_source((ROOT / f"{module.replace('.', '/')}.py").read_text(), changes), module, "exec")
            print(mutant.name)
        return 0
    if given.seeds is not None:
        (mutant,) = chosen
        first, last = given.seeds
        _run(mutant, first, last, given.most, stop=given.stop)
        return 0
    survivors = 0
    for mutant in chosen:
        result = find(mutant)
        survivors += result is None
        told = "SURVIVES"
        if result is not None:
            told = f"{result.seeds:>4} seeds {result.cpu:>6.1f} s  {_shortened(result.violation)}"
        print(f"{mutant.name:<45} {told}", flush=True)
        if given.write:
            _write(mutant, result)
    return min(survivors, 1)


def _write(changed: Mutant, result: Found | None) -> None:
    """Keep how a mutant was found, and write the table anew."""
    found = dict(known_seeds())
    found.pop(changed.name, None)
    if result is not None:
        found[changed.name] = result
    kept = {mutant.name: attrs.asdict(found[mutant.name]) for mutant in MUTANTS if mutant.name in found}
    FOUND.write_text(json.dumps(kept, indent=1) + "\n")
    page = PAGE.read_text()
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{table(found)}\n\n{_END}{after}")


if __name__ == "__main__":
    sys.exit(main())
