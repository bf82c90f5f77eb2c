"""The state of the account in PostgreSQL: read with the server's clock, changed, and written unless it has changed."""

# ruff: noqa: S608  (all names in the statements are ours; values are bound)

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from kie_async._core.shared_clock import SharedClock
from kie_async._io.journals.journal import AccountChange
from kie_async._io.journals.postgres_schema import retryable
from kie_async._io.journals.postgres_tables import LAZY, Query
from kie_async.errors import JournalError

__all__ = ["AccountWriter"]

_T = TypeVar("_T")

#: The attempts to write a change while other workers are faster.
MOST_ATTEMPTS = 50
_OF_ACCOUNT = "origin = %(own_origin)s AND name = %(own_account_name)s"
_READ = (
    "SELECT extract(epoch FROM clock_timestamp())::double precision, version, clock_steps, state, epoch"
    f" FROM (SELECT) AS one LEFT JOIN kie.accounts ON {_OF_ACCOUNT}"
)
# The commit that follows, of the create that uses the lease, is flushed with everything before it.
_INSERT = (
    f"{LAZY} INSERT INTO kie.accounts SELECT %(own_origin)s, %(own_account_name)s, 1, %(epoch)s, %(steps)s, %(state)s"
    " FROM lazy ON CONFLICT DO NOTHING RETURNING version"
)
_UPDATE = (
    f"{LAZY} UPDATE kie.accounts SET version = version + 1, epoch = %(epoch)s, clock_steps = %(steps)s,"
    f" state = %(state)s FROM lazy WHERE {_OF_ACCOUNT} AND version = %(version)s RETURNING version"
)


class AccountWriter(Generic[_T]):
    """
    One change of the account's state; see ``Journal.change_account``.

    No lock is held while our code decides: a worker that stops there stops no other.

    Args:
        change: Decides what to write.

        clock: What is known of the server's clock; None if the shared time is *own_time*.

        own_time: Returns a time of this machine that is never set.

        loop_time: Returns the time of the event loop.
    """

    def __init__(
        self,
        change: Callable[[str | None, float], tuple[str | None, int, _T]],
        *,
        clock: SharedClock | None,
        own_time: Callable[[], float],
        loop_time: Callable[[], float],
    ) -> None:
        self._change = change
        self._clock = clock
        self._own_time = own_time
        self._loop_time = loop_time
        #: The version and the text that were being written when the connection was lost, and the result.
        self._unanswered: tuple[int, str | None, AccountChange[_T]] | None = None

    def run(self) -> Query[AccountChange[_T]]:
        """Read, decide and write; again while other workers are faster."""
        for _ in range(MOST_ATTEMPTS):
            earliest, before = self._loop_time(), self._own_time()
            rows = yield _READ, {}
            after, latest = self._own_time(), self._loop_time()
            time, version, old_steps, state, old_epoch = rows[0]
            if self._unanswered is not None and (version, state) == self._unanswered[:2]:
                return self._kept(self._unanswered[2])
            now, steps = time, old_steps or 0.0
            if self._clock is None:
                now = before
            else:
                now, steps = self._clock.read(time, steps=steps, before=before, after=after)
            text, epoch, result = self._change(state, now)
            changed = AccountChange(result, now, earliest, latest)
            if text is None and (version is None or steps == old_steps):
                return self._kept(changed)
            written, written_epoch = (state, old_epoch) if text is None else (text, epoch)
            self._unanswered = (version or 0) + 1, written, changed
            values = {"version": version, "epoch": written_epoch, "steps": steps, "state": written}
            if (yield _INSERT if version is None else _UPDATE, values):
                return self._kept(changed)
            self._unanswered = None
        msg = f"The account's state could not be written in {MOST_ATTEMPTS} attempts: other workers were faster."
        raise retryable(JournalError(msg))

    def _kept(self, changed: AccountChange[_T]) -> AccountChange[_T]:
        if self._clock is not None:
            self._clock.keep()
        return changed
