"""One row of a table: what is known of it, and the outcome that it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from kie_async import errors
from kie_async._core.job_fields import JobFields, facts
from kie_async._core.lifecycle import ENDED
from kie_async._settings import retry_key
from kie_async.outcomes import Done, Failed, InDoubt, Skipped
from kie_async.states import JobState

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async._core.budget_ledger import Account
    from kie_async._core.lifecycle import Intent
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async.records import Generation
    from kie_async.requests.base import Request

__all__ = ["Row"]


class _Common(JobFields):
    key: str
    request: Request
    replayed: bool
    retries: int


@attrs.define(eq=False, kw_only=True)
class Row:
    """
    A row that was read.

    Attributes:
        index: Its place in the table.

        key: Its key.

        own_key: The caller's key, or None where it was made of the content.

        request: What is asked for.

        identity: What makes the request the same as another one.

        tries: How often it was made again, in this run or an earlier one.

        retries: How often in this run.

        counted_tries: Up to which of its tries they are counted: one that is begun again counts once.

        other_tries: What the journal has of it beside its job: tries that have failed, or were not accepted.

        account: What is set aside for it; None where nothing is, or another row of the same key counts.

        job: Its job, once it has one.

        begun: Whether this run has begun the job, and may withdraw it.

        withdrawn: Whether this run has asked the job's owner to send nothing.

        dropped: Whether this run waits no longer for somebody else to send it.

        looked_at: Whether its task, given up as too slow, was looked at once more.

        ahead: Whether it counts among the rows that were read and not sent.

        replayed: Whether it had ended before this run asked for it.

        failure: How its last try has failed.

        scope: What ends its way before its time.
    """

    index: int
    key: str
    request: Request
    own_key: str | None = None
    identity: str = ""
    tries: int = 0
    retries: int = 0
    counted_tries: int = 0
    other_tries: list[Intent] = attrs.field(factory=list)
    account: Account | None = None
    job: LiveJob | None = None
    begun: bool = False
    withdrawn: bool = False
    dropped: bool = False
    looked_at: bool = False
    ahead: bool = False
    replayed: bool = False
    failure: errors.KieError | None = None
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)

    @property
    def journal_key(self) -> str:
        """The key under which its present try is in the journal."""
        return retry_key(self.key, self.tries)

    @property
    def state(self) -> JobState | None:
        """The state of its job, or None where it has none."""
        return None if self.job is None else self.job.state

    @property
    def unsent(self) -> bool:
        """Whether nothing was sent that may have been accepted."""
        row = None if self.job is None else self.job.final.row
        if row is None:
            return True
        return row.state in (JobState.INTENT, JobState.CANCELLED) and not row.ambiguous_attempts

    @property
    def has_ended(self) -> bool:
        """Whether its job has come to an end that the journal knows."""
        return self.state in ENDED

    def done(self, generation: Generation, files: tuple[Path, ...]) -> Done:
        """The outcome of a row whose task has succeeded, and whose files are on disk."""
        return Done(generation=generation, files=files, **self._common(generation))

    def failed(self, error: errors.KieError, generation: Generation | None = None) -> Failed:
        """The outcome of a row without a result, or without its files."""
        # Of a thousand errors that are kept, nobody needs a thousand tracebacks through our own code.
        return Failed(error=error.with_traceback(None), generation=generation, **self._common(generation))

    def in_doubt(self, error: errors.SubmitInDoubtError) -> InDoubt:
        """The outcome of a row of which nobody can tell whether it was accepted."""
        return InDoubt(error=error, job=error.job, **self._common(None))

    def skipped(self, *, late: bool) -> Skipped:
        """The outcome of a row that was not sent, because of the deadline, or else because of the budget."""
        return Skipped(reason="stop_after" if late else "budget", key=self.key, request=self.request)

    def _common(self, generation: Generation | None) -> _Common:
        job = self.job
        record = generation.record if generation is not None else None if job is None else job.last_record()
        return {
            "key": self.key,
            "request": self.request,
            "replayed": self.replayed,
            "retries": self.retries,
            **facts(None if job is None else job.row, record),
        }
