"""What is known of many jobs when their command ends early."""

from __future__ import annotations

from kie_async import Event, EventName
from kie_async.cli.resume_info import JournalResumeInfo


def test_resume_hint_counts_unfinished_jobs() -> None:
    trails = JournalResumeInfo(warn=print, journal=" --journal kie.db")
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
