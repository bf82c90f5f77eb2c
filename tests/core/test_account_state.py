"""Test the state that all workers of an account share: its text, its clock, its leases, its gates, and its turns."""

from __future__ import annotations

import heapq
import random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async._core.account_state import (
    KNOWN_FOR,
    LEASE,
    PLENTY,
    TRAVEL_TIME,
    WANTS_FOR,
    AccountState,
    AccountView,
    LeaseReport,
    SharedLimits,
)
from kie_async._core.token_buckets import TokenLease
from kie_async._core.verdicts import Verdict
from tests.core.traffic import most_in_a_window

LIMITS = SharedLimits(3, 10.0)
V = Verdict


def new_state(limits: SharedLimits = LIMITS) -> AccountState:
    return AccountState(limits)


def ends(view: AccountView, at: float, verdict: Verdict, **details: Any) -> list[LeaseReport]:
    """Return the reports that all leases of an exchange have ended."""
    return [attrs.evolve(LeaseReport(number=lease.number, at=at, verdict=verdict), **details) for lease in view.leases]


def figures(state: AccountState, now: float) -> tuple[int, int]:
    """Return the number of tokens in use, and the number of tokens."""
    info = state.info("default", now, "")
    return info.tokens_in_use, info.tokens


# -- the limit, whatever workers do ------------------------------------------------------------------------------------


@attrs.define
class Fleet:
    """Workers that send, report late or never, freeze, and end without a word; each exchange goes through the text."""

    seed: int
    limits: SharedLimits
    arrivals: list[float] = attrs.field(factory=list)

    def run(self, steps: int) -> None:
        rng = random.Random(self.seed)
        text, now = AccountState(self.limits).dump(), 100.0
        reports: dict[str, list[LeaseReport]] = {}
        held: dict[str, dict[int, TokenLease]] = {}
        answers: list[tuple[float, int, str, LeaseReport]] = []
        names = [f"w{number}" for number in range(rng.randint(1, 4))]
        for _ in range(steps):
            now += rng.choice([0.0, 0.01, rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 4)])
            while answers and answers[0][0] <= now:
                _, _, name, report = heapq.heappop(answers)
                if name in held:
                    reports.setdefault(name, []).append(report)
            name = rng.choice(names)
            if rng.random() < 0.03:  # it ends without a word, and another one starts
                held.pop(name, None)
                reports.pop(name, None)
                names[names.index(name)] = f"w{rng.random()}"
                continue
            own = held.setdefault(name, {})
            said = reports.pop(name, [])
            state = AccountState.load(text)
            view = state.exchange(
                name,
                now,
                limits=self.limits,
                reports=said,
                held=[number for number in own if number not in {report.number for report in said}],
                wanted=rng.randint(0, 4),
            )
            text = state.dump()
            for report in said:
                own.pop(report.number or 0, None)
            own |= {lease.number: lease for lease in view.leases}
            for lease in view.leases:
                sent_at = max(now, lease.leased_at) + rng.choice([0.0, rng.uniform(0, LEASE - 0.1)])
                verdict = rng.choice([V.ACCEPTED] * 6 + [V.RATE_LIMITED, V.IN_DOUBT, V.UNSENT, V.REJECTED])
                answered_at = sent_at + TRAVEL_TIME + rng.choice([0.0, rng.uniform(0, 30)])
                if verdict is V.UNSENT:
                    answered_at = sent_at
                else:
                    self.arrivals.append(sent_at + rng.uniform(0, TRAVEL_TIME))
                # The owner renews what it waits for, or else it is taken for counted.
                heapq.heappush(
                    answers,
                    (
                        answered_at,
                        lease.number,
                        name,
                        LeaseReport(number=lease.number, at=answered_at, verdict=verdict),
                    ),
                )


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([1.0, 10.0, 60.0]))
def test_no_window_exceeds_the_limit_whatever_workers_do(seed: int, creates: int, window: float) -> None:
    fleet = Fleet(seed, SharedLimits(creates, window))
    fleet.run(70)

    assert most_in_a_window(sorted(fleet.arrivals), window) <= creates


# -- text and clock ----------------------------------------------------------------------------------------------------


