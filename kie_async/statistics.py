"""``Statistics``: what a client is doing at one instant."""

from __future__ import annotations

import attrs

__all__ = ["Statistics"]


@attrs.frozen(kw_only=True)
class Statistics:
    """
    A snapshot of a client. When all has ended, everything but the totals is zero.

    Attributes:
        jobs: Jobs that something may still happen to.

        submitting: Jobs on their way to a taskId.

        waiting_for_slot: Of these, the ones that wait for a place among the running tasks.

        waiting_for_token: Of these, the ones that wait for the rate limit.

        sending: Of these, the ones whose create may be on the wire.

        in_flight: Slots that are taken: tasks that may be running at the service.

        tokens_in_use: Creates under way.

        watched: Tasks that are looked at.

        confirming: Jobs whose callbacks are being looked into.

        waiters: Callers that wait for a job.

        loop_tasks: Tasks of the event loop that work for the client.

        polls: Looks so far: a total.

        callbacks: Callbacks with a token of ours so far: a total.

        confirmations: Looks that callbacks have caused, of all polls: a total.

        duplicate_records: Last words about tasks that had ended: a total.
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

    def __str__(self) -> str:
        """
        What is not zero.

        >>> print(Statistics(jobs=3, in_flight=2, polls=41))
        jobs=3 in_flight=2 polls=41
        """
        figures = {name: value for name, value in attrs.asdict(self).items() if value}
        return " ".join(f"{name}={value}" for name, value in figures.items()) or "idle"
