"""Run ``map()`` over a table: record and print outcomes, keep the page current, and drain the run on Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread
import anyio.to_thread
import attrs

from kie_async import Budget, KieError
from kie_async._media import SUFFIX
from kie_async._urls import without_url_secrets
from kie_async.cli.batch.folder import PAGE
from kie_async.cli.batch.manifest import EntryState, ManifestEntry
from kie_async.cli.batch.options import BatchOptions
from kie_async.cli.batch.progress import BatchJobs, ProgressDisplay
from kie_async.cli.batch.record import RunRecord, outcome_exit_code
from kie_async.cli.batch.signals import SignalHandler
from kie_async.cli.exit_codes import ExitCode, worst_exit_code
from kie_async.cli.session import Session

if TYPE_CHECKING:
    from kie_async import KieClient, Run, RunSummary

__all__ = ["BatchRun"]

#: The interval at which open requests and downloads are counted after the first signal, in seconds.
_QUIET_CHECK_INTERVAL = 0.05
#: The share of one core's time that the page may take, and the minimum interval between two writes, in seconds.
_PAGE_CPU_SHARE, _MIN_PAGE_INTERVAL = 0.02, 5.0


@attrs.define(kw_only=True)
class BatchRun:
    """
    One run.

    Args:
        session: The command's session.

        options: The options of the run.

        record: The rows of the run, and their manifest.

        jobs: The jobs of the run.

        signals: The signal handler.
    """

    session: Session
    options: BatchOptions
    record: RunRecord
    jobs: BatchJobs
    signals: SignalHandler
    _exit_codes: set[ExitCode] = attrs.field(factory=set, init=False)
    _error: KieError | OSError | None = attrs.field(default=None, init=False)
    _summary: RunSummary | None = attrs.field(default=None, init=False)
    _page_cpu_seconds: float = attrs.field(default=0.0, init=False)

    async def execute(self, kie: KieClient, *, may_pay: bool = True) -> None:
        """
        Run until every row has an outcome, or until a signal or an error ends the run.

        Args:
            kie: The client.

            may_pay: False if nothing remains to be paid, so that the user was not asked: then nothing is sent.
        """
        options, record = self.options, self.record
        for state in record.forgotten.values():
            self._exit_codes.add(ExitCode.DONE if state is EntryState.DONE else ExitCode.FAILED)
        total = record.table.count - len(record.forgotten)
        display = ProgressDisplay(output=self.session.output, total=total, jobs=self.jobs)
        await self._write_running_page()
        async with kie.map(
            record.requests(),
            budget=await self._budget(kie) if may_pay else Budget(credits=0.0, price=1.0),
            stop_after=options.stop_after,
            save_to=options.out / f"{{key}}{SUFFIX}",
            retry_failed=options.retry_failed,
        ) as run:
            try:
                with display.live_lines():
                    async with anyio.create_task_group() as group:
                        await group.start(self.signals.handle_signals, run.stop)
                        group.start_soon(self._end_drain_when_quiet, kie)
                        group.start_soon(display.update_live_lines, kie, run)
                        group.start_soon(self._refresh_page, display)
                        await self._record_outcomes(run, display)
                        group.cancel_scope.cancel()
            finally:
                if self.signals.count:
                    await run.aclose(drain=0.0)  # the drain is over already
        self._summary = run.summary()
        if record.open_rows:
            unfinished = await kie.jobs(unfinished=True)
            unsaved = [await kie.job(job_id).info() for job_id in self.jobs.unsaved_job_ids]
            jobs = [*unfinished, *filter(None, unsaved)]
            self.jobs.unfinished_rows = await anyio.to_thread.run_sync(record.record_unfinished, jobs)
        if self.signals.count:
            await kie.aclose(drain=0.0)  # do not drain a second time

    async def _end_drain_when_quiet(self, kie: KieClient) -> None:
        """End the drain once no create request is open and no file is being saved; running tasks are not awaited."""
        await self.signals.stopping.wait()
        while True:
            await anyio.sleep(_QUIET_CHECK_INTERVAL)
            if not (kie.statistics().sending or self.jobs.unsaved_job_ids):
                self.signals.drain_scope.cancel()
                return

    async def _budget(self, kie: KieClient) -> Budget | None:
        """Return the budget of the whole table, with what earlier runs have spent on its rows."""
        price, credits, name = self.options.price, self.options.budget, self.options.budget_name
        if credits is None:
            return None
        if name is not None:
            return Budget(credits=credits, price=price, name=name)
        spent = await kie.spent(self.record.keyed_requests(), price=price)
        return Budget(credits=credits, price=price, spent=spent)

    async def _record_outcomes(self, run: Run, display: ProgressDisplay) -> None:
        """Record and print each outcome; an error is stored, not raised: a task group would wrap it."""
        try:
            with self.signals.drain_scope:
                async for outcome in run:
                    entry = await anyio.to_thread.run_sync(self.record.record_outcome, outcome)
                    self._exit_codes.add(outcome_exit_code(outcome))
                    self.jobs.record_outcome_of(outcome.job_id)
                    display.print_outcome(entry, replayed=outcome.replayed)
                    if self.session.output.as_json:
                        self.session.output.result("", attrs.asdict(entry))
        except (KieError, OSError) as error:
            self._error = error

    async def finish(self) -> ExitCode:
        """
        Compact the manifest, write the page for the last time, and print the summary.

        Returns:
            The exit code.

        Raises:
            KieError: The error that has ended the run.

            OSError: If manifest or page cannot be written.
        """
        output, record, interrupted = self.session.output, self.record, bool(self.signals.count)
        if self.signals.abort_scope.cancelled_caught:
            output.info(self.jobs.resume_hint())
            return ExitCode.INTERRUPTED
        stop_reason = "The run was stopped." if interrupted else None
        if self._error is not None:
            stop_reason = without_url_secrets(str(self._error))
        is_complete = stop_reason is None and self._exit_codes <= {ExitCode.DONE}

        def write_files() -> None:
            record.manifest.compact()
            self._write_page(None if is_complete else record.resume_command, stop_reason=stop_reason)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(write_files)
        page = self.options.out / PAGE
        if self._summary is not None:
            output.info(f"{self._summary}.")
        if output.as_json:
            output.info(f"The page with all results: {page}")
        else:
            output.result(str(page), {})
        if self._error is not None:
            raise self._error
        if interrupted:
            output.info(self.jobs.resume_hint())
            return ExitCode.INTERRUPTED
        return worst_exit_code(self._exit_codes)

    async def _refresh_page(self, display: ProgressDisplay) -> None:
        """Rewrite the page until cancelled; an error is ignored here: the last write of the run reports it."""
        written_count = 0
        while True:
            await anyio.sleep(max(_MIN_PAGE_INTERVAL, self._page_cpu_seconds / _PAGE_CPU_SHARE))
            if (count := display.count) != written_count:
                with suppress(OSError):
                    await self._write_running_page()
                    written_count = count

    async def _write_running_page(self) -> None:
        """Write the page of a run that has not ended, and measure the cost."""

        def write() -> float:
            started_at = time.thread_time()
            self._write_page(self.options.resume_command(), is_running=True)
            return time.thread_time() - started_at

        self._page_cpu_seconds = await anyio.to_thread.run_sync(write)

    def _write_page(self, command: str | None, *, stop_reason: str | None = None, is_running: bool = False) -> None:
        """Write the page, in a worker thread that stops when its caller is cancelled."""
        from kie_async.cli.batch.page import PageHeader, write_page

        def entries() -> Iterator[ManifestEntry]:
            for entry in self.record.manifest.entries():
                anyio.from_thread.check_cancelled()
                yield entry

        now = datetime.now(UTC)
        header = PageHeader(
            title=self.options.table.name,
            total=self.record.table.count,
            written_at=f"{now.day} {now:%B %Y, %H:%M} UTC",
            limit=self.options.limits.creates,
            window=self.options.limits.window,
            resume_command=command,
            stop_reason=stop_reason,
            is_running=is_running,
        )
        write_page(self.options.out, entries(), header)
