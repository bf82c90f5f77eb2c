"""
Whether the next create may go at all, whatever the tokens say: one gate for the whole client.

Two answers of the service close it. A 455 (maintenance) closes it until a probe is not answered by 455; there is one
probe a pause. An account verdict (401, 402, 433) closes it until a create that was asked for later succeeds; such a
create is the probe, one at a time. A 429 costs a token and closes nothing, unless it names a time (``Retry-After``).
"""

from __future__ import annotations

import attrs

from kie_async._core.verdicts import Verdict

__all__ = ["Gate"]

#: What closes the gate until a probe is not answered like that.
_CLOSING = frozenset({Verdict.MAINTENANCE, Verdict.ACCOUNT})
#: A probe that ends like this has said nothing about what closed the gate.
_SILENT = frozenset({Verdict.UNSENT, Verdict.IN_DOUBT})
#: The service is up, and has not said that the account is good again.
_UP = frozenset({Verdict.RATE_LIMITED, Verdict.AMBIGUOUS})


@attrs.define
class Gate:
    """
    Open, or closed by the last refusal.

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

    #: Moves when what was granted before must not be sent any more.
    epoch: int = attrs.field(default=0, init=False)
    #: What holds it closed until a probe succeeds: MAINTENANCE, ACCOUNT or None.
    barrier: Verdict | None = attrs.field(default=None, init=False)
    #: Since when the service has been under maintenance, as far as it is known; None if it is not.
    maintenance_since: float | None = attrs.field(default=None, init=False)
    _closed_until: float = attrs.field(default=float("-inf"), init=False)
    _opened_at: float = attrs.field(default=float("-inf"), init=False)
    _probe_at: float = attrs.field(default=float("-inf"), init=False)
    _probing: bool = attrs.field(default=False, init=False)

    def opens_at(self, now: float) -> float | None:
        """
        The earliest instant, not before *now*, at which a request may go; None while a probe is under way.
        """
        if self.barrier is None:
            return max(now, self._closed_until)
        return None if self._probing else max(now, self._probe_at, self._closed_until)

    def admit(self, now: float) -> bool:
        """
        Let one request go at the instant *now*; returns whether it is a probe.

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
        Say how a request ended.

        Args:
            verdict: What became of it.

            now: When.

            admitted_at: When it entered.

            probe: What ``admit`` returned.

            pause: For how long, in seconds, maintenance closes the gate.
        """
        if probe:
            self._probing = False
        if probe and self.barrier is not None:
            self._judge_probe(verdict, now, pause)
        elif verdict in _CLOSING and admitted_at >= self._opened_at:
            # A straggler of the burst that a probe has made obsolete does not close the gate again.
            self._judge_other(verdict, now, pause)

    def close_until(self, until: float) -> None:
        """
        Keep the gate closed until the instant *until* at least: the service has asked for it (``Retry-After``).
        """
        self._closed_until = max(self._closed_until, until)

    def _judge_probe(self, verdict: Verdict, now: float, pause: float) -> None:
        if verdict is Verdict.MAINTENANCE:
            # Under an account verdict the service has gone under maintenance, too: the account is tried again after it.
            self._close(self.barrier or verdict)
            self._under_maintenance(now, pause)
        elif verdict is Verdict.ACCOUNT:
            self._close(verdict)
            self.maintenance_since = None
            self._probe_at = now
        elif verdict in _SILENT:
            self._probe_at = now if self.maintenance_since is None else now + pause
        elif self.barrier is Verdict.ACCOUNT and verdict in _UP:
            self.maintenance_since = None
            self._probe_at = now
        else:
            self.barrier = self.maintenance_since = None
            self._opened_at = now

    def _judge_other(self, verdict: Verdict, now: float, pause: float) -> None:
        if self.barrier is None:
            self._close(verdict)
            if verdict is Verdict.MAINTENANCE:
                self._under_maintenance(now, pause)
            else:
                self._probe_at = now
        elif verdict is Verdict.ACCOUNT and self.barrier is Verdict.MAINTENANCE:
            self._close(verdict)  # and the next probe is no earlier than it was

    def _under_maintenance(self, now: float, pause: float) -> None:
        if self.maintenance_since is None:
            self.maintenance_since = now
        self._probe_at = now + pause

    def _close(self, barrier: Verdict) -> None:
        self.barrier = barrier
        self.epoch += 1
