"""What is known of a job when its command ends early."""

from __future__ import annotations

import pytest

from kie_async import Event, EventName
from kie_async.cli.resume_info import JobResumeInfo


def trail(*names: EventName, awaiting_response: bool = False) -> tuple[JobResumeInfo, list[str]]:
    """A trail that has seen some events, and the notes that were taken."""
    notes: list[str] = []
    found = JobResumeInfo(warn=notes.append, awaiting_response=awaiting_response)
    for name in names:
        found.observe_event(Event(name=name, job_id="kj_1", task_id="t1" if name is EventName.SUBMITTED else None))
    return found, notes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "nothing was paid"),
        ([EventName.RATE_LIMITED], "nothing was paid"),
        ([EventName.CANCELLED], "nothing was paid"),
        ([EventName.MAINTENANCE], "nothing was paid"),
        ([EventName.AMBIGUOUS], "kj_1 was sent without a clear response"),
        ([EventName.AMBIGUOUS, EventName.RATE_LIMITED], "kj_1 was sent without a clear response"),
        ([EventName.IN_DOUBT], "kj_1 was sent without a clear response"),
        ([EventName.SUBMITTED], "kie-async wait t1"),
        ([EventName.AMBIGUOUS, EventName.SUBMITTED], "kie-async wait t1"),
    ],
)
def test_the_outlook_never_calls_free_what_may_have_been_paid(names: list[EventName], expected: str) -> None:
    assert expected in trail(*names)[0].resume_hint()


def test_a_create_on_the_wire_may_have_been_paid_until_its_answer_is_reported() -> None:
    assert "it may have been paid" in trail(awaiting_response=True)[0].resume_hint()
    assert "nothing was paid" in trail(EventName.RATE_LIMITED, awaiting_response=True)[0].resume_hint()


def test_what_costs_time_or_money_is_said_at_once() -> None:
    assert 4 == len(trail(EventName.RATE_LIMITED, EventName.MAINTENANCE, EventName.AMBIGUOUS, EventName.DUPLICATE)[1])
    assert [] == trail(EventName.SUBMITTED, EventName.ENDED)[1]


def test_the_task_id_is_handed_on_the_moment_it_is_known() -> None:
    """It is on the screen before anything else can go wrong."""
    found: list[str] = []
    seen = JobResumeInfo(warn=found.append, on_task_id=found.append)
    seen.observe_event(Event(name=EventName.SUBMITTED, job_id="kj_1", task_id="t1"))
    seen.observe_event(Event(name=EventName.ENDED, job_id="kj_1", task_id="t1"))

    assert ["t1"] == found
