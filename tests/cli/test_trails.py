"""What is known of many jobs when their command ends early."""

from __future__ import annotations

from kie_async import Event, EventName
from kie_async.cli.trails import Trails


def test_jobs_that_have_ended_are_not_unfinished() -> None:
    trails = Trails(note=print, journal=" --journal kie.db")
    trails.begin(["kj_1", "kj_2", "kj_3"])
    trails.saw(Event(name=EventName.SUBMITTED, job_id="kj_1", task_id="t1"))
    trails.saw(Event(name=EventName.ENDED, job_id="kj_1", task_id="t1"))
    trails.saw(Event(name=EventName.REJECTED, job_id="kj_2"))

    assert trails.outlook().startswith("1 unfinished.")
    assert Trails(note=print).outlook().startswith("The journal has them all"), "they were not counted yet"
    assert "kie-async recover --journal kie.db" in trails.outlook()
    assert (True, False) == (trails.lives_on, trails.may_be_paid)


def test_a_doubt_about_one_is_a_doubt_about_all() -> None:
    """A script must not repeat the command that has left them."""
    by_event, by_error, on_the_wire = Trails(note=print), Trails(note=print), Trails(note=print)
    by_event.saw(Event(name=EventName.IN_DOUBT, job_id="kj_1"))
    by_error.was_doubted("kj_1", unclear=True)
    on_the_wire.unanswered = True

    assert [True] * 3 == [trails.may_be_paid for trails in (by_event, by_error, on_the_wire)]


def test_notes_name_their_job() -> None:
    notes: list[str] = []
    Trails(note=notes.append).saw(Event(name=EventName.DUPLICATE, job_id="kj_1"))

    assert ["kj_1: The service has created a second task for this job: it was paid twice."] == notes
