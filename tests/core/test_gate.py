"""
The shared gate: what closes it, what opens it, and that nobody waits before it for ever.

The state machine plays a whole client: requests enter when the gate says so, and end in any order with any verdict.
"""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kie_async._core.gate import Gate
from kie_async._core.verdicts import Verdict
from tests.core.strategies import durations, instants
from tests.profile import examples

#: What proves that the account is good: a create was accepted, or refused for what it is.
THE_ACCOUNT_IS_GOOD = (Verdict.ACCEPTED, Verdict.REJECTED)
#: What says nothing of the service.
SILENT = (Verdict.UNSENT, Verdict.IN_DOUBT)
NEVER = float("-inf")

pauses = st.floats(0.5, 100.0)
#: The verdicts that move the gate come more often than the others.
ends = st.sampled_from([*[Verdict.ACCEPTED, Verdict.MAINTENANCE, Verdict.ACCOUNT] * 3, *Verdict])


def sent(gate: Gate, at: float) -> bool:
    """Let one request go, as soon as that is possible after *at*; returns whether it is a probe."""
    assert at == gate.opens_at(at)
    return gate.admit(at)


def closed_by(verdict: Verdict) -> Gate:
    """A gate that the answer to a request from 0 to 1 has closed, with a pause of 60."""
    gate = Gate()
    gate.record_verdict(verdict, now=1.0, admitted_at=0.0, probe=sent(gate, 0.0), pause=60.0)
    return gate


# -- a whole client -----------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class UnderWay:
    """A request that has entered and not ended; they are numbered."""

    number: int
    admitted_at: float
    probe: bool


class Client(RuleBasedStateMachine):
    """The requests of one client, and what a bystander knows from their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.now = 0.0
        self.under_way: list[UnderWay] = []
        self.quiet_until = NEVER  # the service has asked for silence, or is under maintenance and was just asked
        self.account_is_bad = False
        self.entered = 0
        self.entered_before_opening = 0

    @rule(pause=durations)
    def time_passes(self, pause: float) -> None:
        self.now += pause

    @precondition(lambda self: self.gate.opens_at(self.now) is not None)
    @rule()
    def somebody_sleeps_until_it_is_ready(self) -> None:
        ready_at = self.gate.opens_at(self.now)
        assert ready_at is not None
        self.now = ready_at

        assert self.now == self.gate.opens_at(self.now)

    @precondition(lambda self: self.gate.opens_at(self.now) == self.now)
    @rule()
    def a_request_goes(self) -> None:
        closed = self.gate.barrier is not None
        request = UnderWay(self.entered, self.now, self.gate.admit(self.now))
        self.entered += 1

        assert closed is request.probe
        assert request.probe or not self.account_is_bad
        assert not (request.probe and any(other.probe for other in self.under_way))
        assert self.now >= self.quiet_until
        self.under_way.append(request)

    @precondition(lambda self: self.gate.opens_at(self.now) != self.now)
    @rule()
    def nobody_passes_a_closed_gate(self) -> None:
        with pytest.raises(ValueError, match="the gate is closed"):
            self.gate.admit(self.now)

    @precondition(lambda self: bool(self.under_way))
    @rule(number=st.integers(0, 1_000_000), verdict=ends, pause=pauses)
    def a_request_ends(self, number: int, verdict: Verdict, pause: float) -> None:
        request = self.under_way.pop(number % len(self.under_way))
        barrier, epoch = self.gate.barrier, self.gate.epoch
        self.gate.record_verdict(
            verdict, now=self.now, admitted_at=request.admitted_at, probe=request.probe, pause=pause
        )

        if verdict is Verdict.MAINTENANCE and (request.probe or (barrier is None and self._is_news(request))):
            self.quiet_until = max(self.quiet_until, self.now + pause)
        if request.probe and verdict is Verdict.IN_DOUBT and barrier is Verdict.MAINTENANCE:
            self.quiet_until = max(self.quiet_until, self.now + pause)
        if verdict is Verdict.ACCOUNT and self._is_news(request):
            self.account_is_bad = True
        if request.probe and verdict in THE_ACCOUNT_IS_GOOD:
            self.account_is_bad = False
        if self.gate.barrier is None and barrier is not None:
            assert request.probe, "only a probe opens the gate"
            assert verdict not in SILENT
            self.entered_before_opening = self.entered
        if barrier is None and self.gate.barrier is not None:
            assert self.gate.epoch > epoch, "what was granted before the closing must not be sent"
            assert (self.now if verdict is Verdict.MAINTENANCE else None) == self.gate.maintenance_since

    def _is_news(self, request: UnderWay) -> bool:
        """Whether it has entered since a probe has opened the gate; that probe's word counts more than an older one."""
        return request.number >= self.entered_before_opening

    @rule(pause=durations)
    def the_service_asks_for_a_pause(self, pause: float) -> None:
        self.gate.close_until(self.now + pause)
        self.quiet_until = max(self.quiet_until, self.now + pause)

    @invariant()
    def it_answers_with_an_instant_that_holds(self) -> None:
        ready_at = self.gate.opens_at(self.now)
        if ready_at is not None:
            assert ready_at >= self.now
            for later in (self.now + 1.0, self.now + 1e3, self.now + 1e6):
                assert max(later, ready_at) == self.gate.opens_at(later)

    @invariant()
    def it_is_silent_only_while_a_probe_is_under_way(self) -> None:
        assert (self.gate.opens_at(self.now) is None) <= any(request.probe for request in self.under_way)

    def teardown(self) -> None:
        """Whatever has happened: when all requests under way have ended, one success opens the gate for everybody."""
        for request in self.under_way:
            self.gate.record_verdict(
                Verdict.UNSENT, now=self.now, admitted_at=request.admitted_at, probe=request.probe, pause=9.0
            )
        ready_at = self.gate.opens_at(self.now)
        assert ready_at is not None
        probe = self.gate.admit(ready_at)
        self.gate.record_verdict(Verdict.ACCEPTED, now=ready_at + 1.0, admitted_at=ready_at, probe=probe, pause=9.0)

        assert self.gate.barrier is None
        assert ready_at + 1.0 == self.gate.opens_at(ready_at + 1.0)


