"""Clients in which a bug is planted, each a variant of one part: a machine that is worth its name finds them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from kie_async._core.callback_token import CallbackToken
from kie_async._core.wire import read_record_body
from kie_async._io.callbacks.confirmations import Confirmations
from kie_async._io.callbacks.receiver import Receiver
from kie_async.callbacks import Callbacks
from tests.helpers import JournalClient

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from kie_async._io.engine import Engine
    from kie_async._io.jobs.live_job import LiveJob

__all__ = ["PLANTED", "NoMac"]


class _Trusting(Receiver):
    """Believes the body: the task has ended as it says."""

    async def take(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> None:
        job, (_, record) = self._parts.registry.get(token.job_id), read_record_body(body)
        if job is not None and record is not None and job.task_id == record.task_id:
            await self._parts.tracker.apply(job, record)
        await super().take(token, headers, body)


class _Hasty(Receiver):
    """Drops what comes before the answer to the create: what task should that be?"""

    async def take(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> None:
        row = await self._parts.journal.get(token.job_id)
        if row is None or row.task_id is not None:
            await super().take(token, headers, body)


class _Forgetful(Receiver):
    """Answers before it has written anything down."""

    async def _write_down(self, job: LiveJob, task_id: str) -> None:
        pass


class _Blind(Confirmations):
    """Asks how the task is, and not whose."""

    async def _settle(self, job_id: str, task_id: str, *, polls: int) -> tuple[bool, bool]:  # noqa: ARG002 (the same)
        poll = await self._parts.poller.poll_now(task_id)
        return poll.record is None or await self._apply(job_id, task_id, poll.record), True


class _Gullible(Callbacks):
    """Reads tokens, and does not check their MAC."""

    def _token(self, path: str) -> CallbackToken | None:
        found = re.search(r"(kj_[0-9a-f]{32})\.([0-9]+)\.[^/]*$", path)
        return None if found is None else CallbackToken(found[1], int(found[2]))


class _Planted(JournalClient):
    """A client with other parts."""

    receiver: ClassVar[type[Receiver]] = Receiver
    confirmations: ClassVar[type[Confirmations]] = Confirmations

    def _make_engine(self, loop: asyncio.AbstractEventLoop) -> Engine:
        engine = super()._make_engine(loop)
        # A seam of ours: the engine hands these two to each other, and to nobody else.
        recovery, parts = engine._recovery, engine.parts  # noqa: SLF001
        confirmations = self.confirmations(parts, recovery, report=engine._report)  # noqa: SLF001
        engine._confirmations, recovery.confirm = confirmations, confirmations.ask  # noqa: SLF001
        engine.receiver = self.receiver(parts, confirmations, report=engine._report)  # noqa: SLF001
        return engine


class TrustsTheBody(_Planted):
    receiver = _Trusting


class DropsEarlyCallbacks(_Planted):
    receiver = _Hasty


class ForgetsHints(_Planted):
    receiver = _Forgetful


class NoEcho(_Planted):
    confirmations = _Blind


class NoMac(_Planted):
    """Harmless as long as the echo is checked: one of two defences."""

    @property
    def callbacks(self) -> Callbacks:
        if not isinstance(self._callbacks, _Gullible):
            self._callbacks = _Gullible(self, self._api_key, self._callback_url)
        return self._callbacks


class NoMacAndNoEcho(NoMac, NoEcho):
    pass


#: What must be found.
PLANTED: tuple[type[JournalClient], ...] = (TrustsTheBody, DropsEarlyCallbacks, ForgetsHints, NoEcho, NoMacAndNoEcho)
