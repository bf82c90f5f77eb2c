"""
Following a job from its row: what is to be done with it is in its state and in whose it is, wherever it comes from.

There is one ``LiveJob`` for each row that something may happen to, and it is in the registry before anything is
awaited.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio.lowlevel

from kie_async._core.lifecycle import OPEN
from kie_async._io.jobs.journal_watch import JournalWatch
from kie_async._io.jobs.live_job import LiveJob
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._io.parts import Parts
    from kie_async.records import JSON

__all__ = ["Recovery"]

#: Jobs that are taken up before the loop has its turn: 64 take 2 ms, and a journal may hold a hundred thousand.
_AT_A_STRETCH = 64


class Recovery:
    """
    Follows jobs from their rows.

    Args:
        parts: The client's parts.
    """

    #: Makes an unsent job ready to be sent; set once, by whoever takes requests in.
    send_again: Callable[[LiveJob], Awaitable[tuple[Intent, Mapping[str, JSON]]]]
    #: Looks into a callback that names a task of an intent; set once, by whoever does that.
    confirm: Callable[[str, str], object]

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.elsewhere = JournalWatch(
            journal=parts.journal,
            supervisor=parts.supervisor,
            runtime=parts.runtime,
            timers=parts.timers,
            follow=self.follow,
            let_go=parts.tracker.let_go,
            ended_elsewhere=lambda job: parts.net.came(job.id, job),
        )

    async def recover(self) -> list[str]:
        """Take up everything that is unfinished and has nobody; see ``KieClient.recover``."""
        registry = self._parts.registry
        found: list[str] = []
        for number, row in enumerate(await self._parts.journal.claim(), 1):
            if number % _AT_A_STRETCH == 0:
                await anyio.lowlevel.checkpoint()
            found.append(row.id)
            job = registry.get(row.id)
            if job is None and (row.key is None or registry.by_key(row.key) is None):
                # Where the key is here already, the submit that has it takes the row over by itself.
                await self.follow(self.adopt(row))
            elif job is not None and job.remote:
                job.row = row
                await self.follow(job)
        for row in await self._parts.journal.rows_named_by_callbacks():
            # A callback has named its task, and the process ended before that was proved.
            for task_id in row.callback_task_ids:
                self.confirm(row.id, task_id)
        return found

    def adopt(self, row: Intent) -> LiveJob:
        """The one job of a row: the one that is here, or a new one, which is here from now on."""
        job = self._parts.registry.get(row.id)
        if job is None:
            job = LiveJob.of(row)
            job.remote = True  # attended, until it is known by whom
            self._parts.registry.add(job)
        return job

    async def take_up(self, row: Intent) -> LiveJob:
        """
        The job of an open row that somebody asks about; if its owner is dead, this process becomes it.

        But asking about a job does not send it: one that was never sent is left as it is, for ``recover()``.
        """
        job, journal = self.adopt(row), self._parts.journal
        try:
            if row.state is JobState.INTENT and (journal.owns(row) or not await journal.is_owner_alive(row)):
                self._parts.tracker.let_go(job)
                job.remote = False
                job.publish()
                return job
            if not journal.owns(row):
                for claimed in await journal.claim([row.id]) if row.state is not JobState.INTENT else ():
                    job.row = claimed
            await self.follow(job)
        except BaseException:
            if job.remote:  # nothing follows it yet
                self._parts.tracker.let_go(job)
            raise
        return job

    async def follow(self, job: LiveJob) -> None:
        """Do what fits the state of a job's row."""
        row, parts = job.row, self._parts
        if row is None or job.owned:
            return  # its owner is at it
        self.elsewhere.leave(job)
        if row.state not in OPEN:
            parts.tracker.let_go(job)
        elif not parts.journal.owns(row):
            parts.tracker.rest(job)
            self.elsewhere.watch(job, remote=True)
        elif row.state is JobState.INTENT:
            parts.tracker.rest(job)
            parts.submitter.start(job, partial(self.send_again, job))
        elif row.state is JobState.SENDING:
            # Whoever sent it did not live to see the answer.
            await parts.result_writer.doubted(job, "the process that sent it ended before the answer came")
            await self.follow(job)
        elif row.state is JobState.IN_DOUBT:
            parts.tracker.in_doubt(job)
            self.elsewhere.watch(job, remote=False)
        else:
            parts.tracker.submitted(job)
            if row.callback_url is not None:
                self.elsewhere.watch(job, remote=False)  # the callback may land on another process
        job.publish()
