"""
Test the gate: it closes, it opens, and no request waits for ever.

The state machine models a client: requests are admitted when the gate opens, and end in any order with any verdict.
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

#: Verdicts that prove that the account is good.
ACCOUNT_GOOD = (Verdict.ACCEPTED, Verdict.REJECTED)
#: Verdicts that prove nothing about the service.
INCONCLUSIVE = (Verdict.UNSENT, Verdict.IN_DOUBT)
NEVER = float("-inf")

pauses = st.floats(0.5, 100.0)
#: Verdicts; those that change the gate are drawn more often.
ends = st.sampled_from([*[Verdict.ACCEPTED, Verdict.MAINTENANCE, Verdict.ACCOUNT] * 3, *Verdict])


def admit_at(gate: Gate, at: float) -> bool:
    """Admit one request at *at*, and return True if it is a probe."""
    assert at == gate.opens_at(at)
    return gate.admit(at)


def closed_by(verdict: Verdict) -> Gate:
    """Return a gate after a request from 0 to 1 with *verdict*, and a pause of 60."""
    gate = Gate()
    gate.record_verdict(verdict, now=1.0, admitted_at=0.0, probe=admit_at(gate, 0.0), pause=60.0)
    return gate


# -- a whole client -----------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class UnderWay:
    """A numbered request that was admitted and has not ended."""

    number: int
    admitted_at: float
    probe: bool


class Client(RuleBasedStateMachine):
    """The requests of one client, and a model of the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.now = 0.0
        self.under_way: list[UnderWay] = []
        self.quiet_until = NEVER  # Retry-After, or a pause of maintenance
        self.account_is_bad = False
        self.admitted = 0
        self.admitted_before_opening = 0

    @rule(pause=durations)
    def let_time_pass(self, pause: float) -> None:
        self.now += pause

    @precondition(lambda self: self.gate.opens_at(self.now) is not None)
    @rule()
    def sleep_until_open(self) -> None:
        ready_at = self.gate.opens_at(self.now)
        assert ready_at is not None
        self.now = ready_at

        assert self.now == self.gate.opens_at(self.now)

    @precondition(lambda self: self.gate.opens_at(self.now) == self.now)
    @rule()
    def send_request(self) -> None:
        closed = self.gate.barrier is not None
        request = UnderWay(self.admitted, self.now, self.gate.admit(self.now))
        self.admitted += 1

        assert closed is request.probe
        assert request.probe or not self.account_is_bad
        assert not (request.probe and any(other.probe for other in self.under_way))
        assert self.now >= self.quiet_until
        self.under_way.append(request)

    @precondition(lambda self: self.gate.opens_at(self.now) != self.now)
    @rule()
    def refuse_while_closed(self) -> None:
        with pytest.raises(ValueError, match="the gate is closed"):
            self.gate.admit(self.now)

    @precondition(lambda self: bool(self.under_way))
    @rule(number=st.integers(0, 1_000_000), verdict=ends, pause=pauses)
    def end_request(self, number: int, verdict: Verdict, pause: float) -> None:
        request = self.under_way.pop(number % len(self.under_way))
        barrier, epoch = self.gate.barrier, self.gate.epoch
        self.gate.record_verdict(
            verdict, now=self.now, admitted_at=request.admitted_at, probe=request.probe, pause=pause
        )

        if verdict is Verdict.MAINTENANCE and (request.probe or (barrier is None and self._after_opening(request))):
            self.quiet_until = max(self.quiet_until, self.now + pause)
        if request.probe and verdict is Verdict.IN_DOUBT and barrier is Verdict.MAINTENANCE:
            self.quiet_until = max(self.quiet_until, self.now + pause)
        if verdict is Verdict.ACCOUNT and self._after_opening(request):
            self.account_is_bad = True
        if request.probe and verdict in ACCOUNT_GOOD:
            self.account_is_bad = False
        if self.gate.barrier is None and barrier is not None:
            assert request.probe, "only a probe opens the gate"
            assert verdict not in INCONCLUSIVE
            self.admitted_before_opening = self.admitted
        if barrier is None and self.gate.barrier is not None:
            assert self.gate.epoch > epoch, "permits from before the closing must become invalid"
            assert (self.now if verdict is Verdict.MAINTENANCE else None) == self.gate.maintenance_since

    def _after_opening(self, request: UnderWay) -> bool:
        """Return True if the request was admitted after a probe had opened the gate."""
        return request.number >= self.admitted_before_opening

    @rule(pause=durations)
    def close_for_a_pause(self, pause: float) -> None:
        self.gate.close_until(self.now + pause)
        self.quiet_until = max(self.quiet_until, self.now + pause)

    @invariant()
    def opening_instant_holds(self) -> None:
        ready_at = self.gate.opens_at(self.now)
        if ready_at is not None:
            assert ready_at >= self.now
            for later in (self.now + 1.0, self.now + 1e3, self.now + 1e6):
                assert max(later, ready_at) == self.gate.opens_at(later)

    @invariant()
    def unknown_only_during_a_probe(self) -> None:
        assert (self.gate.opens_at(self.now) is None) <= any(request.probe for request in self.under_way)

    def teardown(self) -> None:
        """Check that one success opens the gate after all requests have ended."""
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


