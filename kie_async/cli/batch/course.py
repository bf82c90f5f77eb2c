"""A run under way: outcomes are written down and shown as they come, until all rows have ended or the user stops it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from kie_async import Budget, KieError
from kie_async.cli.batch.board import Board
from kie_async.cli.batch.folder import PAGE, RESULT
from kie_async.cli.batch.following import Following
from kie_async.cli.batch.interruption import Interruption
from kie_async.cli.batch.order import Order
from kie_async.cli.batch.record import Record, exit_for
from kie_async.cli.exits import Exit, worst
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async import KieClient, Run, RunSummary

__all__ = ["Course"]


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
    _codes: set[Exit] = attrs.field(factory=set, init=False)
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
        async with kie.map(
            record.requests(),
            budget=None if order.budget is None else Budget(credits=order.budget, price=order.price),
            deadline=order.deadline,
            save_to=order.out / f"{{key}}{RESULT}",
            retry_failed=order.retry_failed,
        ) as run:
            try:
                with board.shown():
                    async with anyio.create_task_group() as group:
                        await group.start(self.interruption.watch, run.stop)
                        group.start_soon(board.move, kie, run)
                        await self._take_outcomes(run, board)
                        group.cancel_scope.cancel()
            finally:
                if self.interruption.came:
                    await run.aclose(drain=0.0)  # it has had its time
        self._summary = run.summary()
        if record.open:
            unfinished = await kie.jobs(unfinished=True)
            self.following.left = await anyio.to_thread.run_sync(record.interrupted, unfinished)

    async def _take_outcomes(self, run: Run, board: Board) -> None:
        """Write down what comes; what ends it is kept, not raised: a task group would wrap it."""
        try:
            with self.interruption.patient:
                async for outcome in run:
                    entry = await anyio.to_thread.run_sync(self.record.ended, outcome)
                    self._codes.add(exit_for(outcome))
                    board.ended(entry, replayed=outcome.replayed)
                    if self.session.output.as_json:
                        self.session.output.result("", attrs.asdict(entry))
        except (KieError, OSError) as error:
            self._error = error

    async def end(self) -> Exit:
        """
        Leave manifest and page behind, and say how it went.

        Returns:
            The exit code.

        Raises:
            KieError: What has ended the run.

            OSError: If there is no room for them.
        """
        from kie_async.cli.batch.page import Facts, write_page

        output, record, order = self.session.output, self.record, self.order
        if self.interruption.hurried.cancelled_caught:
            output.say(self.following.outlook())
            return Exit.INTERRUPTED
        finished = self._error is None and not self.interruption.came
        now = datetime.now(UTC)
        facts = Facts(
            title=order.table.name,
            total=record.table.count,
            made_at=f"{now.day} {now:%B %Y, %H:%M} UTC",
            limit=order.limits.creates,
            window=order.limits.window,
            command=None if finished and self._codes <= {Exit.DONE} else record.again,
            stopped=None if finished else self._why(),
        )

        def leave_behind() -> None:
            record.manifest.compact()
            write_page(order.out, record.manifest.entries(), facts)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(leave_behind)
        page = order.out / PAGE
        if self._summary is not None:
            output.say(f"{self._summary}.")
        if output.as_json:
            output.say(f"All of it, to look at: {page}")
        else:
            output.result(str(page), {})
        if self._error is not None:
            raise self._error
        if self.interruption.came:
            output.say(self.following.outlook())
            return Exit.INTERRUPTED
        return worst(self._codes)

    def _why(self) -> str:
        return "It was stopped." if self._error is None else str(self._error)
