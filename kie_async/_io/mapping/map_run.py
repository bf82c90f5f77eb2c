"""
The main loop of ``KieClient.map()``: reads rows, starts them, and delivers their outcomes.

One child of the client's supervisor reads the table. The number of rows that were read and not sent is bounded, and so
is the number of rows whose outcome was not taken. A slow source, service, disk or caller therefore slows the run down,
and does not fill the memory.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.job_errors import closed_error
from kie_async._io.mapping.budgeting import Budgeting
from kie_async._io.mapping.row_jobs import RowJobs
from kie_async._io.mapping.row_runner import RUN_ERRORS, RowRunner
from kie_async._io.mapping.rows import RowKeys, RowSource
from kie_async._io.mapping.run_state import RunPhase, RunState
from kie_async._io.mapping.shared_rows import HeldElsewhereError, SharedRows

if TYPE_CHECKING:
    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.budgeting import Prices
    from kie_async._io.mapping.rows import Row, RowInput, Table
    from kie_async._io.runtime import Runtime, Supervisor
    from kie_async._io.submitting.intake import Intake
    from kie_async._io.submitting.submission import Submitter
    from kie_async.outcomes import Outcome, RunSummary

__all__ = ["MapRun", "OutcomeQueue"]

#: The time that an async source has for one row once ``stop_after`` has passed, in seconds.
_LATE_READ_TIMEOUT = 1.0


class OutcomeQueue:
    """
    The outcomes of a run that wait for the caller.

    Args:
        ordered: True if they are delivered in the order of the rows.

    Attributes:
        untaken: The number of rows that were read and whose outcome was not taken.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._ready: deque[Outcome] = deque()
        # The outcomes that wait for an earlier row; None for a row without an outcome.
        self._parked: dict[int, Outcome | None] = {}
        self._rows = 0
        self._next = 0
        self.untaken = 0

    def __bool__(self) -> bool:
        return bool(self._ready)

    def add_row(self) -> int:
        """Count a row that was read, and return its index."""
        self.untaken += 1
        self._rows += 1
        return self._rows - 1

    def put(self, index: int, outcome: Outcome | None) -> None:
        """Add the outcome of a row; None if it has none."""
        self._parked[index if self._ordered else self._next] = outcome
        while self._next in self._parked:
            next_outcome = self._parked.pop(self._next)
            self._next += 1
            if next_outcome is None:
                self.untaken -= 1
            else:
                self._ready.append(next_outcome)

    def pop(self) -> Outcome:
        """Return the next outcome; there must be one."""
        self.untaken -= 1
        return self._ready.popleft()

    def clear(self) -> None:
        """Drop the outcomes, since the caller has left."""
        self._ready.clear()
        self._parked.clear()