def test_429_does_not_close_the_gate() -> None:
    """It expires a token of the bucket. Permits that were granted stay valid."""
    gate = closed_by(Verdict.RATE_LIMITED)

    assert (None, 0, 1.0) == (gate.barrier, gate.epoch, gate.opens_at(1.0))
    assert not admit_at(gate, 1.0)


def test_retry_after_closes_the_gate() -> None:
    gate = closed_by(Verdict.RATE_LIMITED)
    gate.close_until(61.0)

    with pytest.raises(ValueError, match="the gate is closed"):
        gate.admit(60.999)
    assert 61.0 == gate.opens_at(1.0)
    gate.admit(61.0)


@given(instants, durations, durations)
def test_close_until_only_delays(now: float, first: float, second: float) -> None:
    gate = Gate()
    gate.close_until(now + first)
    gate.close_until(now + second)

    assert now + max(first, second) == gate.opens_at(now)


# -- 455 ----------------------------------------------------------------------------------------------------------


def test_maintenance_closes_the_gate_for_a_pause() -> None:
    gate = closed_by(Verdict.MAINTENANCE)

    with pytest.raises(ValueError, match="the gate is closed"):
        gate.admit(60.999)
    assert 61.0 == gate.opens_at(1.0)
    gate.admit(61.0)


@pytest.mark.parametrize("verdict", [Verdict.MAINTENANCE, *INCONCLUSIVE])
def test_one_probe_per_pause_during_maintenance(verdict: Verdict) -> None:
    """The service repeats its 455, or does not answer."""
    gate, now, probes = closed_by(Verdict.MAINTENANCE), 1.0, list[float]()
    while now < 3600.0:
        ready_at = gate.opens_at(now)
        assert ready_at is not None
        probes.append(ready_at)
        assert admit_at(gate, ready_at)
        assert gate.opens_at(ready_at) is None
        now = ready_at + 0.5
        gate.record_verdict(verdict, now=now, admitted_at=ready_at, probe=True, pause=60.0)

    assert all(probe - before >= 60.0 for before, probe in zip([1.0, *probes], probes, strict=False))
    assert 60 == len(probes)
    assert 1.0 == gate.maintenance_since


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.REJECTED, Verdict.AMBIGUOUS, Verdict.RATE_LIMITED])
def test_other_answers_to_the_probe_end_maintenance(verdict: Verdict) -> None:
    gate = closed_by(Verdict.MAINTENANCE)
    gate.record_verdict(verdict, now=62.0, admitted_at=61.0, probe=admit_at(gate, 61.0), pause=60.0)

    assert gate.barrier is None
    assert 62.0 == gate.opens_at(62.0)
    assert not admit_at(gate, 62.0)


def test_late_answers_do_not_delay_the_probe() -> None:
    gate = Gate()
    for _ in range(3):
        admit_at(gate, 0.0)
    for now in (1.0, 2.0, 59.0):
        gate.record_verdict(Verdict.MAINTENANCE, now=now, admitted_at=0.0, probe=False, pause=60.0)

    assert 61.0 == gate.opens_at(59.0)
    assert (1.0, 1) == (gate.maintenance_since, gate.epoch)


# -- 401, 402, 433 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.ACCOUNT, Verdict.RATE_LIMITED, Verdict.AMBIGUOUS, *INCONCLUSIVE])
def test_a_refused_account_is_probed_one_by_one(verdict: Verdict) -> None:
    gate = closed_by(Verdict.ACCOUNT)
    assert admit_at(gate, 2.0)
    assert gate.opens_at(3.0) is None
    gate.record_verdict(verdict, now=3.0, admitted_at=2.0, probe=True, pause=4.0)

    assert Verdict.ACCOUNT is gate.barrier
    assert 3.0 == gate.opens_at(3.0)
    assert admit_at(gate, 3.0)


