"""``RunSummary``: the figures of one ``KieClient.map()`` at one instant."""

from __future__ import annotations

import attrs

__all__ = ["RunSummary"]


@attrs.frozen(kw_only=True)
class RunSummary:
    """
    The figures of a run so far.

    Attributes:
        replayed: Rows that an earlier run had finished; nothing was sent for them now. They count in ``ok`` and
            ``failed``, too.

        ok: Rows that are done.

        failed: Rows without a result.

        in_doubt: Rows of which nobody can tell whether they were accepted.

        skipped: Rows for which nothing was sent, because of the budget or the deadline.

        retried: How often a failed request was made again.

        credits: What the tasks of this run have cost, as far as the service has said; replayed ones are left out.

        credits_replayed: What the replayed ones had cost.

        credits_held: What is set aside for tasks that run, and what creates in doubt may have cost.

        p50: The median of how long the service took for a task, in seconds, within 0.3 %; None before the first end.

        p95: The time within which 95 % of the tasks ended, likewise.

        created: Tasks that this run has created.

        limit: Creates that the account allows in ``window``.

        window: Length of that window, in seconds.

        used: The share of the limit that was used from the first create to the last, 0 to 1: 1 if nobody could have
            made as many creates in less time. 0 before the first.

        seconds: How long the run has taken so far.
    """

    replayed: int = 0
    ok: int = 0
    failed: int = 0
    in_doubt: int = 0
    skipped: int = 0
    retried: int = 0
    credits: float = 0.0
    credits_replayed: float = 0.0
    credits_held: float = 0.0
    p50: float | None = None
    p95: float | None = None
    created: int = 0
    limit: int = 0
    window: float = 0.0
    used: float = 0.0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """How many outcomes there were."""
        return self.ok + self.failed + self.in_doubt + self.skipped

    def __str__(self) -> str:
        """
        One line for people.

        >>> print(RunSummary(replayed=3, ok=8, failed=1, credits=400.0, p50=61.2, p95=80.0, created=6, used=0.98))
        3 replayed, 8 ok, 1 failed, 0 in doubt; 400 credits; p50 61 s, p95 80 s; 6 created at 98 % of the limit
        """
        parts = [f"{self.replayed} replayed", f"{self.ok} ok", f"{self.failed} failed", f"{self.in_doubt} in doubt"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped")
        if self.retried:
            parts.append(f"{self.retried} retried")
        held = f" (and {self.credits_held:g} held)" if self.credits_held else ""
        times = "" if self.p50 is None or self.p95 is None else f"; p50 {self.p50:.0f} s, p95 {self.p95:.0f} s"
        return (
            f"{', '.join(parts)}; {self.credits:g} credits{held}{times};"
            f" {self.created} created at {self.used:.0%} of the limit".replace("%", " %")
        )
