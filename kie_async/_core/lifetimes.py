"""How long a result can be fetched, which decides whose turn it is."""

from __future__ import annotations

__all__ = ["FILE_KEPT_FOR", "URL_GOOD_FOR", "expires_at"]

#: How long the URL of a result is good for, in seconds: "typically 24 hours" (Kie's page on task details).
URL_GOOD_FOR = 86_400.0
#: How long the file behind it is kept, in seconds: 14 days, by fresh links of twenty minutes (Kie's quickstart).
FILE_KEPT_FOR = 14 * 86_400.0


def expires_at(completed_at: float | None, now: float) -> float:
    """
    The instant at which a result becomes harder to get than it is now.

    That is the end of its URL and, where the URL has expired, the end of the file: till then a fresh link can be had,
    so that such a result is in less of a hurry than one whose URL is about to expire.

    Args:
        completed_at: When the task ended, in seconds since the epoch; None if the service did not say, which means
            that it may be any moment.

        now: The wall clock, likewise.

    >>> expires_at(1000.0, now=2000.0)
    87400.0
    >>> expires_at(1000.0, now=90_000.0)
    1210600.0
    """
    if completed_at is None:
        return now
    ends_at = completed_at + URL_GOOD_FOR
    return ends_at if now < ends_at else completed_at + FILE_KEPT_FOR
