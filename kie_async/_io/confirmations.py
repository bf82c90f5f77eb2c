"""
Looking into callbacks: ``recordInfo`` decides how the task has ended, and whose it is where that is not known.

There is one confirmation at a time for each intent, and it asks before the polling does. What cannot be settled at once
(a callback may be faster than ``recordInfo``) is asked again, later and later. A token that has leaked can thus cause a
look now and then, whatever is posted with it, and nothing else.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._core.lifecycle import IntentState
from kie_async._core.looks import LookVerdict
from kie_async._core.matching import MAX_HINTED, Step, again_after, echoes, step_of
from kie_async._io.live import LiveJob
from kie_async._io.moves import row_of

if TYPE_CHECKING:
    from kie_async._core.lifecycle import Intent
    from kie_async._io.parts import Parts
    from kie_async._io.recovery import Recovery
    from kie_async.records import TaskRecord

__all__ = ["Confirmations"]

_log = logging.getLogger("kie_async")

#: How many intents may have callbacks that are being looked into; beyond that, the service is asked to try again.
MAX_INTENTS = 10_000
#: A new task may be invisible for 90 s; one that is still unknown at this look, two minutes later, does not exist.
VISIBLE_LOOKS = 8
#: How many looks are ready for each that may be under way, so that the pacer never waits for one.
_AHEAD = 2


@attrs.define(eq=False)
class _Case:
    """The callbacks of one intent: the ids that they name, and how many looks they have caused so far."""

    task_ids: list[str]
    looks: int = 0


class Confirmations:
    """
    Looks into callbacks.

    Args:
        parts: The client's parts.

        recovery: Follows jobs that callbacks have brought back.
    """

    def __init__(self, parts: Parts, recovery: Recovery) -> None:
        self._parts = parts
        self._recovery = recovery
        self._cases: dict[str, _Case] = {}
        #: Those whose next look is due, by intent; as many are at work as keep the pacer busy.
        self._due: deque[str] = deque()
        self._at_work = 0
        self._most_at_work = _AHEAD * parts.poller.pacer.limit
        #: Looks so far.
        self.looks = 0

    @property
    def pending(self) -> int:
        """How many intents have callbacks that are not settled."""
        return sum(bool(case.task_ids) for case in self._cases.values())

    def ask(self, intent_id: str, task_id: str) -> bool:
        """
        Look into a genuine callback for an intent that names a task.

        Returns:
            False if too many wait already; nothing was noted then.
        """
        case = self._cases.get(intent_id)
        if case is None:
            if len(self._cases) >= MAX_INTENTS:
                return False
            case = self._cases[intent_id] = _Case([])
            self._start(intent_id)
        if task_id not in case.task_ids and len(case.task_ids) < MAX_HINTED:
            case.task_ids.append(task_id)
        return True

    def _start(self, intent_id: str) -> None:
        self._due.append(intent_id)
        self._go_on()

    def _go_on(self) -> None:
        """Start what the pacer may soon let through; a flood waits as names in a queue, not as a task each."""
        root = self._parts.root
        while self._due and self._at_work < self._most_at_work and root.running:
            self._at_work += 1
            root.start(self._work, self._due.popleft())

    async def _work(self, intent_id: str) -> None:
        try:
            await self._look_into(intent_id)
        finally:
            self._at_work -= 1
            self._go_on()

    async def _look_into(self, intent_id: str) -> None:
        """One round: a look for each id that is named."""
        case = self._cases[intent_id]
        case.looks += 1
        proved = True
        try:
            for task_id in list(case.task_ids):
                settled, known = await self._settle(intent_id, task_id, case.looks)
                if settled:
                    case.task_ids.remove(task_id)
                else:
                    proved = proved and known
        except BaseException:
            del self._cases[intent_id]
            raise
        # Even when all is settled, the case stays for the pause: what comes meanwhile waits for its end.
        pause = again_after(case.looks, proved=proved)
        if pause is None:
            del self._cases[intent_id]  # the polling goes on with it
        else:
            self._parts.agenda.at(self._parts.surroundings.now() + pause, partial(self._next, intent_id))

    def _next(self, intent_id: str) -> None:
        case = self._cases[intent_id]
        if case.task_ids:
            self._start(intent_id)
        else:
            del self._cases[intent_id]

    async def _settle(self, intent_id: str, task_id: str, looks: int) -> tuple[bool, bool]:
        """
        Ask how a task is, and do what follows.

        Returns:
            Whether that settles it, and whether the task is known to be the intent's.
        """
        parts = self._parts
        try:
            row = await self._row(intent_id)
            if row is None:
                return True, True
            if (step := step_of(row, task_id)) is Step.NOTHING:
                await self._forget_hint(intent_id, task_id)
                return True, True
            self.looks += 1
            look = await parts.poller.look_now(task_id)
            if look.record is None:
                if step is Step.CONFIRM or look.verdict is not LookVerdict.NOT_VISIBLE or looks < VISIBLE_LOOKS:
                    return False, step is Step.CONFIRM
                await self._disprove(intent_id, task_id)
                return True, False
            if step is Step.PROVE and not echoes(look.record, intent_id, parts.secret):
                await self._disprove(intent_id, task_id)
                return True, False
            return await self._apply(intent_id, task_id, look.record), True
        except (errors.TransportError, errors.JournalError):
            return False, False

    async def _row(self, intent_id: str) -> Intent | None:
        job = self._parts.registry.get(intent_id)
        return job.row if job is not None and job.row is not None else await self._parts.journal.get(intent_id)

    async def _apply(self, intent_id: str, task_id: str, record: TaskRecord) -> bool:
        """Take the record of a task that is an intent's; whether it has ended."""
        parts = self._parts
        job = parts.registry.get(intent_id)
        if job is None or job.row is None:
            row = await parts.journal.get(intent_id)
            if row is None:
                return True
            # Of another process, or ended as far as this one knew: its row is moved, and it is followed elsewhere.
            job = LiveJob.of(row)
        if row_of(job).task_id != task_id:
            job = await self._bind(job, task_id)
        if row_of(job).task_id == task_id:
            await parts.tracker.apply(job, record)
        return record.ended

    async def _bind(self, job: LiveJob, task_id: str) -> LiveJob:
        """Bind a task that was proved to be an intent's, and go on with it; returns the job that does."""
        parts, was = self._parts, job.state
        await parts.settler.accepted(job, task_id)
        row = row_of(job)
        if row.task_id != task_id or row.state is not IntentState.SUBMITTED:
            return job  # one more than the intent's own, or somebody else was faster
        parts.net.came(job.id, job)
        _log.info("A callback has brought %s (%s until now) its task %s.", job.id, was, task_id)
        if parts.registry.get(job.id) is not job:
            if parts.journal.owns(row):
                job = self._recovery.adopt(row)
                await self._recovery.follow(job)
        elif job.owned:
            parts.tracker.submitted(job)
            parts.submitter.found(job)
        else:
            await self._recovery.follow(job)
        return job

    async def _disprove(self, intent_id: str, task_id: str) -> None:
        """Forget a task that is somebody else's, or nobody's."""
        _log.warning("A callback for %s has named task %s, which is not its own; it is ignored.", intent_id, task_id)
        await self._forget_hint(intent_id, task_id)

    async def _forget_hint(self, intent_id: str, task_id: str) -> None:
        row = await self._parts.journal.get(intent_id)
        if row is not None and task_id in row.hinted:
            left = tuple(other for other in row.hinted if other != task_id)
            await self._parts.journal.note(intent_id, at=self._parts.surroundings.wall(), hinted=left)
