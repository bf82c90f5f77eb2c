"""A run under way: outcomes are written down and shown as they come, until all rows have ended or the user stops it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.to_thread
import attrs

from kie_async import Budget, KieError
from kie_async.cli.batch.entry import Entry
from kie_async.cli.batch.folder import PAGE, RESULT
from kie_async.cli.batch.following import Following
from kie_async.cli.batch.options import Order
from kie_async.cli.batch.page_refresh import Renewal
from kie_async.cli.batch.progress import Board
from kie_async.cli.batch.record import Record, exit_for
from kie_async.cli.batch.signals import Interruption
from kie_async.cli.exit_codes import ExitCode, worst_exit_code
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async import KieClient, Run, RunSummary

__all__ = ["Course"]

#: How often it is looked whether anything is on the wire, once the user wants to leave, in seconds.
_LOOK = 0.05


@attrs.define(kw_only=True)
class Course:
    """
    One run.

    Args:
        session: The command's session.

        order: What is to be made.

        record: Where its rows come from and go to.

        following: What becomes known of its jobs.

        interruption: What stops it.
    """

    session: Session
    order: Order
    record: Record
    following: Following
    interruption: Interruption
    _codes: set[ExitCode] = attrs.field(factory=set, init=False)
    _error: KieError | OSError | None = attrs.field(default=None, init=False)
    _summary: RunSummary | None = attrs.field(default=None, init=False)

    async def take(self, kie: KieClient) -> None:
        """
        Take it as far as it goes.

        Args:
            kie: The client, whose journal is the folder's.
        """
        order, record = self.order, self.record
        board = Board(output=self.session.output, total=record.table.count, following=self.following)
        renewal = Renewal(write=self._write_page_of_now, count=lambda: board.count)
        await renewal.once()
        async with kie.map(
            record.requests(),
            budget=None if order.budget is None else await self._budget(kie, order.budget),
            stop_after=order.stop_after,
            save_to=order.out / f"{{key}}{RESULT}",
            retry_failed=order.retry_failed,
        ) as run:
            try:
                with board.shown():
                    async with anyio.create_task_group() as group:
                        await group.start(self.interruption.watch, run.stop)
                        group.start_soon(self._leave_when_quiet, kie)
                        group.start_soon(board.move, kie, run)
                        group.start_soon(renewal.go_on)
                        await self._take_outcomes(run, board)
                        group.cancel_scope.cancel()
            finally:
                if self.interruption.came:
                    await run.aclose(drain=0.0)  # it has had its time
        self._summary = run.summary()
        if record.open:
            unfinished = await kie.jobs(unfinished=True)
            unsaved = [await kie.job(job_id).info() for job_id in self.following.being_saved]
            left = [*unfinished, *filter(None, unsaved)]
            self.following.left = await anyio.to_thread.run_sync(record.interrupted, left)
        if self.interruption.came:
            await kie.aclose(drain=0.0)  # the same time is not given twice

    async def _leave_when_quiet(self, kie: KieClient) -> None:
        """After the first Ctrl-C, tasks that run are left to the service: only what is on the wire is waited for."""
        await self.interruption.first.wait()
        while True:
            await anyio.sleep(_LOOK)
            if not (kie.statistics().sending or self.following.being_saved):
                self.interruption.patient.cancel()
                return

    async def _budget(self, kie: KieClient, credits: float) -> Budget:
        """The budget for the whole table, of which earlier runs have spent some, whichever rows they have come to."""
        rows = ((shot.key, shot.request) for shot in self.record.table.shots())
        return Budget(credits=credits, price=self.order.price, spent=await kie.spent(rows, price=self.order.price))

    async def _take_outcomes(self, run: Run, board: Board) -> None:
        """Write down what comes; what ends it is kept, not raised: a task group would wrap it."""
        try:
            with self.interruption.patient:
                async for outcome in run:
                    entry = await anyio.to_thread.run_sync(self.record.ended, outcome)
                    self._codes.add(exit_for(outcome))
                    self.following.told(outcome.job_id)
                    board.ended(entry, replayed=outcome.replayed)
                    if self.session.output.as_json:
                        self.session.output.result("", attrs.asdict(entry))
        except (KieError, OSError) as error:
            self._error = error

    async def end(self) -> ExitCode:
        """
        Leave manifest and page behind, and say how it went.

        Returns:
            The exit code.

        Raises:
            KieError: What has ended the run.

            OSError: If there is no room for them.
        """
        output, record = self.session.output, self.record
        if self.interruption.hurried.cancelled_caught:
            output.info(self.following.resume_hint())
            return ExitCode.INTERRUPTED
        finished = self._error is None and not self.interruption.came
        command = None if finished and self._codes <= {ExitCode.DONE} else record.again
        stopped = None if finished else self._why()

        def leave_behind() -> None:
            record.manifest.compact()
            self._write_page(record.manifest.entries(), command=command, stopped=stopped)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(leave_behind)
        page = self.order.out / PAGE
        if self._summary is not None:
            output.info(f"{self._summary}.")
        if output.as_json:
            output.info(f"All of it, to look at: {page}")
        else:
            output.result(str(page), {})
        if self._error is not None:
            raise self._error
        if self.interruption.came:
            output.info(self.following.resume_hint())
            return ExitCode.INTERRUPTED
        return worst_exit_code(self._codes)

    def _write_page_of_now(self) -> None:
        """Write the page of a run that is at work, in a worker thread; who leaves does not wait for it."""

        def entries() -> Iterator[Entry]:
            for entry in self.record.manifest.entries():
                anyio.from_thread.check_cancelled()
                yield entry

        self._write_page(entries(), command=self.record.commands.again, going=True)

    def _write_page(
        self, entries: Iterable[Entry], *, command: str | None, stopped: str | None = None, going: bool = False
    ) -> None:
        from kie_async.cli.batch.page import Facts, write_page

        now = datetime.now(UTC)
        facts = Facts(
            title=self.order.table.name,
            total=self.record.table.count,
            made_at=f"{now.day} {now:%B %Y, %H:%M} UTC",
            limit=self.order.limits.creates,
            window=self.order.limits.window,
            command=command,
            stopped=stopped,
            going=going,
        )
        write_page(self.order.out, entries, facts)

    def _why(self) -> str:
        return "It was stopped." if self._error is None else str(self._error)
