"""
The shared gate: what closes it, what opens it, and that nobody waits before it for ever.

The state machine plays a whole client: requests enter when the gate says so, and end in any order with any verdict.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kie_async._core.gate import Gate
from kie_async._core.verdicts import Verdict
from tests.core.strategies import durations, instants, verdicts

BARRIERS = (Verdict.MAINTENANCE, Verdict.ACCOUNT)
#: What says that the account is good: a create was accepted, or refused for what it is.
ACCOUNT_IS_GOOD = (Verdict.ACCEPTED, Verdict.REJECTED)
#: What says nothing about the service.
SILENT = (Verdict.UNSENT, Verdict.IN_DOUBT)


@attrs.frozen(eq=False)
class UnderWay:
    """A request that has entered and not ended."""

    entered_at: float
    probe: bool


class Client(RuleBasedStateMachine):
    """Requests of one client before one gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.now = 0.0
        self.under_way: list[UnderWay] = []
        #: Since when it has not been known that the account is good, or None.
        self.account_bad_since: float | None = None
        #: Until when the service has asked for silence.
        self.quiet_until = 0.0

    @rule(pause=durations)
    def time_passes(self, pause: float) -> None:
        self.now += pause

    @precondition(lambda self: self.gate.ready_at(self.now) is not None)
    @rule()
    def wait_until_ready(self) -> None:
        ready_at = self.gate.ready_at(self.now)
        assert ready_at is not None
        self.now = ready_at
        assert self.now == self.gate.ready_at(self.now), "the sleeper has to sleep again"

    @precondition(lambda self: self.gate.ready_at(self.now) == self.now)
    @rule()
    def enter(self) -> None:
        closed = self.gate.barrier is not None
        probe = self.gate.enter(self.now)

        assert closed is probe
        # One probe at a time, and nothing beside it.
        assert not (probe and any(request.probe for request in self.under_way))
        assert self.now >= self.quiet_until
        assert probe or self.account_bad_since is None, "the account has not proved good"
        self.under_way.append(UnderWay(self.now, probe))

    @precondition(lambda self: self.gate.ready_at(self.now) != self.now)
    @rule()
    def nobody_enters_while_it_is_closed(self) -> None:
        with pytest.raises(ValueError, match="the gate is closed"):
            self.gate.enter(self.now)

    @precondition(lambda self: bool(self.under_way))
    @rule(which=st.randoms(use_true_random=False), verdict=verdicts, pause=st.floats(0.5, 100.0))
    def leave(self, which: object, verdict: Verdict, pause: float) -> None:
        index = getattr(which, "randrange")(len(self.under_way))
        request = self.under_way.pop(index)
        before = self.gate.epoch
        self.gate.leave(
            verdict, now=self.now, entered_at=request.entered_at, probe=request.probe, pause=pause
        )
        if verdict is Verdict.ACCOUNT:
            self.account_bad_since = self.now if self.account_bad_since is None else self.account_bad_since
        elif (
            request.probe
            and verdict in ACCOUNT_IS_GOOD
            and self.account_bad_since is not None
            and request.entered_at >= self.account_bad_since
        ):
            self.account_bad_since = None
        if verdict is Verdict.MAINTENANCE and request.probe:
            self.quiet_until = self.now + pause
        assert self.gate.epoch >= before

    @rule(pause=durations)
    def the_service_asks_for_a_pause(self, pause: float) -> None:
        self.gate.hold(self.now + pause)
        self.quiet_until = max(self.quiet_until, self.now + pause)

    @invariant()
    def it_never_answers_with_the_past_and_never_opens_earlier_than_it_said(self) -> None:
        ready_at = self.gate.ready_at(self.now)
        if ready_at is not None:
            assert ready_at >= self.now
            for later in (self.now + 1.0, self.now + 1e3, self.now + 1e6):
                assert max(later, ready_at) == self.gate.ready_at(later)

    @invariant()
    def only_an_answer_that_will_come_can_make_it_wait_for_an_unknown_time(self) -> None:
        if self.gate.ready_at(self.now) is None:
            assert any(request.probe for request in self.under_way)


Client.TestCase.settings = settings(stateful_step_count=30)
TestClient = Client.TestCase
