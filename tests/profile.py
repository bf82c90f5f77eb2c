"""
The size of the long tests and the seed of their samples.

``KIE_TESTS`` selects the size: ``quick``, ``check`` (the default) or ``nightly``. Long tests run in full at ``nightly``
and keep a seeded sample at ``check``. ``KIE_TEST_SEED`` selects the seed; by default each commit has another one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeVar

from hypothesis import HealthCheck, settings

__all__ = ["Size", "describe", "examples", "load_hypothesis_profile", "sample", "scaled", "seed", "size"]

T = TypeVar("T")


class Size(StrEnum):
    """The sizes of a test run."""

    QUICK = "quick"
    CHECK = "check"
    NIGHTLY = "nightly"


#: Hypothesis examples of each size, relative to ``check``.
_EXAMPLE_FACTORS = {Size.QUICK: 0.1, Size.CHECK: 1.0, Size.NIGHTLY: 10.0}
#: Hypothesis' own default.
_DEFAULT_EXAMPLES = 100


@cache
def size() -> Size:
    """Return the size of this run, from ``KIE_TESTS``."""
    return Size(os.environ.get("KIE_TESTS", Size.CHECK))


@cache
def seed() -> int:
    """Return the seed of this run: ``KIE_TEST_SEED``, else a number of the current commit, else 0."""
    given = os.environ.get("KIE_TEST_SEED")
    if given is not None:
        return int(given)
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=8", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(commit.strip()[:8], 16)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return 0


def describe() -> str:
    """Describe this run, so that it can be repeated."""
    return f"test size and seed: KIE_TESTS={size()} KIE_TEST_SEED={seed()}"


def scaled(*, quick: T, check: T, nightly: T) -> T:
    """Return the value for the size of this run."""
    return {Size.QUICK: quick, Size.CHECK: check, Size.NIGHTLY: nightly}[size()]


def sample(items: Sequence[T], *, check: float) -> list[T]:
    """
    Return a seeded sample of *items* in their order; all of them at ``nightly``.

    Args:
        items: The items.

        check: The share that is kept at ``check``; a fifth of that share is kept at ``quick``.
    """
    count = min(len(items), -int(-len(items) * scaled(quick=check / 5, check=check, nightly=1.0) // 1))
    chosen = Random(seed()).sample(range(len(items)), count)
    return [items[index] for index in sorted(chosen)]


def examples(check: int) -> int:
    """Return the number of hypothesis examples for the size of this run, given the number at ``check``."""
    return max(5, round(check * _EXAMPLE_FACTORS[size()]))


def load_hypothesis_profile() -> None:
    """Select hypothesis' settings for the size of this run."""
    # No deadline: the time of an example depends on the machine.
    settings.register_profile(
        size(),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
        max_examples=examples(_DEFAULT_EXAMPLES),
    )
    settings.load_profile(size())
