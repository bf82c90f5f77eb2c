"""Responses, callbacks, polls, forgeries and restarts in any order: each job settles once, with its true result."""

from __future__ import annotations

import pytest
from hypothesis import Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.client.planted_bugs import PLANTED, NoMac
from tests.client.stateful_client import ClientMachine, TwoWorkersMachine
from tests.helpers import JournalClient
from tests.profile import examples

#: ``python -m tests.client.explore`` shrinks what is found here.
CHECK = settings(stateful_step_count=30, phases=[Phase.reuse, Phase.generate])
#: The search for a planted bug is deterministic.
SEARCH = settings(
    CHECK,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    verbosity=Verbosity.quiet,
)


def test_each_intent_settles_once_with_one_worker() -> None:
    """Use one client at a time and a journal in memory, which is deterministic."""
    run_state_machine_as_test(ClientMachine, settings=settings(CHECK, max_examples=examples(100)))


def test_each_intent_settles_once_with_two_workers() -> None:
    """Use a journal on disk; callers, callbacks and restarts reach either worker."""
    run_state_machine_as_test(TwoWorkersMachine, settings=settings(CHECK, max_examples=examples(15)))


def _search(plant: type[JournalClient], examples: int) -> None:
    class Planted(ClientMachine):
        client = plant

    run_state_machine_as_test(Planted, settings=settings(SEARCH, max_examples=examples))


@pytest.mark.parametrize("plant", PLANTED)
def test_planted_bug_is_found(plant: type[JournalClient]) -> None:
    """The machine must find each planted bug, or it proves nothing."""
    with pytest.raises(AssertionError):
        _search(plant, examples=1000)


def test_echo_alone_stops_forged_tokens() -> None:
    """Either of two defenses suffices: without the MAC the echo still refuses forgeries."""
    _search(NoMac, examples=60)
