"""The task ids that callbacks name for one job: which is polled next, and which gives way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.callback_candidates import (
    MAX_CALLBACK_TASK_IDS,
    MAX_REMEMBERED,
    REMEMBERED_SECONDS,
    CallbackCandidates,
    CallbackFinding,
    confirmation_delay,
)
from kie_async.testing.truth import busiest_window

F = CallbackFinding


def poll_until(
    candidates: CallbackCandidates, until: float, finding: CallbackFinding, *, now: float = 0.0
) -> list[float]:
    """Poll whatever is due, with one finding for all; return the instants."""
    polled_at: list[float] = []
    while (now := max(now, candidates.next_at())) <= until:
        task_id = candidates.next_task(now)
        assert task_id is not None
        candidates.record(task_id, finding, now)
        polled_at.append(now)
    return polled_at


def named(*task_ids: str, likely: bool = False) -> CallbackCandidates:
    """Make candidates that were named at the instant 0."""
    candidates = CallbackCandidates()
    for task_id in task_ids:
        candidates.name(task_id, 0.0, likely=likely)
    return candidates


_posts = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.sampled_from([0.0, 0.2, 1.0, 20.0, 300.0]),
        st.booleans(),
        st.booleans(),
        st.sampled_from(CallbackFinding),
    ),
    max_size=120,
)


@given(_posts)
def test_no_order_of_callbacks_exceeds_the_allowance(
    posts: list[tuple[int, float, bool, bool, CallbackFinding]],
) -> None:
    """At most 12 polls in a minute and 60 in an hour; eight unproved ids; one poll at a time."""
    candidates, now, polled_at = CallbackCandidates(), 0.0, list[float]()
    for number, pause, own, likely, finding in posts:
        candidates.name(f"{number}", now, own=own and number < 2, likely=likely)
        assert len(candidates.unproved) <= MAX_CALLBACK_TASK_IDS
        assert (candidates.next_at() < math.inf) == candidates.open
        if pause >= 20.0:
            # Its memory may be dropped, as far as the allowance is concerned.
            candidates = CallbackCandidates() if candidates.is_over(now) else candidates
        polled_at += poll_until(candidates, now + pause, finding, now=now)
        now += pause

    assert busiest_window(polled_at, 60.0) <= 12
    assert busiest_window(polled_at, 3600.0) <= 60


@pytest.mark.parametrize("likely", [False, True])
def test_a_disproved_id_is_not_polled_again(*, likely: bool) -> None:
    """Its record does not change; the next id is polled at once."""
    candidates = named("visible", likely=likely)
    assert [0.0] == poll_until(candidates, 100.0, F.FOREIGN)
    for second in range(100, 5000):
        candidates.name("visible", float(second), likely=likely)
    assert (math.inf, False) == (candidates.next_at(), candidates.open)
    candidates.name("genuine", 5000.0)
    assert "genuine" == candidates.next_task(5000.0)


def test_a_disproved_id_is_polled_again_once_the_row_has_it() -> None:
    """The caller has resolved the job with it."""
    candidates = named("task")
    poll_until(candidates, 10.0, F.FOREIGN)
    candidates.name("task", 20.0, own=True)

    assert "task" == candidates.next_task(20.0)


@pytest.mark.parametrize("flood", [9, 20, 200])
def test_a_likely_id_outlives_and_overtakes_a_flood(flood: int) -> None:
    """It is neither displaced nor kept waiting, although the flood has spent all other polls."""
    candidates = named(*(f"before {number}" for number in range(flood)))
    poll_until(candidates, 50.0, F.INVISIBLE)
    candidates.name("genuine", 50.0, likely=True)
    for number in range(flood):
        candidates.name(f"after {number}", 50.0)

    assert "genuine" in candidates.unproved
    assert "genuine" == candidates.next_task(50.0)


def test_the_newest_of_ids_that_were_not_polled_is_polled_first() -> None:
    """The older ones had their chance; ids that were polled wait for those that were not."""
    candidates = named("a", "b", "c")
    order = [candidates.next_task(0.0) for _ in range(4)]

    assert ["c", "b", "a", None] == order
    for task_id in ("a", "b", "c"):
        candidates.record(task_id, F.INVISIBLE, 0.0)
    candidates.name("d", 1.0)
    assert "d" == candidates.next_task(1.0)


def test_the_oldest_id_that_was_polled_in_vain_gives_way() -> None:
    """After it, the oldest that was not polled; the likely ones are the last."""
    candidates = CallbackCandidates()
    candidates.name("likely", 0.0, likely=True)
    candidates.name("polled", 0.0)
    for _ in range(2):
        candidates.record(str(candidates.next_task(0.0)), F.INVISIBLE, 0.0)
    for number in range(6):
        candidates.name(f"new {number}", 0.0)
    assert ("likely", "polled", *(f"new {number}" for number in range(6))) == candidates.unproved
    candidates.name("new 6", 0.0)
    candidates.name("new 7", 0.0)
    assert ("likely", *(f"new {number}" for number in range(1, 8))) == candidates.unproved


def test_an_id_that_gives_way_during_its_poll_is_forgotten() -> None:
    """The finding is told by the poll; nothing is planned for it."""
    candidates = named("first")
    assert "first" == candidates.next_task(0.0)
    for number in range(MAX_CALLBACK_TASK_IDS):
        candidates.name(f"{number}", 0.0)
    assert not candidates.is_hopeless("first")
    assert not candidates.record("first", F.INVISIBLE, 1.0)
    assert "first" not in candidates.unproved


def test_an_invisible_id_is_polled_ever_less_often() -> None:
    """After two minutes it is dropped; named again and again, it is polled after 4, 8 ... minutes, then each hour."""
    candidates = named("made up", likely=True)
    polled_at = poll_until(candidates, 1e4, F.INVISIBLE)
    assert (8, True) == (len(polled_at), polled_at[-1] > 90.0)
    assert () == candidates.unproved
    now, instants = polled_at[-1], list[float]()
    while len(instants) < 8:
        candidates.name("made up", now)
        (at,) = poll_until(candidates, candidates.next_at(), F.INVISIBLE)
        instants.append(at - now)
        now = at
    assert [256.0, 512.0, 1024.0, 2048.0, 3600.0, 3600.0, 3600.0, 3600.0] == instants


def test_its_own_task_is_polled_again_when_it_is_named_again() -> None:
    """An early callback, and the genuine one at the end: at once, but at most once a second."""
    candidates = CallbackCandidates()
    candidates.name("own", 0.0, own=True)
    assert 6 == len(poll_until(candidates, 300.0, F.OWN))
    assert not candidates.open
    candidates.name("own", 300.0, own=True)
    assert (300.0, "own") == (candidates.next_at(), candidates.next_task(300.0))
    candidates.name("own", 300.1, own=True)
    assert math.inf == candidates.next_at()  # the poll in progress plans the next one
    candidates.name("own", 300.1, own=True, likely=True)
    assert 301.0 == candidates.next_at()
    candidates.record("own", F.OWN, 300.2)
    assert 301.0 == candidates.next_at()
    candidates.record("own", F.SETTLED, 301.0)
    assert math.inf == candidates.next_at()


def test_the_poll_of_an_id_shows_that_it_is_the_jobs() -> None:
    """It is not among those that must be proved, and none displaces it."""
    candidates = named("task")
    candidates.next_task(0.0)
    assert candidates.record("task", F.OWN, 0.0)
    for number in range(20):
        candidates.name(f"{number}", 0.5)
    assert "task" not in candidates.unproved
    assert candidates.record("task", F.OWN, 0.5)


def test_an_id_becomes_likely_by_a_later_callback() -> None:
    """The reserve serves it then, and it is polled before its backoff is over."""
    candidates = named("task", *(f"{number}" for number in range(7)))
    poll_until(candidates, 40.0, F.INVISIBLE)
    candidates.name("task", 40.0, likely=True)

    assert "task" == candidates.next_task(40.0)


@pytest.mark.parametrize("number", [MAX_REMEMBERED, MAX_REMEMBERED + 1, 10 * MAX_REMEMBERED])
def test_a_bounded_number_of_ids_is_remembered(number: int) -> None:
    """The oldest disproved ids are forgotten first."""
    candidates, now = CallbackCandidates(), 0.0
    for nth in range(number):
        candidates.name(f"{nth}", now)
        poll_until(candidates, now + 100.0, F.FOREIGN, now=now)
        now += 100.0
    for nth in range(number):
        candidates.name(f"{nth}", now)

    assert len(candidates.unproved) <= MAX_CALLBACK_TASK_IDS
    assert (number > MAX_REMEMBERED) == bool(candidates.unproved)
    assert len(candidates._ids) <= MAX_REMEMBERED  # noqa: SLF001 (what is bounded)


def test_ids_are_remembered_until_they_are_not_named_any_more() -> None:
    """Each callback prolongs it; a poll that is not back yet does, too."""
    candidates = named("visible")
    assert not candidates.is_over(1e9)
    poll_until(candidates, 0.0, F.FOREIGN)
    assert (False, True) == (candidates.is_over(REMEMBERED_SECONDS - 1.0), candidates.is_over(REMEMBERED_SECONDS))
    candidates.name("visible", 800.0)
    assert not candidates.is_over(REMEMBERED_SECONDS)


# -- delays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("proved", "most", "within"), [(True, 6, 31.0), (False, 64, 3600.0)])
def test_confirmations_slow_down_and_end(proved: bool, most: int, within: float) -> None:  # noqa: FBT001 (a row)
    """A task that is polled anyway gets half a minute; another one gets about an hour."""
    delays = [confirmation_delay(polls, proved=proved) for polls in range(1, most)]

    assert all(delay is not None for delay in delays)
    assert delays == sorted(delays, key=lambda delay: delay or 0.0)
    assert [1.0, 2.0, 4.0, 8.0] == delays[:4]
    assert within * 0.9 <= sum(delay or 0.0 for delay in delays) <= within * 1.1
    assert confirmation_delay(most, proved=proved) is None


@given(st.integers(1, 10_000), st.booleans())
def test_a_delay_is_between_a_second_and_a_minute(polls: int, proved: bool) -> None:  # noqa: FBT001 (drawn)
    """A leaked token causes at most one poll a second, however often it is posted."""
    delay = confirmation_delay(polls, proved=proved)

    assert delay is None or 1.0 <= delay <= 60.0
    assert delay is not None or confirmation_delay(polls + 1, proved=proved) is None
