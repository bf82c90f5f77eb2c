"""The hints that an interrupted command prints."""

from __future__ import annotations

import pytest

from kie_async import Event, EventName
from kie_async.cli.resume_info import JobResumeInfo, JournalResumeInfo


def info_after(*names: EventName, awaiting_response: bool = False) -> tuple[JobResumeInfo, list[str]]:
    """Return a job's resume info after some events, and its warnings."""
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
def test_resume_hint_after_events(names: list[EventName], expected: str) -> None:
    assert expected in info_after(*names)[0].resume_hint()


def test_create_on_the_wire_may_have_been_paid() -> None:
    assert "it may have been paid" in info_after(awaiting_response=True)[0].resume_hint()
    assert "nothing was paid" in info_after(EventName.RATE_LIMITED, awaiting_response=True)[0].resume_hint()


def test_events_that_cost_money_print_warnings() -> None:
    assert 4 == len(
        info_after(EventName.RATE_LIMITED, EventName.MAINTENANCE, EventName.AMBIGUOUS, EventName.DUPLICATE)[1]
    )
    assert [] == info_after(EventName.SUBMITTED, EventName.ENDED)[1]


def test_task_id_is_passed_on_once() -> None:
    """It is printed before anything else can fail."""
    found: list[str] = []
    seen = JobResumeInfo(warn=found.append, on_task_id=found.append)
    seen.observe_event(Event(name=EventName.SUBMITTED, job_id="kj_1", task_id="t1"))
    seen.observe_event(Event(name=EventName.ENDED, job_id="kj_1", task_id="t1"))

    assert ["t1"] == found


def test_resume_hint_counts_unfinished_jobs() -> None:
    trails = JournalResumeInfo(warn=print, given=" --journal kie.db")
    trails.add_jobs(["kj_1", "kj_2", "kj_3"])
    trails.observe_event(Event(name=EventName.SUBMITTED, job_id="kj_1", task_id="t1"))
    trails.observe_event(Event(name=EventName.ENDED, job_id="kj_1", task_id="t1"))
    trails.observe_event(Event(name=EventName.REJECTED, job_id="kj_2"))

    assert trails.resume_hint().startswith("1 unfinished.")
    assert JournalResumeInfo(warn=print).resume_hint().startswith("The journal has all jobs"), (
        "they were not counted yet"
    )
    assert "kie-async recover --journal kie.db" in trails.resume_hint()
    assert (True, False) == (trails.resumable, trails.may_be_paid)


def test_one_job_in_doubt_puts_the_command_in_doubt() -> None:
    """A script must not repeat the command."""
    by_event, by_error, on_the_wire = (
        JournalResumeInfo(warn=print),
        JournalResumeInfo(warn=print),
        JournalResumeInfo(warn=print),
    )
    by_event.observe_event(Event(name=EventName.IN_DOUBT, job_id="kj_1"))
    by_error.mark_in_doubt("kj_1", ambiguous=True)
    on_the_wire.awaiting_response = True

    assert [True] * 3 == [trails.may_be_paid for trails in (by_event, by_error, on_the_wire)]


def test_warnings_name_their_job() -> None:
    notes: list[str] = []
    JournalResumeInfo(warn=notes.append).observe_event(Event(name=EventName.DUPLICATE, job_id="kj_1"))

    assert ["kj_1: The service has created a second task for this job: it was paid twice."] == notes