class MapRun:
    """
    One run of ``KieClient.map()``.

    Args:
        rows: The table.

        options: The options of the run.

        journal: The journal.

        registry: The jobs that are alive.

        runtime: The clock.

        submitter: Cancels jobs that were not sent.

        supervisor: Runs the tasks.

        intake: Checks requests and starts jobs.

        waiting: Waits for jobs.

        prices: Estimates prices.
    """

    def __init__(
        self,
        rows: Table,
        options: MapOptions,
        *,
        journal: Journal,
        registry: Registry,
        runtime: Runtime,
        submitter: Submitter,
        supervisor: Supervisor,
        intake: Intake,
        waiting: Waiting,
        prices: Prices,
    ) -> None:
        self._rows = rows
        self._options = options
        self._supervisor = supervisor
        self._source = RowSource(rows)
        self._keys = RowKeys(intake)
        self._state = state = RunState(submitter)
        self._budgeting = budgeting = Budgeting(options, journal=journal, runtime=runtime, prices=prices)
        self._shared = shared = SharedRows(
            enabled=options.share, journal=journal, state=state, figures=budgeting.figures
        )
        self._runner = RowRunner(
            options=options,
            journal=journal,
            submitter=submitter,
            supervisor=supervisor,
            jobs=RowJobs(
                options=options,
                journal=journal,
                registry=registry,
                intake=intake,
                waiting=waiting,
                budgeting=budgeting,
                state=state,
                shared=shared,
            ),
            waiting=waiting,
            budgeting=budgeting,
            state=state,
            keys=self._keys,
            shared=shared,
            set_aside=self._set_aside,
            deliver=self._deliver,
        )
        self._outcomes = OutcomeQueue(ordered=options.ordered)
        self._reading = True
        self._awaits_others = False
        self._read_scope = anyio.CancelScope()
        self._timer_scope = anyio.CancelScope()

    # -- for the caller ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to read the table."""
        self._supervisor.start(self._read_table)
        stop_after = self._options.stop_after
        if stop_after == 0:
            self._state.advance(RunPhase.SKIPPING)
        if stop_after is not None and stop_after < math.inf:
            self._supervisor.start(self._stop_sending_at, anyio.current_time() + stop_after)

    async def next_outcome(self) -> Outcome | None:
        """
        Return the next outcome; None at the end.

        Raises:
            KieError: The error of the account that ended the run, once, after the last outcome.

            Exception: The source's own error, once, after the last outcome.
        """
        await self._shared.settle()
        while not self._outcomes:
            if self._is_over:
                error, self._state.error = self._state.error, None
                if error is not None:
                    raise error
                return None
            await self._state.wait_for_change()
        self._state.notify()
        outcome = self._outcomes.pop()
        self._shared.record_taken(outcome)
        return outcome

    def summary(self) -> RunSummary:
        """Return the figures so far."""
        return self._budgeting.summary()

    def stop(self) -> None:
        """Read nothing more and send nothing more."""
        self._state.advance(RunPhase.STOPPED)
        self._runner.cancel_unsent()

    async def leave(self, drain: float) -> None:
        """Stop, and let what has begun end within *drain* seconds."""
        self._state.advance(RunPhase.LEFT)
        self._runner.cancel_unsent()
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + drain, shield=True):
                while not self._is_over:
                    await self._state.wait_for_change()
        finally:
            self._timer_scope.cancel()
            self._runner.cancel_rows()
            self._outcomes.clear()
            with anyio.CancelScope(shield=True):
                await self._shared.release_all()

    @property
    def _is_over(self) -> bool:
        return not self._reading and not self._runner.rows and not self._shared.waiting

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _read_table(self) -> None:
        state = self._state
        try:
            with state.reading:
                await self._budgeting.count_prior_spend(self._rows, wanted=lambda: state.sends)
                while not state.stopped and (batch := await self._read()):
                    for given in batch:
                        if not state.stopped:
                            await self._start_row(given)
        except Exception as error:  # noqa: BLE001 (the source's own, raised by the iterator)
            state.advance(RunPhase.STOPPED, error)
        finally:
            try:
                await self._source.close()
            except Exception as error:  # noqa: BLE001 (the source's own, as above)
                state.advance(RunPhase.STOPPED, error)
            finally:
                self._reading = False
                self._finish_if_over()

    async def _read(self) -> list[RowInput]:
        options, outcomes = self._options, self._outcomes
        while (most := min(options.most_unsent - self._runner.unsent, options.most_untaken - outcomes.untaken)) <= 0:
            await self._state.wait_for_change()
        # Every row of a table has an outcome, but a source that waits for something must not make the run endless.
        with anyio.CancelScope(deadline=self._read_deadline()) as self._read_scope:
            return await self._source.read(most)
        return []

    def _read_deadline(self) -> float:
        return math.inf if self._state.sends else anyio.current_time() + _LATE_READ_TIMEOUT

    async def _start_row(self, given: RowInput) -> None:
        row = self._keys.make_row(given, self._outcomes.add_row())
        try:
            await self._keys.identify(row)
        except errors.KieError as error:
            self._deliver(row, row.failed(error))
        else:
            await self._start_job(row)

    async def _start_job(self, row: Row) -> None:
        outcome = None
        try:
            outcome = await self._runner.start_row(row)
        except HeldElsewhereError as held:
            self._runner.leave_row(row)
            self._set_aside(row, held)
            self._deliver(row, None)
            return
        except RUN_ERRORS as error:
            self._runner.stop_run(error)
        except errors.KieError as error:
            outcome = row.failed(error)
        if outcome is not None:
            self._deliver(row, outcome)

    async def _stop_sending_at(self, deadline: float) -> None:
        with self._timer_scope:
            await anyio.sleep_until(deadline)
            self._state.advance(RunPhase.SKIPPING)
            self._read_scope.deadline = self._read_deadline()
            self._runner.cancel_unsent()

    # -- rows of other workers --------------------------------------------------------------------------------------

    def _set_aside(self, row: Row, held: HeldElsewhereError) -> None:
        self._shared.set_aside(row, held)
        if self._shared.waiting and not self._awaits_others:
            self._awaits_others = True
            self._supervisor.start(self._take_over_rows)

    async def _take_over_rows(self) -> None:
        """Start the rows of other workers that end or leave them, until none is left."""
        try:
            while self._shared.waiting:
                for row in await self._shared.wait_for_rows():
                    await self._start_job(row.again(self._outcomes.add_row()))
        except errors.JournalError as error:
            self._runner.stop_run(error)
        finally:
            self._awaits_others = False
            self._finish_if_over()

    # -- outcomes ---------------------------------------------------------------------------------------------------

    def _deliver(self, row: Row, outcome: Outcome | None) -> None:
        """Queue the outcome of a row; None if it has none."""
        if outcome is not None:
            self._budgeting.figures.count_outcome(outcome)
        self._outcomes.put(row.index, outcome)
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if self._is_over:
            if self._state.client_closing and self._state.phase is not RunPhase.LEFT:
                self._state.advance(RunPhase.STOPPED, closed_error())
            self._timer_scope.cancel()
        self._state.notify()
