"""
The loop of ``KieClient.map()``: reads rows, has each seen through to its outcome, and hands the outcomes out.

One child of the client's root task reads. Rows that were read and not sent are bounded, so are rows whose outcome was
not taken; so whoever is slow, the source, the service, the disk or the caller, slows the run down and fills no memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from kie_async import errors
from kie_async._core.job_errors import closed_error
from kie_async._io.mapping.budgeting import Budgeting
from kie_async._io.mapping.finding import Finding
from kie_async._io.mapping.outcome_queue import OutcomeQueue
from kie_async._io.mapping.row_jobs import RowJobs
from kie_async._io.mapping.row_keys import RowKeys
from kie_async._io.mapping.row_runner import FOR_ALL, RowRunner
from kie_async._io.mapping.row_source import RowSource
from kie_async._io.mapping.run_state import RunState

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.waiting import Waiting
    from kie_async._io.mapping.prices import Prices
    from kie_async._io.mapping.row import Row
    from kie_async._io.mapping.row_source import Given
    from kie_async._io.parts import Parts
    from kie_async._io.submitting.intake import Intake
    from kie_async.outcomes import Outcome
    from kie_async.run_summary import RunSummary

__all__ = ["MapRun"]

#: After the deadline, an async source may let us wait for a row for so many seconds.
_LATE_PATIENCE = 1.0


class MapRun:
    """
    One run.

    Args:
        parts: The client's parts.

        intake: Takes requests in.

        waiting: Waits for jobs.

        prices: Estimates prices.

        rows: The table.

        plan: How the run is to go.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        intake: Intake,
        waiting: Waiting,
        prices: Prices,
        rows: Iterable[Given] | AsyncIterable[Given],
        plan: MapOptions,
    ) -> None:
        self._parts = parts
        self._plan = plan
        self._table = rows
        self._reader = RowSource(rows)
        self._naming = RowKeys(intake)
        self._sending = RunState(parts.submitter)
        self._till = Budgeting(parts, intake=intake, prices=prices, plan=plan)
        finding = Finding(parts, intake=intake, waiting=waiting, plan=plan)
        self._seeing = RowRunner(
            parts,
            beginning=RowJobs(parts, intake=intake, finding=finding, till=self._till, sending=self._sending),
            waiting=waiting,
            till=self._till,
            plan=plan,
            sending=self._sending,
            deliver=self._ended,
        )
        self._out = OutcomeQueue(ordered=plan.ordered)
        self._reading = True
        self._for_the_source = anyio.CancelScope()
        self._clock = anyio.CancelScope()
        self._left = False

    # -- for the caller ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start to read."""
        self._parts.supervisor.start(self._feed)
        self._sending.late = self._plan.stop_after == 0
        if self._plan.stop_after is not None and self._plan.stop_after < math.inf:
            self._parts.supervisor.start(self._watch_the_clock, self._parts.runtime.now() + self._plan.stop_after)

    async def next(self) -> Outcome | None:
        """
        The next outcome; None at the end.

        Raises:
            KieError: What the account or the source has said, once, after the last outcome.
        """
        while not self._out:
            if not self._reading and not self._seeing.rows:
                verdict, self._sending.verdict = self._sending.verdict, None
                if verdict is not None:
                    raise verdict
                return None
            await self._sending.bell.rung()
        self._sending.bell.ring()
        return self._out.take()

    def summary(self) -> RunSummary:
        """The figures so far."""
        return self._till.figures.summary(self._parts.runtime.now())

    def stop(self) -> None:
        """Read nothing more and send nothing more."""
        self._sending.stop()
        self._seeing.withdraw()

    async def leave(self, drain: float) -> None:
        """Stop, and let what has begun end within *drain* seconds."""
        self._left = True
        self.stop()
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + drain, shield=True):
                while self._reading or self._seeing.rows:
                    await self._sending.bell.rung()
        finally:
            self._clock.cancel()
            self._seeing.abandon()
            self._out.drop()

    # -- reading ----------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        try:
            with self._sending.feeding:
                await self._till.look_back(self._table, wanted=lambda: not self._sending.late)
                while not self._sending.ends and (given := await self._read()):
                    for one in given:
                        if not self._sending.ends:
                            await self._take(one)
        except Exception as error:  # noqa: BLE001 (the source's own: for whoever iterates)
            self._sending.fail(error)
        finally:
            self._sending.mark_closing()
            try:
                await self._reader.close()
            except Exception as error:  # noqa: BLE001 (the source's own, as above)
                self._sending.fail(error)
            finally:
                self._reading = False
                self._end_if_over()

    async def _read(self) -> list[Given]:
        plan = self._plan
        while (most := min(plan.look_ahead - self._seeing.ahead, plan.window - self._out.untaken)) <= 0:
            await self._sending.bell.rung()
        # Every row of a table is told of, but a source that waits for something must not make the run endless.
        with anyio.CancelScope(deadline=self._patience()) as self._for_the_source:
            return await self._reader.read(most)
        return []

    def _patience(self) -> float:
        return anyio.current_time() + _LATE_PATIENCE if self._sending.late else math.inf

    async def _take(self, given: Given) -> None:
        row = self._naming.row(given, self._out.expect())
        try:
            await self._naming.identify(row)
            outcome = await self._seeing.begin(row)
        except FOR_ALL as error:
            outcome = None
            self._seeing.halt(error)
        except errors.KieError as error:
            outcome = row.failed(error)
        if outcome is not None:
            self._deliver(row, outcome)

    # -- outcomes ---------------------------------------------------------------------------------------------------

    def _ended(self, row: Row, outcome: Outcome | None) -> None:
        self._deliver(row, outcome)
        self._end_if_over()

    def _deliver(self, row: Row, outcome: Outcome | None) -> None:
        """Hand an outcome out, in its turn; None where a row has none."""
        if outcome is not None:
            self._till.figures.count(outcome)
        self._out.put(row.index, outcome)
        self._sending.bell.ring()

    def _end_if_over(self) -> None:
        if not self._reading and not self._seeing.rows:
            if self._sending.closed and not self._left:
                self._sending.fail(closed_error())
            self._clock.cancel()
        self._sending.bell.ring()

    async def _watch_the_clock(self, deadline: float) -> None:
        with self._clock:
            await anyio.sleep_until(deadline)
            self._sending.late = True
            self._for_the_source.deadline = self._patience()
            self._seeing.withdraw()
            self._sending.bell.ring()
