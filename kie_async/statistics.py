"""``Statistics``: a snapshot of a client; ``WorkerInfo`` and ``AccountInfo``: of those that share a journal."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kie_async.policy import Limits

__all__ = ["AccountInfo", "Statistics", "WorkerInfo"]


@attrs.frozen(kw_only=True)
class AccountInfo:
    """
    The account's limits as all clients of a journal know them.

    Attributes:
        name: The name of the account; see ``KieClient(account=…)``.

        creates: The configured number of creates in a window: the strictest of all clients'.

        window: The length of the window, in seconds.

        tokens: The number of creates in a window that the account is known to take; lower after refusals.

        tokens_in_use: The number of those that are used, or reserved.

        gate: ``"open"``, or the reason why creates wait: ``"maintenance"``, ``"account"`` (the account or the API key
            was refused) or ``"rate limited"``.

        opens_in: The time after which the next create may be sent through a gate that is not open, in seconds; None if
            that depends on a create that is being sent.
    """

    name: str
    creates: int
    window: float
    tokens: int
    tokens_in_use: int
    gate: str
    opens_in: float | None


@attrs.frozen(kw_only=True)
class WorkerInfo:
    """
    A worker: a client at work, in one process, that may share its journal and the account's limits with others.

    Attributes:
        name: Its name in the journal, which no other worker ever has.

        host: The name of its machine.

        pid: The id of its process.

        started_at: The time at which it opened the journal, in seconds since the epoch.

        heartbeat_at: The time of its latest heartbeat, in seconds since the epoch.

        watched: The number of tasks that it polls.

        in_flight: The number of slots that it has taken, for tasks that may be running at the service and for jobs that
            wait for the rate limit.

        wanting: The number of its jobs that wait for a slot or for the rate limit.

        jobs: The number of its unfinished jobs in each state.

        slots: The number of slots that it may have taken: its part of the account's.

        polls_per_second: The rate at which it may poll: its part of the account's.

        recovers: True if it has called ``recover()``, so that it takes over the jobs of workers that end.

        limits: The account's limits that it was configured with; None before its first heartbeat.
    """

    name: str
    host: str
    pid: int
    started_at: float
    heartbeat_at: float
    watched: int = 0
    in_flight: int = 0
    wanting: int = 0
    jobs: Mapping[str, int] = attrs.field(factory=dict)
    slots: int = 0
    polls_per_second: float = 0.0
    recovers: bool = False
    limits: Limits | None = None


@attrs.frozen(kw_only=True)
class Statistics:
    """
    A snapshot of a client. When all jobs have ended, everything but the totals is zero.

    Attributes:
        jobs: The number of live jobs: those that may still change.

        submitting: The number of jobs being submitted.

        waiting_for_slot: The number of jobs being submitted that wait for a slot.

        waiting_for_token: The number of jobs being submitted that wait for the rate limit.

        sending: The number of jobs being submitted whose create may be on the wire.

        in_flight: The number of slots taken: tasks that may be running at the service.

        tokens_in_use: The number of tokens leased: creates in progress.

        watched: The number of tasks that are polled.

        confirming: The number of jobs whose callbacks are being confirmed.

        waiters: The number of callers that wait for a job.

        loop_tasks: The number of tasks of the event loop that work for the client.

        polls: The total number of polls.

        callbacks: The total number of callbacks with a valid callback token.

        confirmations: The total number of polls that callbacks have caused.

        duplicate_records: The total number of terminal records of tasks that had ended before.

        other_workers: The number of other clients that share the journal on disk, at the latest heartbeat.

        in_flight_elsewhere: The number of slots that those have taken.
    """

    jobs: int = 0
    submitting: int = 0
    waiting_for_slot: int = 0
    waiting_for_token: int = 0
    sending: int = 0
    in_flight: int = 0
    tokens_in_use: int = 0
    watched: int = 0
    confirming: int = 0
    waiters: int = 0
    loop_tasks: int = 0
    polls: int = 0
    callbacks: int = 0
    confirmations: int = 0
    duplicate_records: int = 0
    other_workers: int = 0
    in_flight_elsewhere: int = 0

    def __str__(self) -> str:
        """
        Return the figures that are not zero.

        >>> print(Statistics(jobs=3, in_flight=2, polls=41))
        jobs=3 in_flight=2 polls=41
        """
        figures = {name: value for name, value in attrs.asdict(self).items() if value}
        return " ".join(f"{name}={value}" for name, value in figures.items()) or "idle"
