"""Clients in which a bug is planted, each a variant of one part: a machine that is worth its name finds them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

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
        job, (_, record) = self._registry.get(token.job_id), read_record_body(body)
        if job is not None and record is not None and job.task_id == record.task_id:
            await self._confirmations._tracker.apply(job, record)  # noqa: SLF001
        await super().take(token, headers, body)


class _Hasty(Receiver):
    """Drops what comes before the answer to the create: what task should that be?"""

    async def take(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> None:
        row = await self._journal.get(token.job_id)
        if row is None or row.task_id is not None:
            await super().take(token, headers, body)


class _Forgetful(Receiver):
    """Answers before it has written anything down."""

    async def _write_down(self, job: LiveJob, task_id: str) -> None:
        pass


class _Blind(Confirmations):
    """Asks how the task is, and not whose."""

    async def _settle(self, job_id: str, task_id: str, *, polls: int) -> tuple[bool, bool]:  # noqa: ARG002 (the same)
        poll = await self._poller.poll_now(task_id)
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

    def __init__(self, api_key: str | None = None, **options: Any) -> None:
        super().__init__(api_key, **options)
        make_engine = self._binding._make_engine  # noqa: SLF001

        def plant(loop: asyncio.AbstractEventLoop) -> Engine:
            engine = make_engine(loop)
            # The variants only override methods.
            setattr(engine.confirmations, "__class__", self.confirmations)  # noqa: B010  # mypy minds the assignment
            setattr(engine.receiver, "__class__", self.receiver)  # noqa: B010
            return engine

        setattr(self._binding, "_make_engine", plant)  # noqa: B010


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
            was = self._callbacks
            self._callbacks = _Gullible(self._binding, was._api_key, was._callback_url)  # noqa: SLF001
        return self._callbacks


class NoMacAndNoEcho(NoMac, NoEcho):
    pass


#: What must be found.
PLANTED: tuple[type[JournalClient], ...] = (TrustsTheBody, DropsEarlyCallbacks, ForgetsHints, NoEcho, NoMacAndNoEcho)