TestClient = Client.TestCase
TestClient.settings = settings(stateful_step_count=40, max_examples=examples(300))


# -- 429 ----------------------------------------------------------------------------------------------------------


def test_a_refusal_by_the_rate_limit_closes_nothing() -> None:
    """It costs a token, which is the bucket's business; and it does not recall what was granted."""
    gate = closed_by(Verdict.RATE_LIMITED)

    assert (None, 0, 1.0) == (gate.barrier, gate.epoch, gate.opens_at(1.0))
    assert not sent(gate, 1.0)


def test_a_gate_that_is_held_lets_nobody_in_until_the_instant_that_was_asked_for() -> None:
    """The service may ask for it with a 429: ``Retry-After``."""
    gate = closed_by(Verdict.RATE_LIMITED)
    gate.close_until(61.0)

    with pytest.raises(ValueError, match="the gate is closed"):
        gate.admit(60.999)
    assert 61.0 == gate.opens_at(1.0)
    gate.admit(61.0)


@given(instants, durations, durations)
def test_holding_only_ever_delays(now: float, first: float, second: float) -> None:
    gate = Gate()
    gate.close_until(now + first)
    gate.close_until(now + second)

    assert now + max(first, second) == gate.opens_at(now)


# -- 455 ----------------------------------------------------------------------------------------------------------


def test_a_closed_gate_lets_nobody_in_until_the_instant_that_it_names() -> None:
    gate = closed_by(Verdict.MAINTENANCE)

    with pytest.raises(ValueError, match="the gate is closed"):
        gate.admit(60.999)
    assert 61.0 == gate.opens_at(1.0)
    gate.admit(61.0)


@pytest.mark.parametrize("verdict", [Verdict.MAINTENANCE, *SILENT])
def test_during_maintenance_there_is_one_probe_in_a_pause(verdict: Verdict) -> None:
    """Whether the service repeats itself or does not answer at all."""
    gate, now, probes = closed_by(Verdict.MAINTENANCE), 1.0, list[float]()
    while now < 3600.0:
        ready_at = gate.opens_at(now)
        assert ready_at is not None
        probes.append(ready_at)
        assert sent(gate, ready_at)
        assert gate.opens_at(ready_at) is None
        now = ready_at + 0.5
        gate.record_verdict(verdict, now=now, admitted_at=ready_at, probe=True, pause=60.0)

    assert all(probe - before >= 60.0 for before, probe in zip([1.0, *probes], probes, strict=False))
    assert 60 == len(probes)
    assert 1.0 == gate.maintenance_since


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.REJECTED, Verdict.AMBIGUOUS, Verdict.RATE_LIMITED])
def test_any_other_answer_to_the_probe_ends_maintenance(verdict: Verdict) -> None:
    gate = closed_by(Verdict.MAINTENANCE)
    gate.record_verdict(verdict, now=62.0, admitted_at=61.0, probe=sent(gate, 61.0), pause=60.0)

    assert gate.barrier is None
    assert 62.0 == gate.opens_at(62.0)
    assert not sent(gate, 62.0)


def test_late_answers_of_the_burst_do_not_put_the_probe_off() -> None:
    gate = Gate()
    for _ in range(3):
        sent(gate, 0.0)
    for now in (1.0, 2.0, 59.0):
        gate.record_verdict(Verdict.MAINTENANCE, now=now, admitted_at=0.0, probe=False, pause=60.0)

    assert 61.0 == gate.opens_at(59.0)
    assert (1.0, 1) == (gate.maintenance_since, gate.epoch)


