"""What is known of a job when its command ends early."""

from __future__ import annotations

import pytest

from kie_async import Event, EventName
from kie_async.cli.job_status import Trail


def trail(*names: EventName, unanswered: bool = False) -> tuple[Trail, list[str]]:
    """A trail that has seen some events, and the notes that were taken."""
    notes: list[str] = []
    found = Trail(note=notes.append, unanswered=unanswered)
    for name in names:
        found.saw(Event(name=name, job_id="kj_1", task_id="t1" if name is EventName.SUBMITTED else None))
    return found, notes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "nothing was paid"),
        ([EventName.RATE_LIMITED], "nothing was paid"),
        ([EventName.CANCELLED], "nothing was paid"),
        ([EventName.MAINTENANCE], "nothing was paid"),
        ([EventName.AMBIGUOUS], "kj_1 was sent, and nobody can tell"),
        ([EventName.AMBIGUOUS, EventName.RATE_LIMITED], "kj_1 was sent, and nobody can tell"),
        ([EventName.IN_DOUBT], "kj_1 was sent, and nobody can tell"),
        ([EventName.SUBMITTED], "kie-async wait t1"),
        ([EventName.AMBIGUOUS, EventName.SUBMITTED], "kie-async wait t1"),
    ],
)
def test_the_outlook_never_calls_free_what_may_have_been_paid(names: list[EventName], expected: str) -> None:
    assert expected in trail(*names)[0].outlook()


def test_a_create_on_the_wire_may_have_been_paid_until_its_answer_is_reported() -> None:
    assert "it may have been paid" in trail(unanswered=True)[0].outlook()
    assert "nothing was paid" in trail(EventName.RATE_LIMITED, unanswered=True)[0].outlook()


def test_what_costs_time_or_money_is_said_at_once() -> None:
    assert 4 == len(trail(EventName.RATE_LIMITED, EventName.MAINTENANCE, EventName.AMBIGUOUS, EventName.DUPLICATE)[1])
    assert [] == trail(EventName.SUBMITTED, EventName.ENDED)[1]


def test_the_task_id_is_handed_on_the_moment_it_is_known() -> None:
    """It is on the screen before anything else can go wrong."""
    found: list[str] = []
    seen = Trail(note=found.append, accepted=found.append)
    seen.saw(Event(name=EventName.SUBMITTED, job_id="kj_1", task_id="t1"))
    seen.saw(Event(name=EventName.ENDED, job_id="kj_1", task_id="t1"))

    assert ["t1"] == found