@pytest.mark.parametrize("verdict", ACCOUNT_GOOD)
def test_accepted_and_rejected_prove_the_account_good(verdict: Verdict) -> None:
    gate = closed_by(Verdict.ACCOUNT)
    gate.record_verdict(verdict, now=3.0, admitted_at=2.0, probe=admit_at(gate, 2.0), pause=60.0)

    assert gate.barrier is None
    assert not admit_at(gate, 3.0)
    assert not admit_at(gate, 3.0)


def test_an_earlier_success_does_not_open_the_gate() -> None:
    """The rest of a burst may be paid with the last credits."""
    gate = Gate()
    admit_at(gate, 0.0)
    admit_at(gate, 0.0)
    gate.record_verdict(Verdict.ACCOUNT, now=1.0, admitted_at=0.0, probe=False, pause=60.0)
    gate.record_verdict(Verdict.ACCEPTED, now=2.0, admitted_at=0.0, probe=False, pause=60.0)

    assert Verdict.ACCOUNT is gate.barrier


@pytest.mark.parametrize("verdict", [Verdict.ACCOUNT, Verdict.MAINTENANCE])
def test_late_refusals_do_not_close_the_gate_again(verdict: Verdict) -> None:
    """The probe was sent later, and succeeded."""
    gate = Gate()
    admit_at(gate, 0.0)
    admit_at(gate, 0.0)
    gate.record_verdict(verdict, now=1.0, admitted_at=0.0, probe=False, pause=60.0)
    gate.record_verdict(Verdict.ACCEPTED, now=62.0, admitted_at=61.0, probe=admit_at(gate, 61.0), pause=60.0)
    gate.record_verdict(verdict, now=63.0, admitted_at=0.0, probe=False, pause=60.0)

    assert gate.barrier is None
    assert 63.0 == gate.opens_at(63.0)


@pytest.mark.parametrize("verdict", [Verdict.ACCOUNT, Verdict.MAINTENANCE])
def test_a_request_at_the_opening_can_close_the_gate(verdict: Verdict) -> None:
    """With a coarse clock the whole queue is admitted at that instant."""
    gate = closed_by(verdict)
    gate.record_verdict(Verdict.ACCEPTED, now=62.0, admitted_at=61.0, probe=admit_at(gate, 61.0), pause=60.0)
    gate.record_verdict(verdict, now=63.0, admitted_at=62.0, probe=admit_at(gate, 62.0), pause=60.0)

    assert verdict is gate.barrier


def test_maintenance_does_not_clear_the_account() -> None:
    """402, then a probe with 455, then a probe with 429: the account was never proved good."""
    gate = closed_by(Verdict.ACCOUNT)
    gate.record_verdict(Verdict.MAINTENANCE, now=3.0, admitted_at=2.0, probe=admit_at(gate, 2.0), pause=60.0)
    assert 63.0 == gate.opens_at(3.0)
    gate.record_verdict(Verdict.RATE_LIMITED, now=64.0, admitted_at=63.0, probe=admit_at(gate, 63.0), pause=4.0)

    assert 64.0 == gate.opens_at(64.0)
    assert admit_at(gate, 64.0), "a second probe, and not the whole queue"


def test_account_refusal_during_maintenance() -> None:
    """A late answer of the burst: permits become invalid, and the probe still follows a pause after the 455."""
    gate = Gate()
    admit_at(gate, 0.0)
    admit_at(gate, 0.0)
    gate.record_verdict(Verdict.MAINTENANCE, now=1.0, admitted_at=0.0, probe=False, pause=60.0)
    gate.record_verdict(Verdict.ACCOUNT, now=2.0, admitted_at=0.0, probe=False, pause=60.0)

    assert Verdict.ACCOUNT is gate.barrier
    assert 61.0 == gate.opens_at(2.0)


@pytest.mark.parametrize("verdict", [Verdict.MAINTENANCE, Verdict.ACCOUNT])
def test_closing_the_gate_changes_the_epoch(verdict: Verdict) -> None:
    assert 1 == closed_by(verdict).epoch


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.MAINTENANCE])
def test_all_instants_of_the_gate_move_with_the_clock(verdict: Verdict) -> None:
    gate = closed_by(verdict)
    opens_at = gate.opens_at(1.0)
    gate.shift(100.0)

    assert opens_at is not None
    assert opens_at + 100.0 == gate.opens_at(101.0)