def test_text_keeps_everything() -> None:
    state = new_state()
    view = state.exchange("a", 5.0, limits=LIMITS, wanted=2, key="k")
    refusal = ends(view, 5.5, V.ACCOUNT, error="No credits.", key="k")
    state.exchange("b", 6.0, limits=SharedLimits(2, 10.0), reports=refusal[:1], wanted=3, key="k")
    state.exchange("b", 6.0, limits=SharedLimits(2, 10.0), reports=[attrs.evolve(refusal[1], refuses_key=True)])
    again = AccountState.load(state.dump())

    assert again.dump() == state.dump()
    for one in (again, state):
        one.exchange("c", 30.0, limits=LIMITS, wanted=2)
    assert again.dump() == state.dump()
    assert again.epoch == state.epoch


def test_text_of_a_newer_version_is_refused() -> None:
    with pytest.raises(ValueError, match="format 9, and this version of kie_async knows 1"):
        AccountState.load("[9]")


def test_many_creates_take_little_text() -> None:
    """Their instants are rounded up to the 128th part of a window."""
    limits = SharedLimits(100_000, 10.0)
    state = AccountState(limits)
    for number in range(200):
        view = state.exchange("a", 20.0 + number / 1000, limits=limits, wanted=40)
        state.exchange("a", 20.0 + number / 1000, limits=limits, reports=ends(view, 21.0 + number / 1000, V.ACCEPTED))
    text = state.dump()

    assert len(text) < 20_000
    assert (8_000, 100_000) == figures(AccountState.load(text), 25.0)


def test_clock_that_starts_anew_lets_no_time_pass() -> None:
    """After a restart of the host, the time in between is not known, so it counts as none."""
    state = new_state()
    view = state.exchange("a", 1000.0, limits=LIMITS, wanted=3)
    state.exchange("a", 1001.0, limits=LIMITS, reports=ends(view, 1001.0, V.ACCEPTED), wanted=1)
    state.exchange(
        "a", 1001.0, limits=LIMITS, reports=[LeaseReport(number=None, at=1001.0, verdict=V.MAINTENANCE, pause=60.0)]
    )

    restarted = state.exchange("b", 4.0, limits=LIMITS, wanted=1)
    assert [] == list(restarted.leases)
    assert 4.0 == restarted.maintenance_since
    assert [] != list(state.exchange("b", 64.0, limits=LIMITS, wanted=1).leases)


# -- leases ------------------------------------------------------------------------------------------------------------


def test_lease_without_word_expires_and_counts_by_then() -> None:
    state = new_state()
    state.exchange("a", 0.0, limits=LIMITS, wanted=3)
    silence = LEASE + TRAVEL_TIME
    assert [] == list(state.exchange("b", silence - 0.1, limits=LIMITS, wanted=1).leases)
    state.exchange("b", silence, limits=LIMITS, wanted=1)
    assert [] == list(state.exchange("b", silence + 8.9, limits=LIMITS, wanted=1).leases)
    assert 1 == len(state.exchange("b", silence + 10.0, limits=LIMITS, wanted=1).leases)


def test_leases_that_the_worker_does_not_know_end_unused() -> None:
    """The answer to an exchange was lost: its leases are free again."""
    state = new_state()
    state.exchange("a", 0.0, limits=LIMITS, wanted=3)
    assert 3 == len(state.exchange("a", 0.1, limits=LIMITS, held=[], wanted=3).leases)


def test_lease_of_a_worker_long_forgotten_ends_unused() -> None:
    """Leases of the only worker do not expire, and a worker that shares the state later may say that one is unused."""
    state = new_state()
    view = state.exchange_alone(0.0, reports=[], wanted=3, key="")
    assert 3 == len(view.leases)
    again = state.exchange_alone(KNOWN_FOR + 1.0, reports=ends(view, 0.5, V.UNSENT), wanted=4, key="")

    assert 3 == len(again.leases)
    assert again.next_at is None, "all tokens are under way"


def test_report_ends_no_lease_of_another_worker() -> None:
    """After a crash of the database, the number of a lease that it has lost is given again."""
    state = new_state()
    lost = state.exchange("a", 0.0, limits=LIMITS, wanted=1)
    restored = new_state()
    restored.exchange("b", 1.0, limits=LIMITS, wanted=1)
    for verdict in (V.UNSENT, None):
        restored.exchange("a", 1.1, limits=LIMITS, reports=[LeaseReport(number=1, at=1.1, verdict=verdict)], held=[])

    assert 1 == lost.leases[0].number
    assert (1, 3) == figures(restored, 1.2)
    assert [1] == [lease.number for lease in restored.bucket.leases if lease.counted_at is None]


