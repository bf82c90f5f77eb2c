"""Answers, callbacks, looks, liars and restarts come in any order: each job settles once, as its task has ended."""

from __future__ import annotations

import pytest
from hypothesis import Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.client.machine import Callbacks, CallbacksOnDisk
from tests.client.planted import PLANTED, NoMac
from tests.helpers import JournalClient
from tests.profile import examples

#: What is found is shrunk by ``python -m tests.client.explore``, which has the time for it.
CHECK = settings(stateful_step_count=30, phases=[Phase.reuse, Phase.generate])
#: A planted bug is always looked for in the same places.
SEARCH = settings(
    CHECK,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    verbosity=Verbosity.quiet,
)


def test_every_intent_settles_once_and_agrees_with_the_service() -> None:
    """One client after another on one journal in memory, where each turn of the loop is the same each time."""
    run_state_machine_as_test(Callbacks, settings=settings(CHECK, max_examples=examples(100)))


def test_every_intent_settles_once_with_two_workers_on_one_journal() -> None:
    """On disk; callers, callbacks and restarts come to either."""
    run_state_machine_as_test(CallbacksOnDisk, settings=settings(CHECK, max_examples=examples(25)))


def _search(plant: type[JournalClient], examples: int) -> None:
    class Planted(Callbacks):
        client = plant

    run_state_machine_as_test(Planted, settings=settings(SEARCH, max_examples=examples))


@pytest.mark.parametrize("plant", PLANTED)
def test_a_bug_that_is_planted_is_found(plant: type[JournalClient]) -> None:
    """Else the machine would show nothing."""
    with pytest.raises(AssertionError):
        _search(plant, examples=1000)


def test_the_echo_alone_is_enough_against_forged_tokens() -> None:
    """Two defences, of which either holds: what is found without both is not found without the first one."""
    _search(NoMac, examples=60)
