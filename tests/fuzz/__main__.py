"""``python -m tests.fuzz --target poll --seconds 600``: run one target, or each of them, and print what fails."""

# ruff: noqa: T201  # a command prints its result
from __future__ import annotations

import argparse
import sys
import time
from random import Random

from tests.fuzz.engine import Fuzzer
from tests.fuzz.targets import TARGETS


def fuzz(name: str, seconds: float, seed: int) -> bool:
    """Run a target for so many seconds of CPU, and return True if it fails; the failure is printed."""
    fuzzer, end = Fuzzer(TARGETS[name].run, TARGETS[name].seeds, Random(seed)), time.process_time() + seconds
    failure = None
    while failure is None and time.process_time() < end:
        failure = fuzzer.step()
    print(f"{name}: {fuzzer.runs} inputs, {len(fuzzer.inputs)} kept, {len(fuzzer.lines)} lines", flush=True)
    if failure is not None:
        print(failure)
    return failure is not None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS, action="append", help="a target; by default each of them")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="the CPU time of each target (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed (default: %(default)s)")
    arguments = parser.parse_args()
    failed = [fuzz(name, arguments.seconds, arguments.seed) for name in arguments.target or TARGETS]
    sys.exit(any(failed))