def test_answers_are_expected_before_they_are_reported() -> None:
    """Creates are usually answered within 0.3 s, and reported within 5 s more: then there was no answer."""
    state = new_state()
    state.exchange("a", 0.0, limits=LIMITS, wanted=3)

    assert 9.3 == pytest.approx(state.exchange("b", 4.0, limits=LIMITS, wanted=1).next_at)
    assert 15.3 == pytest.approx(state.exchange("b", 6.0, limits=LIMITS, wanted=1).next_at)


def test_report_of_an_expired_lease_still_tells_the_gate() -> None:
    state = new_state()
    view = state.exchange("a", 0.0, limits=LIMITS, wanted=1)
    state.exchange("b", 60.0, limits=LIMITS)
    late = ends(view, 60.0, V.MAINTENANCE, pause=60.0)
    assert 60.0 == state.exchange("a", 61.0, limits=LIMITS, reports=late, held=[]).maintenance_since


def test_counted_request_returns_its_token_before_it_is_answered() -> None:
    state = new_state()
    view = state.exchange("a", 0.0, limits=LIMITS, wanted=3)
    counted = [LeaseReport(number=lease.number, at=0.5) for lease in view.leases]
    held = [lease.number for lease in view.leases]
    state.exchange("a", 3.0, limits=LIMITS, reports=counted, held=held)
    assert 3 == len(state.exchange("b", 10.5, limits=LIMITS, wanted=3).leases)


def test_reservations_begin_up_to_a_second_later() -> None:
    state = new_state()
    view = state.exchange("a", 0.0, limits=LIMITS, wanted=3)
    state.exchange("a", 1.0, limits=LIMITS, reports=ends(view, 1.0, V.ACCEPTED))
    assert [] == list(state.exchange("a", 9.9, limits=LIMITS, wanted=3).leases)
    reserved = state.exchange("a", 10.2, limits=LIMITS, wanted=3).leases
    assert [11.0, 11.0, 11.0] == [lease.leased_at for lease in reserved]
    assert [] == list(state.exchange("b", 11.5, limits=LIMITS, wanted=1).leases)


def test_tokens_in_advance_only_where_they_are_plentiful() -> None:
    limits = SharedLimits(PLENTY + 5, 10.0)
    state = AccountState(limits)
    assert 1 + 4 == len(state.exchange("a", 0.0, limits=limits, wanted=1, spare=8).leases)
    assert 1 == len(state.exchange("a", 0.1, limits=limits, wanted=1, spare=8).leases)
    assert [] == list(state.exchange("a", 0.2, limits=limits, wanted=0, spare=8).leases)

    closed = AccountState(limits)
    maintenance = LeaseReport(number=None, at=0.0, verdict=V.MAINTENANCE, pause=1.0)
    closed.exchange("a", 0.0, limits=limits, reports=[maintenance])
    assert 1 == len(closed.exchange("a", 5.0, limits=limits, wanted=1, spare=8).leases)


# -- turns and limits --------------------------------------------------------------------------------------------------


def test_worker_that_had_fewer_leases_is_first_but_not_for_long() -> None:
    limits = SharedLimits(20, 10.0)
    state = AccountState(limits)
    view = state.exchange("a", 0.0, limits=limits, wanted=30)
    assert 20 == len(view.leases)
    state.exchange("b", 0.4, limits=limits, wanted=30)
    state.exchange("a", 0.4, limits=limits, reports=ends(view, 0.2, V.ACCEPTED), wanted=30)

    assert 1 == len(state.exchange("a", 10.2, limits=limits, wanted=30).leases), "both have had as many"
    blocked = state.exchange("a", 10.2, limits=limits, held=None, wanted=29)
    assert [] == list(blocked.leases)
    assert blocked.next_at == pytest.approx(10.5)
    assert 19 == len(state.exchange("a", 10.5, limits=limits, wanted=29).leases), "the other one does not come"


def test_worker_that_wants_no_more_or_says_nothing_is_not_waited_for() -> None:
    limits = SharedLimits(20, 10.0)
    state = AccountState(limits)
    view = state.exchange("a", 0.0, limits=limits, wanted=30)
    state.exchange("b", 0.1, limits=limits, wanted=30)
    state.exchange("a", 0.2, limits=limits, reports=ends(view, 0.2, V.ACCEPTED), wanted=30)
    assert 20 == len(state.exchange("a", 0.2 + WANTS_FOR, limits=limits, wanted=30).leases)

    other = AccountState(limits)
    other.exchange("a", 0.0, limits=limits, wanted=10)
    other.exchange("b", 0.1, limits=limits, wanted=5)
    assert 5 == len(other.exchange("a", 0.2, limits=limits, wanted=5).leases), "there are enough for all"


