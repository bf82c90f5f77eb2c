"""
The gate of a client: it decides whether the next create may be sent at all, whatever the tokens say.

Maintenance (455) and an account verdict (401, 402, 433) close the gate until a probe succeeds. Code 429 closes it only
if the answer names a time. The rules are in ``docs/explanation/limits.md``.
"""

from __future__ import annotations

from typing import Any

import attrs

from kie_async._core.verdicts import Verdict

__all__ = ["Gate"]

#: Verdicts that close the gate until a probe gets another verdict.
_CLOSING = frozenset({Verdict.MAINTENANCE, Verdict.ACCOUNT})
#: Verdicts of a probe that prove nothing about the reason why the gate is closed.
_INCONCLUSIVE = frozenset({Verdict.UNSENT, Verdict.IN_DOUBT})
#: Verdicts that prove that the service is up, and not that the account is good again.
_SERVICE_UP = frozenset({Verdict.RATE_LIMITED, Verdict.AMBIGUOUS})


@attrs.define
class Gate:
    """
    A gate that is open, or closed by the last refusal.

    Instants are the loop's. ``admit`` and ``record_verdict`` enclose every request.

    >>> gate = Gate()
    >>> gate.admit(0.0)
    False
    >>> gate.record_verdict(Verdict.MAINTENANCE, now=1.0, admitted_at=0.0, probe=False, pause=60.0)
    >>> gate.opens_at(2.0)
    61.0
    >>> gate.admit(61.0)
    True
    >>> gate.record_verdict(Verdict.ACCEPTED, now=62.0, admitted_at=61.0, probe=True, pause=60.0)
    >>> gate.opens_at(62.0)
    62.0
    """

    #: A counter that changes when permits that were granted before must not be used any more.
    epoch: int = attrs.field(default=0, init=False)
    #: The verdict that keeps the gate closed until a probe succeeds: MAINTENANCE, ACCOUNT or None.
    barrier: Verdict | None = attrs.field(default=None, init=False)
    #: The instant since which the service is known to be under maintenance; None if it is not.
    maintenance_since: float | None = attrs.field(default=None, init=False)
    _closed_until: float = attrs.field(default=float("-inf"), init=False)
    _opened_at: float = attrs.field(default=float("-inf"), init=False)
    _probe_at: float = attrs.field(default=float("-inf"), init=False)
    _probing: bool = attrs.field(default=False, init=False)

    def opens_at(self, now: float) -> float | None:
        """
        Return the earliest instant, not before *now*, at which a request may be sent; None while a probe is under way.
        """
        if self.barrier is None:
            return max(now, self._closed_until)
        return None if self._probing else max(now, self._probe_at, self._closed_until)

    def admit(self, now: float) -> bool:
        """
        Let one request through at the instant *now*.

        Returns:
            True if the request is a probe.

        Raises:
            ValueError: If the gate is closed; ask ``opens_at`` first.
        """
        if self.opens_at(now) != now:
            msg = "the gate is closed"
            raise ValueError(msg)
        self._probing = self.barrier is not None
        return self._probing

    def record_verdict(self, verdict: Verdict, *, now: float, admitted_at: float, probe: bool, pause: float) -> None:
        """
        Record the verdict on a request.

        Args:
            verdict: The verdict.

            now: The instant of the verdict.

            admitted_at: The instant at which the request was admitted.

            probe: The value that ``admit`` returned.

            pause: The seconds for which maintenance closes the gate.
        """
        self._probing = self._probing and not probe
        if probe and self.barrier is not None:
            self._judge_probe(verdict, now, pause)
        elif verdict in _CLOSING and admitted_at >= self._opened_at:
            # A request that was admitted before a successful probe does not close the gate again.
            self._judge_other(verdict, now, pause)

    def close_until(self, instant: float) -> None:
        """
        Keep the gate closed until *instant* at least, as the service requests (``Retry-After``).
        """
        self._closed_until = max(self._closed_until, instant)

    def shift(self, seconds: float) -> None:
        """
        Move all instants by *seconds*: the clock has been set.
        """
        self._closed_until += seconds
        self._opened_at += seconds
        self._probe_at += seconds
        if self.maintenance_since is not None:
            self.maintenance_since += seconds

    def dump(self) -> list[Any]:
        """
        Return the state as JSON values.
        """
        instants = (self.maintenance_since, self._closed_until, self._opened_at, self._probe_at)
        finite = [None if at == float("-inf") else at for at in instants]
        return [self.epoch, self.barrier, self._probing, *finite]

    def restore(self, dumped: list[Any]) -> None:
        """
        Take over the state that ``dump`` has written.
        """
        self.epoch, barrier, self._probing, self.maintenance_since, *instants = dumped
        self.barrier = None if barrier is None else Verdict(barrier)
        self._closed_until, self._opened_at, self._probe_at = [float("-inf") if at is None else at for at in instants]

    def _judge_probe(self, verdict: Verdict, now: float, pause: float) -> None:
        if verdict is Verdict.MAINTENANCE:
            # If the account closed the gate before the maintenance, the account is probed after it.
            self._close(self.barrier or verdict)
            self._begin_maintenance(now, pause)
        elif verdict is Verdict.ACCOUNT:
            self._close(verdict)
            self.maintenance_since = None
            self._probe_at = now
        elif verdict in _INCONCLUSIVE:
            self._probe_at = now if self.maintenance_since is None else now + pause
        elif self.barrier is Verdict.ACCOUNT and verdict in _SERVICE_UP:
            self.maintenance_since = None
            self._probe_at = now
        else:
            self.barrier = self.maintenance_since = None
            self._opened_at = now

    def _judge_other(self, verdict: Verdict, now: float, pause: float) -> None:
        if self.barrier is None:
            self._close(verdict)
            if verdict is Verdict.MAINTENANCE:
                self._begin_maintenance(now, pause)
            else:
                self._probe_at = now
        elif verdict is Verdict.ACCOUNT and self.barrier is Verdict.MAINTENANCE:
            self._close(verdict)  # the instant of the next probe stays

    def _begin_maintenance(self, now: float, pause: float) -> None:
        if self.maintenance_since is None:
            self.maintenance_since = now
        self._probe_at = now + pause

    def _close(self, barrier: Verdict) -> None:
        self.barrier = barrier
        self.epoch += 1
