"""Clients with a planted bug, each a variant of one part: the stateful tests must find all of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from kie_async._core.callback_candidates import CallbackFinding
from kie_async._core.callback_token import CallbackToken
from kie_async._core.callback_validation import CallbackStep, next_step
from kie_async._core.wire import read_record_body
from kie_async._io.callbacks.confirmations import Confirmations
from kie_async._io.callbacks.receiver import Receiver
from kie_async._io.jobs.follower import JobFollower
from kie_async._io.polling.tracker import Tracker
from kie_async._io.submitting.submission import Submitter
from kie_async.callbacks import Callbacks
from kie_async.states import JobState
from tests.helpers import JournalClient

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._core.poll_results import PollResult
    from kie_async._io.engine import Engine
    from kie_async._io.jobs.live_job import LiveJob

__all__ = ["OWNERSHIP", "PLANTED", "NoMac"]


class _Trusting(Receiver):
    """Trusts the body: applies its claim about the end of the task."""

    async def accept(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> None:
        job, (_, record) = self.registry.get(token.job_id), read_record_body(body)
        if job is not None and record is not None and job.task_id == record.task_id:
            await self.confirmations.tracker.apply_record(job, record)
        await super().accept(token, headers, body)


class _Hasty(Receiver):
    """Drops callbacks that arrive before the create response."""

    async def accept(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> None:
        row = await self.journal.get(token.job_id)
        if row is None or row.task_id is not None:
            await super().accept(token, headers, body)


class _Forgetful(Receiver):
    """Answers before it has journaled the task id."""

    async def _confirm(self, row: Intent, task_id: str, body: bytes, *, signed: bool) -> None:  # noqa: ARG002 (the same)
        own = next_step(row, task_id) is CallbackStep.CONFIRM
        self.confirmations.name(row.id, task_id, own=own, likely=True)
        self.confirmations.schedule(row.id)


class _Blind(Confirmations):
    """Polls the task, and does not check that it belongs to the job."""

    async def _judge(self, row: Intent, step: CallbackStep, poll: PollResult) -> CallbackFinding:  # noqa: ARG002 (the same)
        return CallbackFinding.SETTLED if poll.record is None else CallbackFinding.OWN


class _Gullible(Callbacks):
    """Reads tokens without checking their MAC."""

    def _find_token(self, path: str) -> CallbackToken | None:
        found = re.search(r"(kj_[0-9a-f]{32})\.([0-9]+)\.[^/]*$", path)
        return None if found is None else CallbackToken(found[1], int(found[2]))


class _Dropping(Tracker):
    """Drops a job from memory, even if a submission works on it or its row is not written."""

    def stop_tracking(self, job: LiveJob) -> None:
        self.suspend(job)
        self.registry.remove(job)
        job.wake_waiters()


class _Stale(JobFollower):
    """Decides for a waiter on the row that it has read first."""

    __slots__ = ()

    async def adopt_for_waiter(self, job_id: str) -> LiveJob | None:
        row = await self.journal.get(job_id)
        if row is None:
            return None
        job = self.adopt(row)
        if row.state is JobState.INTENT and (self.journal.owns(row) or not await self.journal.is_owner_alive(row)):
            self.tracker.suspend(job)
            self.registry.remove(job)
            job.remote = False
            job.wake_waiters()
            return job
        if not self.journal.owns(row) and row.state is not JobState.INTENT:
            for claimed in await self.journal.claim([row.id]):
                job.row = claimed
        await self.follow(job)
        return job


class _Keeping(Submitter):
    """Keeps what it has given up."""

    __slots__ = ()

    async def _give_up(self, job: LiveJob) -> None:
        pass


class _Planted(JournalClient):
    """A client whose parts are replaced."""

    receiver: ClassVar[type[Receiver]] = Receiver
    confirmations: ClassVar[type[Confirmations]] = Confirmations
    tracker: ClassVar[type[Tracker]] = Tracker
    follower: ClassVar[type[JobFollower]] = JobFollower
    submitter: ClassVar[type[Submitter]] = Submitter

    def __init__(self, api_key: str | None = None, **options: Any) -> None:
        super().__init__(api_key, **options)
        make_engine = self._binding._make_engine  # noqa: SLF001

        def plant(loop: asyncio.AbstractEventLoop) -> Engine:
            engine = make_engine(loop)
            # The variants only override methods.
            for name in ("confirmations", "receiver", "tracker", "follower", "submitter"):
                setattr(getattr(engine, name), "__class__", getattr(self, name))  # noqa: B010  # mypy minds the assignment
            return engine

        setattr(self._binding, "_make_engine", plant)  # noqa: B010


class TrustsTheBody(_Planted):
    receiver = _Trusting


class DropsEarlyCallbacks(_Planted):
    receiver = _Hasty


class ForgetsTaskIds(_Planted):
    receiver = _Forgetful


class NoEcho(_Planted):
    confirmations = _Blind


class NoMac(_Planted):
    """Harmless as long as the echo is checked: one of two defenses."""

    @property
    def callbacks(self) -> Callbacks:
        if not isinstance(self._callbacks, _Gullible):
            was = self._callbacks
            self._callbacks = _Gullible(self._binding, was._api_key, was._callback_url)  # noqa: SLF001
        return self._callbacks


class NoMacAndNoEcho(NoMac, NoEcho):
    pass


class DropsLiveJobs(_Planted):
    tracker = _Dropping


class DecidesOnStaleRows(_Planted):
    follower = _Stale


class KeepsWhatItGivesUp(_Planted):
    submitter = _Keeping


#: The bugs that the interleavings must find.
OWNERSHIP: tuple[type[JournalClient], ...] = (DropsLiveJobs, DecidesOnStaleRows, KeepsWhatItGivesUp)
#: The bugs that the state machine must find.
PLANTED: tuple[type[JournalClient], ...] = (TrustsTheBody, DropsEarlyCallbacks, ForgetsTaskIds, NoEcho, NoMacAndNoEcho)