def test_strictest_limits_count_until_their_worker_ends_or_is_silent() -> None:
    state = AccountState(SharedLimits(20, 10.0))
    strict = SharedLimits(20, 60.0)
    state.exchange("strict", 0.0, limits=strict)
    view = state.exchange("a", 1.0, limits=SharedLimits(20, 10.0))
    assert (strict, "strict") == (view.limits, view.stricter_worker)
    later = state.exchange("a", KNOWN_FOR + 1.0, limits=SharedLimits(20, 10.0))
    assert (SharedLimits(20, 10.0), None) == (later.limits, later.stricter_worker)
    state.exchange("strict", KNOWN_FOR + 1.0, limits=strict)
    state.leave("strict")
    assert SharedLimits(20, 10.0) == state.exchange("a", KNOWN_FOR + 2.0, limits=SharedLimits(20, 10.0)).limits


def test_learned_limit_survives_other_limits() -> None:
    state = AccountState(SharedLimits(20, 10.0))
    view = state.exchange("a", 0.0, limits=SharedLimits(20, 10.0), wanted=20)
    reports = ends(view, 0.5, V.ACCEPTED)[:12] + ends(view, 0.5, V.RATE_LIMITED)[12:]
    state.exchange("a", 0.5, limits=SharedLimits(20, 10.0), reports=reports)
    state.exchange("b", 1.0, limits=SharedLimits(15, 10.0))
    assert 12 == figures(state, 1.0)[1]
    state.exchange("b", 1.0, limits=SharedLimits(8, 10.0))
    assert 8 == figures(state, 1.0)[1]


# -- gates -------------------------------------------------------------------------------------------------------------


def test_refusal_by_the_account_closes_for_all_and_one_probe_opens() -> None:
    state = new_state()
    view = state.exchange("a", 0.0, limits=LIMITS, wanted=1, key="k")
    refused = state.exchange(
        "a", 1.0, limits=LIMITS, reports=ends(view, 1.0, V.ACCOUNT, error="No credits.", key="k"), key="k"
    )
    assert ("No credits.", 1.0) == (refused.paused_by, refused.paused_at)
    assert refused.epoch > view.epoch
    probe = state.exchange("b", 2.0, limits=LIMITS, wanted=2, key="other")
    assert [True] == [lease.gate_probe for lease in probe.leases]
    assert [] == list(state.exchange("a", 2.0, limits=LIMITS, wanted=1, key="k").leases)
    opened = state.exchange("b", 3.0, limits=LIMITS, reports=ends(probe, 3.0, V.ACCEPTED, key="other"), key="other")
    assert opened.paused_by is None
    assert [False] == [lease.gate_probe for lease in state.exchange("a", 3.0, limits=LIMITS, wanted=1, key="k").leases]


@pytest.mark.parametrize("answer", [V.ACCEPTED, V.REJECTED, V.ACCOUNT, V.IN_DOUBT, V.AMBIGUOUS])
def test_refused_key_pauses_only_its_own_workers(answer: Verdict) -> None:
    """An answer that speaks of anything else but the key shows that the key is good."""
    state = AccountState(SharedLimits(20, 10.0))
    view = state.exchange("a", 0.0, limits=SharedLimits(20, 10.0), wanted=1, key="bad")
    report = ends(view, 1.0, V.ACCOUNT, error="Wrong key.", key="bad", refuses_key=True)
    refused = state.exchange("a", 1.0, limits=SharedLimits(20, 10.0), reports=report, key="bad")
    assert "Wrong key." == refused.paused_by
    fine = state.exchange("b", 1.0, limits=SharedLimits(20, 10.0), wanted=2, key="good")
    assert (None, [False, False]) == (fine.paused_by, [lease.gate_probe for lease in fine.leases])

    probe = state.exchange("a", 2.0, limits=SharedLimits(20, 10.0), wanted=2, key="bad")
    assert [True] == [lease.gate_probe for lease in probe.leases]
    reports = ends(probe, 3.0, answer, error="Other.", key="bad")
    after = state.exchange("a", 3.0, limits=SharedLimits(20, 10.0), reports=reports, wanted=1, key="bad")
    assert (answer not in (V.ACCEPTED, V.REJECTED, V.ACCOUNT)) == (after.paused_by == "Wrong key.")