# -- 401, 402, 433 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.ACCOUNT, Verdict.RATE_LIMITED, Verdict.AMBIGUOUS, *SILENT])
def test_an_account_that_has_not_proved_good_is_asked_again_by_one_request_at_a_time(verdict: Verdict) -> None:
    gate = closed_by(Verdict.ACCOUNT)
    assert sent(gate, 2.0)
    assert gate.opens_at(3.0) is None
    gate.record_verdict(verdict, now=3.0, admitted_at=2.0, probe=True, pause=4.0)

    assert Verdict.ACCOUNT is gate.barrier
    assert 3.0 == gate.opens_at(3.0)
    assert sent(gate, 3.0)


@pytest.mark.parametrize("verdict", THE_ACCOUNT_IS_GOOD)
def test_a_create_that_is_judged_for_what_it_is_proves_the_account_good(verdict: Verdict) -> None:
    gate = closed_by(Verdict.ACCOUNT)
    gate.record_verdict(verdict, now=3.0, admitted_at=2.0, probe=sent(gate, 2.0), pause=60.0)

    assert gate.barrier is None
    assert not sent(gate, 3.0)
    assert not sent(gate, 3.0)


def test_a_success_from_before_the_account_was_refused_proves_nothing() -> None:
    """The rest of a burst may be paid with the last credits."""
    gate = Gate()
    sent(gate, 0.0)
    sent(gate, 0.0)
    gate.record_verdict(Verdict.ACCOUNT, now=1.0, admitted_at=0.0, probe=False, pause=60.0)
    gate.record_verdict(Verdict.ACCEPTED, now=2.0, admitted_at=0.0, probe=False, pause=60.0)

    assert Verdict.ACCOUNT is gate.barrier


@pytest.mark.parametrize("verdict", [Verdict.ACCOUNT, Verdict.MAINTENANCE])
def test_a_straggler_from_before_the_probe_does_not_close_the_gate_again(verdict: Verdict) -> None:
    """The probe went later, and fared well."""
    gate = Gate()
    sent(gate, 0.0)
    sent(gate, 0.0)
    gate.record_verdict(verdict, now=1.0, admitted_at=0.0, probe=False, pause=60.0)
    gate.record_verdict(Verdict.ACCEPTED, now=62.0, admitted_at=61.0, probe=sent(gate, 61.0), pause=60.0)
    gate.record_verdict(verdict, now=63.0, admitted_at=0.0, probe=False, pause=60.0)

    assert gate.barrier is None
    assert 63.0 == gate.opens_at(63.0)


@pytest.mark.parametrize("verdict", [Verdict.ACCOUNT, Verdict.MAINTENANCE])
def test_a_request_that_goes_at_the_instant_of_opening_may_close_the_gate_again(verdict: Verdict) -> None:
    """So does the whole queue, if the clock is coarse."""
    gate = closed_by(verdict)
    gate.record_verdict(Verdict.ACCEPTED, now=62.0, admitted_at=61.0, probe=sent(gate, 61.0), pause=60.0)
    gate.record_verdict(verdict, now=63.0, admitted_at=62.0, probe=sent(gate, 62.0), pause=60.0)

    assert verdict is gate.barrier


def test_maintenance_does_not_make_a_bad_account_good() -> None:
    """402, then a probe that meets maintenance, then one that is refused by the rate limit: no create was judged."""
    gate = closed_by(Verdict.ACCOUNT)
    gate.record_verdict(Verdict.MAINTENANCE, now=3.0, admitted_at=2.0, probe=sent(gate, 2.0), pause=60.0)
    assert 63.0 == gate.opens_at(3.0)
    gate.record_verdict(Verdict.RATE_LIMITED, now=64.0, admitted_at=63.0, probe=sent(gate, 63.0), pause=4.0)

    assert 64.0 == gate.opens_at(64.0)
    assert sent(gate, 64.0), "a second probe, and not the whole queue"


def test_the_account_is_refused_during_maintenance() -> None:
    """A late answer of the burst: what is granted goes no more, and the probe is still a pause after the 455."""
    gate = Gate()
    sent(gate, 0.0)
    sent(gate, 0.0)
    gate.record_verdict(Verdict.MAINTENANCE, now=1.0, admitted_at=0.0, probe=False, pause=60.0)
    gate.record_verdict(Verdict.ACCOUNT, now=2.0, admitted_at=0.0, probe=False, pause=60.0)

    assert Verdict.ACCOUNT is gate.barrier
    assert 61.0 == gate.opens_at(2.0)


@pytest.mark.parametrize("verdict", [Verdict.MAINTENANCE, Verdict.ACCOUNT])
def test_what_was_granted_before_the_gate_closed_is_void(verdict: Verdict) -> None:
    assert 1 == closed_by(verdict).epoch
