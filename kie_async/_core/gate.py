"""
Whether the next create may go at all, whatever the tokens say: one gate for the whole client.

Three answers of the service close it. A 429 closes it for a pause, once for all requests that were under way. A 455
(maintenance) closes it until a probe is not answered by 455; there is one probe a pause. An account verdict (401, 402,
433) closes it until a create that was asked for later succeeds; such a create is the probe, one at a time.
"""

from __future__ import annotations

import attrs

from kie_async._core.verdicts import Verdict

__all__ = ["Gate"]

# A probe that ends like this has said nothing about what closed the gate.
_SILENT = frozenset({Verdict.UNSENT, Verdict.IN_DOUBT})


@attrs.define
class Gate:
    """
    Open, or closed by the last refusal.

    Instants are the loop's. ``enter`` and ``leave`` enclose every request.

    >>> gate = Gate()
    >>> gate.enter(0.0)
    False
    >>> gate.leave(Verdict.MAINTENANCE, now=1.0, entered_at=0.0, probe=False, pause=60.0)
    >>> gate.ready_at(2.0)
    61.0
    >>> gate.enter(61.0)
    True
    >>> gate.leave(Verdict.ACCEPTED, now=62.0, entered_at=61.0, probe=True, pause=60.0)
    >>> gate.ready_at(62.0)
    62.0
    """

    #: Rounds of 429 since the last success: how often in a row the gate has closed for a pause.
    refusals: int = attrs.field(default=0, init=False)
    #: Moves when what was granted before must not be sent any more.
    epoch: int = attrs.field(default=0, init=False)
    #: What holds it closed until a probe succeeds: MAINTENANCE, ACCOUNT or None.
    barrier: Verdict | None = attrs.field(default=None, init=False)
    #: Since when it has been closed by ``barrier``.
    since: float = attrs.field(default=0.0, init=False)
    _closed_at: float = attrs.field(default=float("-inf"), init=False)
    _closed_until: float = attrs.field(default=float("-inf"), init=False)
    _probe_at: float = attrs.field(default=float("-inf"), init=False)
    _probing: bool = attrs.field(default=False, init=False)

    def ready_at(self, now: float) -> float | None:
        """
        The earliest instant, not before *now*, at which a request may go; None while a probe is under way.
        """
        if self.barrier is None:
            return max(now, self._closed_until)
        return None if self._probing else max(now, self._probe_at, self._closed_until)

    def enter(self, now: float) -> bool:
        """
        Let one request go at the instant *now*; returns whether it is a probe.

        Raises:
            ValueError: If the gate is closed; ask ``ready_at`` first.
        """
        if self.ready_at(now) != now:
            msg = "the gate is closed"
            raise ValueError(msg)
        self._probing = self.barrier is not None
        return self._probing

    def leave(self, verdict: Verdict, *, now: float, entered_at: float, probe: bool, pause: float) -> None:
        """
        Say how a request ended.

        Args:
            verdict: What became of it.

            now: When.

            entered_at: When it entered.

            probe: What ``enter`` returned.

            pause: For how long, in seconds, this verdict closes the gate, if it does.
        """
        if probe:
            self._probing = False
        if verdict is Verdict.RATE_LIMITED:
            # Of a burst that is refused, only the first refusal counts: the others were under way already.
            if entered_at > self._closed_at:
                self.refusals += 1
                self._closed_at = now
                self._closed_until = max(self._closed_until, now + pause)
        elif verdict is Verdict.ACCEPTED and entered_at > self._closed_at:
            self.refusals = 0

        if verdict in (Verdict.MAINTENANCE, Verdict.ACCOUNT):
            if probe or self.barrier is None or (verdict is Verdict.ACCOUNT and self.barrier is Verdict.MAINTENANCE):
                self._close(verdict, now, pause)
        elif probe and self.barrier is not None:
            if verdict in _SILENT or self._still_paused(verdict):
                self._probe_at = now + pause if self.barrier is Verdict.MAINTENANCE else now
            else:
                self.barrier = None

    def hold(self, until: float) -> None:
        """
        Keep the gate closed until the instant *until* at least: the service has asked for it (``Retry-After``).
        """
        self._closed_until = max(self._closed_until, until)

    def _still_paused(self, verdict: Verdict) -> bool:
        # The rate limit and an unclear 500 say that the service is up; they do not say that the account is good again.
        return self.barrier is Verdict.ACCOUNT and verdict in (Verdict.RATE_LIMITED, Verdict.SUSPECT)

    def _close(self, verdict: Verdict, now: float, pause: float) -> None:
        if self.barrier is not verdict:
            self.since = now
        self.barrier = verdict
        self.epoch += 1
        self._probe_at = now + pause if verdict is Verdict.MAINTENANCE else now