@pytest.mark.parametrize("restarts", [False, True])
def test_probe_of_a_refused_key_whose_worker_ended_is_sent_again(*, restarts: bool) -> None:
    """The lease of a worker that has ended expires; one that has lost its leases says that it holds none."""
    state = new_state()
    view = state.exchange("a", 0.0, limits=LIMITS, wanted=1, key="k")
    refused = ends(view, 1.0, V.ACCOUNT, error="Wrong key.", key="k", refuses_key=True)
    probe = state.exchange("a", 1.0, limits=LIMITS, reports=refused, wanted=1, key="k")
    assert [True] == [lease.gate_probe for lease in probe.leases]
    assert [] == list(state.exchange("b", 2.0, limits=LIMITS, wanted=1, key="k").leases)
    if restarts:
        state.exchange("a", 3.0, limits=LIMITS, held=(), key="k")
    again = state.exchange("b", 3.0 if restarts else 12.0, limits=LIMITS, wanted=1, key="k")
    assert [True] == [lease.gate_probe for lease in again.leases]


def test_probe_whose_worker_ended_is_sent_again_by_another_one() -> None:
    state = new_state()
    maintenance = LeaseReport(number=None, at=0.0, verdict=V.MAINTENANCE, pause=60.0)
    state.exchange("a", 0.0, limits=LIMITS, reports=[maintenance])
    assert 1 == len(state.exchange("a", 60.0, limits=LIMITS, wanted=2).leases)
    waits = state.exchange("b", 61.0, limits=LIMITS, wanted=1)
    assert ([], 62.0) == (list(waits.leases), waits.next_at)
    state.exchange("b", 60.0 + LEASE + TRAVEL_TIME, limits=LIMITS, wanted=1)
    assert [True] == [lease.gate_probe for lease in state.exchange("b", 200.0, limits=LIMITS, wanted=2).leases]


def test_retry_after_holds_all_workers() -> None:
    state = new_state()
    view = state.exchange("a", 0.0, limits=LIMITS, wanted=1)
    state.exchange("a", 1.0, limits=LIMITS, reports=ends(view, 1.0, V.RATE_LIMITED, closed_for=30.0))
    waits = state.exchange("b", 2.0, limits=LIMITS, wanted=1)
    assert ([], 31.0) == (list(waits.leases), waits.next_at)
    assert 1.0 == waits.refused_since


def test_later_known_text_counts_if_the_journal_has_gone_back() -> None:
    state = new_state()
    state.exchange("a", 0.0, limits=LIMITS, wanted=1)
    older = state.dump()
    state.exchange("a", 1.0, limits=LIMITS, wanted=1)
    later = state.dump()

    assert AccountState.latest(None, None) is None
    for text, known in ((later, (1, older)), (later, None)):
        found = AccountState.latest(text, known)
        assert found is not None
        assert later == found.dump()
    for gone_back in (None, older):
        restored = AccountState.latest(gone_back, (2, later))
        assert restored is not None
        assert restored.changes > 1000
        assert (2, 3) == figures(restored, 1.0)


def test_figures_say_why_creates_wait() -> None:
    state = new_state()
    assert ("open", 0.0, 3, 0) == summary(state, 0.0)
    view = state.exchange("a", 0.0, limits=LIMITS, wanted=2, key="k")
    first, second = ends(view, 1.0, V.RATE_LIMITED, closed_for=30.0, key="k")
    state.exchange("a", 1.0, limits=LIMITS, reports=[first], key="k")
    assert ("rate limited", 29.0, 2, 1) == summary(state, 2.0)
    state.exchange("a", 3.0, limits=LIMITS, reports=[attrs.evolve(second, verdict=V.MAINTENANCE, pause=60.0)], key="k")
    assert "maintenance" == summary(state, 4.0)[0]
    probe = state.exchange("a", 70.0, limits=LIMITS, wanted=1, key="k")
    assert ("maintenance", None) == summary(state, 70.5)[:2], "a probe is under way"
    refused = ends(probe, 71.0, V.ACCOUNT, key="k", refuses_key=True)
    state.exchange("a", 71.0, limits=LIMITS, reports=refused, key="k")
    assert "account" == summary(state, 72.0)[0]


def summary(state: AccountState, now: float) -> tuple[str, float | None, int, int]:
    info = state.info("default", now, "k")
    return info.gate, info.opens_in, info.tokens, info.tokens_in_use
