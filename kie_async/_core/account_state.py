"""
``AccountState``: what all workers of an account share: the window, the gate, and who wants tokens.

The state is one value. A worker reads it, changes it by ``exchange`` and writes it unless another worker has written
meanwhile; the journal does that. All instants are of one clock, the shared time, which the journal provides. The leases
of a worker that says nothing more expire, so nothing else needs to be known about workers that have ended. The reasons
are in ``docs/explanation/limits.md``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import attrs

from kie_async._core.adaptive_bucket import MAX_LEASES, AdaptiveBucket
from kie_async._core.gate import Gate
from kie_async._core.token_buckets import UNANSWERED_TRAVEL, TokenLease
from kie_async._core.verdicts import Verdict
from kie_async.statistics import AccountInfo

__all__ = ["LEASE", "AccountState", "AccountView", "LeaseReport", "SharedLimits", "report_within"]

#: The seconds for which a token lease is good without word from its worker; a second more, and the request counts.
LEASE = 8.0
TRAVEL_TIME = 1.0
#: The time by which a lease may begin later than now, in windows, and in seconds at most: a reservation.
_HORIZON = 0.1
_LONGEST_HORIZON = 1.0
#: The seconds for which a free token is left to the workers that have had fewer, in windows, and at most.
_GRACE = 0.03
_LONGEST_GRACE = 0.3
#: The round trip that is expected of creates that are not answered yet, in windows, and in seconds at most.
_ROUND_TRIP = 0.03
_LONGEST_ROUND_TRIP = 0.3
#: The time within which the end of a lease is reported, in windows, and in seconds at most: it matters a window later.
_REPORT_WITHIN = 0.5
_LONGEST_REPORT_WITHIN = 5.0
#: The seconds after which a worker that has said nothing does not want tokens any more, and those after which its
#: limits do not count any more.
WANTS_FOR = 10.0
KNOWN_FOR = 30.0
#: The free tokens that are enough for the other workers until unused leases are returned.
PLENTY = 100
#: The verdicts that say that the API key is good.
_KEY_VERDICTS: Mapping[Verdict, Verdict] = dict.fromkeys(
    (Verdict.ACCEPTED, Verdict.REJECTED, Verdict.ACCOUNT), Verdict.ACCEPTED
)
#: More changes than other workers can have made since this one's last exchange.
_MISSED = 1000
#: The first field of the text.
_FORMAT = 1


def report_within(window: float) -> float:
    """Return the seconds within which the end of a lease is reported."""
    return min(_REPORT_WITHIN * window, _LONGEST_REPORT_WITHIN)


class SharedLimits(NamedTuple):
    """
    The limit on creates that a worker is configured with.

    Attributes:
        creates: The number of creates in a window.

        window: The window's length, in seconds.
    """

    creates: int
    window: float

    @property
    def strictness(self) -> tuple[float, int]:
        """A value that is lower for a stricter limit."""
        return (self.creates / self.window, self.creates)


@attrs.frozen(kw_only=True)
class LeaseReport:
    """
    The end of a token lease, or the news that its request was counted.

    Attributes:
        number: The lease's number; None for an answer that needed no lease.

        at: The instant of the end, or that by which the service has counted the request.

        verdict: The verdict; None if the request was counted, and is not answered yet.

        pause: The seconds for which maintenance closes the gate.

        closed_for: The value of ``Retry-After``, in seconds; None without one.

        error: The refusal by the account as text, for the callers of all workers.

        key: The fingerprint of the API key.

        refuses_key: True if the refusal concerns the API key and not the account.
    """

    number: int | None
    at: float
    verdict: Verdict | None = None
    pause: float = 0.0
    closed_for: float | None = None
    error: str | None = None
    key: str = ""
    refuses_key: bool = False


class AccountView(NamedTuple):
    """
    A worker's view of the state after an exchange.

    Attributes:
        leases: The new leases.

        next_at: The instant at which another exchange may give leases, if some are wanted; None if that depends on the
            answers to the worker's own requests.

        epoch: The number of times at which leases that were given before became invalid, except for probes.

        paused_by: The refusal by the account, or of the API key, that keeps the gate closed, as text; or None.

        paused_at: The instant of that refusal.

        maintenance_since: The instant since which the service is known to be under maintenance; None if it is not.

        refused_since: The instant since which all requests have been refused by the rate limit, or None.

        is_full: True if no lease can begin until another one ends.

        limits: The limits in force: the strictest of all workers'.

        stricter_worker: The worker whose limits are in force, if they are not the own ones; or None.
    """

    leases: Sequence[TokenLease]
    next_at: float | None
    epoch: int
    paused_by: str | None
    paused_at: float
    maintenance_since: float | None
    refused_since: float | None
    is_full: bool
    limits: SharedLimits
    stricter_worker: str | None


@attrs.define
class _Worker:
    """
    A worker as the state knows it.

    Attributes:
        wanted: The number of leases that it wants, besides those that it has.

        served: The number of leases that it has had, on the scale of those that want leases at the same time.

        seen_at: The instant of its last exchange.

        limits: Its limits.

        left_since: The instant since which a free token is left for it; None if none is, or since its last exchange.
    """

    wanted: int
    served: int
    seen_at: float
    limits: SharedLimits
    left_since: float | None = None

    def is_late(self, now: float, grace: float) -> bool:
        """Return True if a token was left for it for *grace* seconds: others may have it."""
        return self.left_since is not None and self.left_since + grace <= now


class AccountState:
    """
    The state of an account, as the journal keeps it.

    Args:
        limits: The limits of the first worker.

    >>> state = AccountState(SharedLimits(2, 10.0))
    >>> first = state.exchange("a", 0.0, limits=SharedLimits(2, 10.0), wanted=3)
    >>> [lease.number for lease in first.leases], first.next_at
    ([1, 2], 9.3)
    >>> ends = [LeaseReport(number=number, at=0.5, verdict=Verdict.ACCEPTED) for number in (1, 2)]
    >>> state.exchange("a", 0.5, limits=SharedLimits(2, 10.0), reports=ends, wanted=1).next_at
    9.5
    """

    def __init__(self, limits: SharedLimits) -> None:
        self.bucket: AdaptiveBucket = AdaptiveBucket(limits.creates, limits.window)
        self.gate: Gate = Gate()
        #: The gates of API keys that were refused, by the keys' fingerprints.
        self.key_gates: dict[str, Gate] = {}
        #: The last refusal by the account (by the empty name), and of each API key: its text and its instant.
        self._refusals: dict[str, tuple[str, float]] = {}
        self._workers: dict[str, _Worker] = {}
        self._changed_at = 0.0
        self._epoch = 0
        #: The number of exchanges, by which an older text is recognized after the journal has gone back in time.
        self.changes: int = 0

    # -- text -------------------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """Return the state as text."""
        workers = {name: attrs.astuple(worker) for name, worker in self._workers.items()}
        gates = {name: gate.dump() for name, gate in self.key_gates.items()}
        parts = [
            _FORMAT,
            self.changes,
            self._changed_at,
            self._epoch,
            self.bucket.dump(),
            self.gate.dump(),
            gates,
            self._refusals,
        ]
        return json.dumps([*parts, workers], separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> AccountState:
        """
        Return the state of a text.

        Raises:
            ValueError: If a newer version of the package has written it.
        """
        version, *parts = json.loads(text)
        if version != _FORMAT:
            msg = f"the account's state has format {version}, and this version of kie_async knows {_FORMAT}"
            raise ValueError(msg)
        state = cls(SharedLimits(1, 1.0))
        state.restore(parts)
        return state

    def restore(self, dumped: list[Any]) -> None:
        """Take over the parts of a text."""
        self.changes, self._changed_at, self._epoch, bucket, gate, gates, refusals, workers = dumped
        self._refusals = {name: (text, at) for name, (text, at) in refusals.items()}
        self.bucket.restore(bucket)
        self.gate.restore(gate)
        for name, values in gates.items():
            self.key_gates[name] = Gate()
            self.key_gates[name].restore(values)
        for name, (wanted, served, seen_at, limits, left_since) in workers.items():
            self._workers[name] = _Worker(wanted, served, seen_at, SharedLimits(*limits), left_since)

    @property
    def epoch(self) -> int:
        """The number of times at which leases that were given before became invalid, except for probes."""
        return self._epoch

    # -- the exchange -----------------------------------------------------------------------------------------------

    def exchange(
        self,
        worker: str,
        now: float,
        *,
        limits: SharedLimits,
        reports: Sequence[LeaseReport] = (),
        held: Collection[int] | None = None,
        wanted: int = 0,
        spare: int = 0,
        key: str = "",
    ) -> AccountView:
        """
        Take a worker's reports, and give it leases in turn with the others.

        Args:
            worker: The worker's name.

            now: The shared time.

            limits: The limits that the worker is configured with.

            reports: What became of its leases.

            held: The numbers of the leases that it still has, which are renewed; all others of it end unused. None if
                it renews all.

            wanted: The number of leases that it wants.

            spare: The number of leases that it takes in advance if no other worker wants any, and ``PLENTY`` stay free.

            key: The fingerprint of its API key.

        Returns:
            The leases, and the state as the worker needs to know it.
        """
        self.changes += 1
        self._keep_time(now)
        own = self._find_worker(worker, now, limits, wanted)
        stricter = self._configure(worker)
        for report in reports:
            # No clock of a worker is believed beyond now; a create without an answer may count a little later.
            latest = now + UNANSWERED_TRAVEL if report.verdict is None else now
            self._apply(report if report.at <= latest else attrs.evolve(report, at=latest), worker)
        self._expire(now)
        for lease in self.bucket.leases:
            if lease.worker != worker:
                continue
            if held is None or lease.number in held:
                lease.expires_at = max(now, lease.leased_at) + LEASE + TRAVEL_TIME
            else:
                self._end_lease(lease, LeaseReport(number=lease.number, at=now, verdict=Verdict.UNSENT, key=key))
        leases, next_at = self._lease(worker, own, now, wanted, spare, key)
        own.wanted = max(0, wanted - len(leases))
        return self._view(leases, next_at, key, None if stricter == worker else stricter)

    def exchange_alone(self, now: float, *, reports: Sequence[LeaseReport], wanted: int, key: str) -> AccountView:
        """
        Take the reports of the only worker that can share the state, and give it the leases that are free now.

        Its leases do not expire, and nothing is reserved; the arguments and the result are those of ``exchange``.
        """
        self._keep_time(now)
        for report in reports:
            self._apply(report, "")
        leases, next_at = list[TokenLease](), None
        while len(leases) < wanted:
            gate_at = self._opens_at(now, key)
            found = self.bucket.lease_if_ready(now, now) if gate_at == now else self.bucket.ready_at(now)
            if not isinstance(found, TokenLease):
                next_at = None if found is None or gate_at is None else max(found, gate_at)
                break
            self._admit(found, now, key)
            leases.append(found)
        return self._view(leases, next_at, key, None)

    def _view(
        self, leases: Sequence[TokenLease], next_at: float | None, key: str, stricter_worker: str | None
    ) -> AccountView:
        paused_by, paused_at = self._paused_by(key)
        return AccountView(
            leases,
            next_at,
            self._epoch,
            paused_by,
            paused_at,
            self.gate.maintenance_since,
            self.bucket.refused_since,
            self.bucket.leased >= MAX_LEASES,
            SharedLimits(self.bucket.limit, self.bucket.window),
            stricter_worker,
        )

    @classmethod
    def latest(cls, text: str | None, known: tuple[int, str] | None) -> AccountState | None:
        """
        Return the state of the text in the journal, or of a known one that is later: then the journal has gone back.

        Other workers may know a slightly later one still. They take the text of the first worker for the latest: its
        number of changes is raised.

        Args:
            text: The text in the journal, or None.

            known: The number of changes and the text that this worker has last written, or None.
        """
        state = None if text is None else cls.load(text)
        if known is not None and (state is None or state.changes < known[0]):
            state = cls.load(known[1])
            state.changes += _MISSED
        return state

    def leases_of(self, worker: str) -> set[int]:
        """Return the numbers of a worker's leases."""
        return {lease.number for lease in self.bucket.leases if lease.worker == worker}

    def leave(self, worker: str) -> None:
        """Forget a worker that ends."""
        self._workers.pop(worker, None)

    def info(self, name: str, now: float, key: str) -> AccountInfo:
        """Return the figures of the account for people, as a worker with an API key sees them."""
        self._keep_time(now)
        self._expire(now)
        opens_at = self._opens_at(now, key)
        barriers = {gate.barrier for gate in (self.gate, self.key_gates.get(key)) if gate is not None} - {None}
        closed = "open" if opens_at == now else "rate limited"
        return AccountInfo(
            name=name,
            creates=self.bucket.limit,
            window=self.bucket.window,
            tokens=self.bucket.tokens,
            tokens_in_use=self.bucket.held(now),
            gate="account" if Verdict.ACCOUNT in barriers else "maintenance" if barriers else closed,
            opens_in=None if opens_at is None else opens_at - now,
        )

    # -- workers ----------------------------------------------------------------------------------------------------

    def _keep_time(self, now: float) -> None:
        """Shift all instants if the clock has started anew: the time in between is not known, so it counts as none."""
        if now < self._changed_at:
            seconds = now - self._changed_at
            self.bucket.shift(seconds)
            for gate in (self.gate, *self.key_gates.values()):
                gate.shift(seconds)
            for known in self._workers.values():
                known.seen_at += seconds
                known.left_since = None
            self._refusals = {name: (text, at + seconds) for name, (text, at) in self._refusals.items()}
        self._changed_at = now

    def _find_worker(self, name: str, now: float, limits: SharedLimits, wanted: int) -> _Worker:
        self._workers = {other: known for other, known in self._workers.items() if known.seen_at + KNOWN_FOR > now}
        others = [known.served for other, known in self._workers.items() if other != name and self._wants(known, now)]
        own = self._workers.setdefault(name, _Worker(0, 0, now, limits))
        if wanted and not self._wants(own, now):
            # A worker that begins to want leases is not owed those of the past.
            own.served = max([own.served, min(others)]) if others else 0
        own.seen_at, own.limits, own.wanted, own.left_since = now, limits, wanted, None
        return own

    def _wants(self, worker: _Worker, now: float) -> bool:
        return worker.wanted > 0 and worker.seen_at + WANTS_FOR > now

    def _configure(self, worker: str) -> str:
        """Put the strictest limits in force, and return the worker that has them; of equal ones, this worker."""
        strictest = min(self._workers, key=lambda name: (self._workers[name].limits.strictness, name != worker))
        limits = self._workers[strictest].limits
        self.bucket.configure(limits.creates, limits.window)
        return strictest

    # -- reports ----------------------------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        """End the leases of which their workers have said nothing for too long: the requests count."""
        for lease in self.bucket.leases:
            if lease.expires_at <= now:
                self._end_lease(lease, LeaseReport(number=lease.number, at=lease.expires_at, verdict=Verdict.IN_DOUBT))

    def _apply(self, report: LeaseReport, worker: str) -> None:
        lease = None if report.number is None else self.bucket.find_lease(report.number)
        # A database that has gone back gives numbers again: the lease may be another worker's.
        if lease is not None and lease.worker == worker:
            if report.verdict is None:
                self.bucket.count_lease(lease.number, report.at)
            else:
                self._end_lease(lease, report)
        elif report.verdict is not None:  # without a lease, or it has expired, and its request was counted
            self._judge(report, admitted_at=report.at, probe=False)

    def _end_lease(self, lease: TokenLease, report: LeaseReport) -> None:
        if report.verdict is Verdict.UNSENT:
            self.bucket.cancel_lease(lease)
            if (known := self._workers.get(lease.worker)) is not None:
                known.served -= 1
        elif report.verdict is Verdict.RATE_LIMITED:
            self.bucket.expire_token(lease, now=report.at)
        else:
            # Any other answer has passed the rate limit.
            passed = report.verdict is not Verdict.IN_DOUBT
            self.bucket.consume_token(lease, answered_at=report.at, passed=passed)
        self._judge(report, admitted_at=lease.leased_at, probe=lease.gate_probe)

    def _judge(self, report: LeaseReport, *, admitted_at: float, probe: bool) -> None:
        """Tell the gates a verdict."""
        verdict = report.verdict or Verdict.IN_DOUBT
        if report.refuses_key:
            self.key_gates.setdefault(report.key, Gate())
        of_account, of_key = verdict, _KEY_VERDICTS.get(verdict, Verdict.IN_DOUBT)
        if report.refuses_key:
            of_account, of_key = Verdict.IN_DOUBT, verdict
        gates = [(self.gate, of_account, "")]
        # A lease that has expired tells no key: if it was a probe, it may have been that of any of them.
        keys = self.key_gates if probe and not report.key else self.key_gates.keys() & {report.key}
        gates += [(self.key_gates[name], of_key, name) for name in keys]
        for gate, judged, name in gates:
            epoch = gate.epoch
            gate.record_verdict(judged, now=report.at, admitted_at=admitted_at, probe=probe, pause=report.pause)
            if gate.epoch != epoch:
                self._epoch += 1
                self._refusals[name] = (report.error or "", report.at)
        if verdict is Verdict.RATE_LIMITED and report.closed_for is not None:
            self.gate.close_until(report.at + report.closed_for)

    # -- leases -----------------------------------------------------------------------------------------------------

    def _paused_by(self, key: str) -> tuple[str | None, float]:
        """Return the refusal by the account, or of the API key, that keeps a gate closed, or None; and its instant."""
        for name, gate in (("", self.gate), (key, self.key_gates.get(key))):
            if gate is not None and gate.barrier is Verdict.ACCOUNT and name in self._refusals:
                return self._refusals[name]
        return None, 0.0

    def _opens_at(self, now: float, key: str) -> float | None:
        opens_at = self.gate.opens_at(now)
        if opens_at is None or key not in self.key_gates:
            return opens_at
        key_opens_at = self.key_gates[key].opens_at(now)
        return None if key_opens_at is None else max(opens_at, key_opens_at)

    def _lease(
        self, name: str, own: _Worker, now: float, wanted: int, spare: int, key: str
    ) -> tuple[list[TokenLease], float | None]:
        """Return new leases, and the instant at which to ask again."""
        bucket, leases = self.bucket, list[TokenLease]()
        span = bucket.learned_window
        horizon = min(_HORIZON * span, _LONGEST_HORIZON)
        grace = min(_GRACE * span, _LONGEST_GRACE)
        others = {other: known for other, known in self._workers.items() if other != name and self._wants(known, now)}
        while len(leases) < wanted:
            gate_at, token_at = self._opens_at(now, key), bucket.ready_at(now)
            if gate_at is None:
                return leases, now + horizon
            if gate_at > now:
                return leases, gate_at
            if token_at is None or token_at > now + horizon:
                break
            first = [known for known in others.values() if known.served < own.served and not known.is_late(now, grace)]
            if first and not self._unclaimed(others, now):
                for known in first:
                    known.left_since = token_at if known.left_since is None else known.left_since
                break
            leases.append(self._give(name, own, now, horizon, key))
        if len(leases) == wanted:
            if leases and not others:
                leases += self._take_spare(name, own, now, spare, key)
            return leases, None
        return leases, self._turn(name, own, others, now, horizon, grace)

    def _take_spare(self, name: str, own: _Worker, now: float, spare: int, key: str) -> list[TokenLease]:
        """Return leases in advance, if tokens are plentiful and no gate is closed."""
        bucket, leases = self.bucket, list[TokenLease]()
        closed = any(gate is not None and gate.barrier for gate in (self.gate, self.key_gates.get(key)))
        free = 0 if closed else min(spare, bucket.tokens - bucket.held(now) - PLENTY)
        while len(leases) < free and self._opens_at(now, key) == now == bucket.ready_at(now):
            leases.append(self._give(name, own, now, 0.0, key))
        return leases

    def _unclaimed(self, others: Mapping[str, _Worker], now: float) -> bool:
        """Return True if there are tokens enough for all that want some."""
        free = self.bucket.tokens - self.bucket.held(now)
        return free > sum(other.wanted for other in others.values())

    def _give(self, name: str, own: _Worker, now: float, horizon: float, key: str) -> TokenLease:
        lease = self.bucket.lease_token(now, horizon=horizon)
        lease.worker, lease.expires_at = name, lease.leased_at + LEASE + TRAVEL_TIME
        self._admit(lease, now, key)
        own.served += 1
        return lease

    def _admit(self, lease: TokenLease, now: float, key: str) -> None:
        """Let the request of a lease through the gates, which are open or let a probe through."""
        lease.gate_probe = self.gate.admit(now)
        if (key_gate := self.key_gates.get(key)) is not None:
            lease.gate_probe = key_gate.admit(now) or lease.gate_probe

    def _turn(
        self, name: str, own: _Worker, others: Mapping[str, _Worker], now: float, horizon: float, grace: float
    ) -> float:
        """Return the instant at which a worker is expected to get its next lease."""
        span = self.bucket.learned_window
        # Those that have had fewer leases are first; of those that have had as many, by name.
        ahead = sum(
            min(known.wanted, max(own.served - known.served, known.served == own.served and other < name))
            for other, known in others.items()
            if known.served <= own.served and not known.is_late(now, grace)
        )
        round_trip = min(_ROUND_TRIP * span, _LONGEST_ROUND_TRIP)
        due_at = self.bucket.expected_at(now, ahead, round_trip, report_within(span) + round_trip)
        early = horizon / 2 if ahead else horizon  # those that are first have come by then
        return next(at for at in (due_at - early, due_at, due_at + grace, now + grace) if at > now)
