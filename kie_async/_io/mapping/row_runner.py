"""
The way of each row from its job to its outcome: result, files, retries and errors.

Each row that has a job is followed in its own child task of the client's supervisor.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._io.files.part_files import find_saved
from kie_async._io.jobs.live_job import StopReason
from kie_async._io.mapping.run_state import RunPhase
from kie_async._io.mapping.shared_rows import HeldElsewhereError
from kie_async._io.submitting.intake import ImageChangedError
from kie_async._keys import own_key
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.budgeting import Budgeting
    from kie_async._io.mapping.row_jobs import RowJobs
    from kie_async._io.mapping.rows import Row, RowKeys
    from kie_async._io.mapping.run_state import RunState
    from kie_async._io.mapping.shared_rows import SharedRows
    from kie_async._io.runtime import Supervisor
    from kie_async._io.submitting.submission import Submitter
    from kie_async.outcomes import Outcome
    from kie_async.records import Generation

__all__ = ["RUN_ERRORS", "RowRunner"]

#: The errors that concern every row: none can be sent until the user has resolved the cause.
RUN_ERRORS = (errors.AuthenticationError, errors.InsufficientCreditsError, errors.KeyLimitError, errors.JournalError)
#: The system's errors for a disk that cannot be written to any more.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
#: A row whose files keep changing between the hash and the upload fails after this number of new keys.
_MOST_RENAMES = 3
#: The message of a row that was cancelled before it was sent.
_NOT_SENT = "The row was not sent, since the run sends nothing more; nothing was paid. The same call again sends it."


@attrs.define(eq=False, repr=False, kw_only=True)
class RowRunner:
    """
    The component that follows rows to their outcomes.

    Args:
        options: The options of the run.

        journal: The journal.

        submitter: Cancels jobs that were not sent.

        supervisor: Runs the rows' tasks.

        jobs: Gives rows their jobs.

        waiting: Waits for jobs.

        budgeting: Counts what jobs cost.

        state: The phase of the run.

        keys: Gives rows their keys.

        shared: Holds the jobs' rows, if the run is shared.

        set_aside: Leaves a row to another worker.

        deliver: Takes a row's outcome, once; None if the row has no outcome in this run.

    Attributes:
        rows: The rows that are being followed.

        unsent: The number of these rows whose job was not sent yet.
    """

    options: MapOptions
    journal: Journal
    submitter: Submitter
    supervisor: Supervisor
    jobs: RowJobs
    waiting: Waiting
    budgeting: Budgeting
    state: RunState
    keys: RowKeys
    shared: SharedRows
    set_aside: Callable[[Row, HeldElsewhereError], None]
    deliver: Callable[[Row, Outcome | None], None]
    rows: dict[Row, None] = attrs.field(factory=dict, init=False)  # an ordered set
    unsent: int = attrs.field(default=0, init=False)

    async def start_row(self, row: Row) -> Outcome | None:
        """
        Start to follow a row; return the outcome if there is nothing to follow.

        Raises:
            KieError: If the row cannot be sent.

            HeldElsewhereError: If the run is shared, and another worker yields the row.
        """
        if not await self.jobs.find_job(row) and not await self.jobs.start_job(row):
            if row.job is None or self.state.stopped:
                return self._unsent_outcome(row)
            row.retry -= 1  # the retry cannot be sent: the outcome is that of the job that has failed
        if not self.state.sends and row.unsent and not row.started_here and not row.replayed:
            self._commit(row)  # the caller that has started the job may send it at any time, or never
            return self._unsent_outcome(row)
        row.unsent_counted = not row.replayed
        self.unsent += row.unsent_counted
        self.rows[row] = None
        self.supervisor.start(self._run_row, row)
        return None

    def cancel_unsent(self) -> None:
        """Cancel the jobs that this run has started and not sent, and wait no longer for others to send theirs."""
        self._stop_submissions(StopReason.CANCELLED, None)

    def stop_run(self, error: errors.KieError) -> None:
        """Stop the run because of an error that concerns all rows; what was sent is followed to its end."""
        self.state.advance(RunPhase.STOPPED, error)
        self._stop_submissions(StopReason.ACCOUNT, error)

    def cancel_rows(self) -> None:
        """Stop following the rows; what was sent runs on."""
        for row in self.rows:
            row.scope.cancel()

    def _stop_submissions(self, reason: StopReason, error: errors.KieError | None) -> None:
        for row in self.rows:
            if row.started_here and row.job is not None and row.job.submission is not None:
                row.cancel_requested = True
                own_error = errors.TransportError(_NOT_SENT) if error is None else error.copy()
                own_error.job_id = row.job.id
                self.submitter.stop(row.job, reason, own_error)
            elif row.unsent and row.started_elsewhere:
                row.wait_given_up = True
                row.scope.cancel()

    def leave_row(self, row: Row) -> None:
        """Reserve nothing more for a row that another worker yields."""
        row.job = None
        self._commit(row)

    # -- following a row --------------------------------------------------------------------------------------------

    async def _run_row(self, row: Row) -> None:
        outcome = None
        try:
            with row.scope:
                outcome = await self._follow(row)
            if row.scope.cancelled_caught and row.wait_given_up:
                self._commit(row)
                outcome = self._unsent_outcome(row)
            if outcome is None:
                await self.shared.release(row.key)
        except HeldElsewhereError as held:
            self.leave_row(row)
            self.set_aside(row, held)
        except Exception as error:
            msg = f"The row has failed within the client ({type(error).__name__}). This is a bug: please report it."
            outcome = row.failed(errors.KieError(msg))
            self._commit(row)  # another row with this key may wait for that
            raise
        finally:
            self._uncount_unsent(row)
            del self.rows[row]
            self.deliver(row, outcome)

    async def _follow(self, row: Row) -> Outcome | None:
        """Return a row's outcome; None if it has none in this run."""
        while True:
            try:
                generation = await self._wait_for_result(row)
            except errors.KieError as raised:
                error = raised
                self._commit(row)
            else:
                self._commit(row)
                return await self._save(row, generation)
            try:
                if await self._start_again(row, error):
                    continue
            except errors.KieError as raised:
                error = raised  # the row was to be started again, and cannot be
            return await self._outcome_without_result(row, error)

    def _commit(self, row: Row) -> None:
        self.budgeting.commit_row(row)
        self.state.notify()

    async def _wait_for_result(self, row: Row) -> Generation:
        """Return the result of a row's job; a job in doubt is waited for until it is unresolved."""
        if row.job is None:
            msg = "a row without a job was followed"
            raise RuntimeError(msg)
        given = row.job
        if self.shared.enabled:
            with suppress(errors.KieError):  # the next wait raises it
                await self.waiting.wait_journaled(given)
            await self.shared.hold(row, given.final)
        try:
            await self.waiting.wait_answered(given)
        finally:
            row.job = given.final
            # Another run, or another process, may have been the first to start it.
            ours = given.row is None or self.journal.owns(given.row)
            row.started_here = row.started_here and row.job is given and ours
        self._uncount_unsent(row)
        if not row.started_here:
            await self.budgeting.adopt(row.job.row, row.request)
        elif row.job.task_id is not None:
            self.budgeting.record_create()
        while True:
            try:
                return await self.waiting.wait_ended(row.job, include_stalled=False)
            except errors.TaskTimeoutError:
                if row.stall_checked or row.state is not JobState.STALLED:
                    raise
                # A stalled task is polled rarely, and may have ended since.
                row.stall_checked = True
                with suppress(errors.KieError):
                    await self.waiting.poll_status(row.job.id, own_only=False)
            except errors.SubmitInDoubtError:
                row.job = row.job.final
                if row.state not in (JobState.SENDING, JobState.IN_DOUBT):
                    raise
                await row.job.wait_for_change()

    def _uncount_unsent(self, row: Row) -> None:
        if row.unsent_counted:
            row.unsent_counted = False
            self.unsent -= 1
            self.state.notify()

    async def _start_again(self, row: Row, error: errors.KieError) -> bool:
        """Start a row's job again, if that is allowed and useful; return True if there is a job now."""
        if isinstance(error, (errors.ClientClosedError, *RUN_ERRORS)):
            return False
        if isinstance(error, ImageChangedError) and row.own_key is None and row.renamed < _MOST_RENAMES:
            row.renamed += 1
            row.retry = row.counted_retry = 0
            await self.keys.identify(row)  # the row is what its files are now
            return await self.jobs.find_job(row) or await self.jobs.start_job(row)
        if row.unsent and (not row.started_here or self._is_refused(error)):
            # Another caller had started the job, and has cancelled it before it was sent; or a shared budget had no
            # room when it was to be sent.
            return await self.jobs.start_job(row)
        useful = isinstance(error, errors.TaskFailedError) and error.worth_retrying
        if not useful or row.retry >= self.options.retry_failed:
            return False
        await self._mark_delivered(row)
        row.retry += 1
        if not await self.jobs.start_job(row):
            row.retry -= 1
            return False
        row.last_failure = error
        return True

    def _is_refused(self, error: errors.KieError) -> bool:
        """Return True if the named budget of this run has refused a create; a run without one does not wait for it."""
        return isinstance(error, errors.BudgetExceededError) and self.budgeting.name is not None

    # -- outcomes ---------------------------------------------------------------------------------------------------

    async def _save(self, row: Row, generation: Generation) -> Outcome:
        """Put a row's files on disk, and return its outcome."""
        files: list[Path] = []
        notes: list[str] = []
        paths = self.options.files(own_key(row.key), len(generation.urls))
        known = () if row.job is None or row.job.row is None else row.job.row.saved
        try:
            # There are no paths without save_to, and no notes if no earlier run has saved the job's files.
            for path, url, note in zip_longest(paths, generation.urls[: len(paths)], known[: len(paths)]):
                file = None if note is None else await find_saved(path, note)
                if file is None:
                    single = attrs.evolve(generation.record, result_urls=(url,))
                    [saved] = await self.waiting.results.saver(attrs.evolve(generation, record=single), path)
                    file, note = saved.path, saved.note  # noqa: PLW2901 (what is on disk now)
                files.append(file)
                notes.append(str(note))
        except errors.KieError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
                self.stop_run(error)  # further results would be paid for, and could not be written either
            await self._note_saved(row, (*notes, *known[len(notes) :]))
            return row.failed(error, generation)
        await self._note_saved(row, tuple(notes) or known)
        await self._mark_delivered(row)
        return row.done(generation, tuple(files))

    async def _note_saved(self, row: Row, notes: tuple[str, ...]) -> None:
        """Note in the journal what is on disk; if that fails, the next run fetches the files again."""
        if row.job is None or row.job.row is None or row.job.row.saved == notes:
            return
        with suppress(errors.JournalError):
            # At the same instant as before: the state has not changed.
            changed = await self.journal.update_fields(row.job.id, at=row.job.row.updated_at, saved=notes)
            if changed is not None:
                row.job.learn(changed)

    async def _outcome_without_result(self, row: Row, error: errors.KieError) -> Outcome | None:
        """Return the outcome of a row whose job has no result; None if it has no outcome in this run."""
        if isinstance(error, errors.ClientClosedError):
            return None
        if isinstance(error, RUN_ERRORS) and row.state is not JobState.REJECTED:
            self.stop_run(error)
            if row.unsent:
                return None
        never_sent = row.unsent and (row.cancel_requested or self._is_refused(error) or not row.started_here)
        if never_sent and not isinstance(error, errors.ConfigurationError):
            return self._unsent_outcome(row)
        if isinstance(error, errors.SubmitInDoubtError) and row.state is JobState.UNRESOLVED:
            return row.in_doubt(error)
        await self._mark_delivered(row)
        return row.failed(error)

    def _unsent_outcome(self, row: Row) -> Outcome | None:
        """Return the outcome of a row that is not sent, because of the run's phase or the budget; None if stopped."""
        if row.last_failure is not None:
            return row.failed(row.last_failure)
        return None if self.state.stopped else row.skipped(late=not self.state.sends)

    async def _mark_delivered(self, row: Row) -> None:
        """Mark an ended row as delivered, so that a journal in memory, which must stay small, may drop it."""
        if row.job is not None and not self.journal.durable and row.has_ended:
            await self.journal.mark_delivered(row.job.id)
