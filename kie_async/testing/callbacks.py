"""The callbacks of the fake: the POST requests with which the service reports the ends of tasks."""

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import ipaddress
import math
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import anyio
import attrs

from kie_async.testing import responses
from kie_async.testing.truth import LoggedCallback

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from kie_async.records import JSON
    from kie_async.testing.faults import Fault, FaultKind
    from kie_async.testing.tasks import FakeTask
    from kie_async.testing.truth import Truth

__all__ = ["ATTEMPTS", "RECEIVER_TIMEOUT", "CallbackSender", "sign"]

#: The timeout of a receiver's response, in seconds, and the largest number of attempts to deliver a callback.
RECEIVER_TIMEOUT = 15.0
ATTEMPTS = 3

_OK = 200


def sign(key: str, task_id: str, timestamp: int) -> dict[str, str]:
    """
    Return the headers that sign a callback: its task id and its time, not its body.

    Args:
        key: The account's ``webhookHmacKey``.

        task_id: The task.

        timestamp: Seconds since the epoch.

    >>> sign("secret", "abc", 1767225600)["X-Webhook-Signature"]
    'kEgM6OvYQJhzZEV8VWRyDo4wCQ5qxLYFMQ5WWAkH5bo='
    """
    digest = hmac.new(key.encode(), f"{task_id}.{timestamp}".encode(), hashlib.sha256).digest()
    return {"X-Webhook-Timestamp": str(timestamp), "X-Webhook-Signature": base64.b64encode(digest).decode()}


@attrs.frozen(kw_only=True, order=True)
class _ScheduledCallback:
    """A callback that is due at an instant, unless the end of its task is moved before."""

    at: float
    number: int
    task: FakeTask = attrs.field(order=False)
    url: str = attrs.field(order=False)
    ends_at: float = attrs.field(order=False)
    early: Fault | None = attrs.field(order=False)


@attrs.define(kw_only=True, eq=False)
class CallbackSender:
    """
    The sender of callbacks: it posts the end of every task that has a callback URL, in at most ``ATTEMPTS`` attempts.

    By default it posts to this machine only, so that a test never reaches a real receiver.

    Attributes:
        truth: The log of the attempts.

        pick_fault: Returns the fault that affects a callback, given ``path``, ``body`` and ``early``.

        wall: Returns the wall clock at an instant of the loop's clock.

        key: The account's ``webhookHmacKey``, or None for unsigned callbacks.

        delay: Seconds between the end of a task and its callback.

        retry_delay: Seconds between a failed attempt and the next.

        hosts: The allowed hosts besides this machine.

        open_session: Opens the session that posts the callbacks.
    """

    truth: Truth
    pick_fault: Callable[..., Fault | None]
    wall: Callable[[float], float]
    key: str | None
    delay: float
    retry_delay: float
    hosts: Collection[str]
    open_session: Callable[..., aiohttp.ClientSession] = aiohttp.ClientSession
    _queue: list[_ScheduledCallback] = attrs.field(factory=list, init=False)
    _sent_early: set[str] = attrs.field(factory=set, init=False)
    _numbers: count[int] = attrs.field(factory=count, init=False)
    _queue_changed: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def schedule(self, task: FakeTask) -> None:
        """Schedule the callback of the new *task* at its end or before; a task that hangs has no end."""
        if task.callback_url is not None and math.isfinite(task.ends_at):
            fault = self.pick_fault(path=task.callback_url, body=_body(task), early=True)
            at = max(task.created_at, task.ends_at - _seconds(fault, "early"))
            self._push(task, task.callback_url, at=at, early=fault)

    def reschedule(self, task: FakeTask) -> None:
        """Schedule the callback of *task*, whose end was moved to this instant, unless it was sent before."""
        if task.callback_url is not None and task.task_id not in self._sent_early:
            self._push(task, task.callback_url, at=task.ends_at, early=None)

    def _push(self, task: FakeTask, url: str, *, at: float, early: Fault | None) -> None:
        number = next(self._numbers)
        scheduled = _ScheduledCallback(at=at, number=number, task=task, url=url, ends_at=task.ends_at, early=early)
        heapq.heappush(self._queue, scheduled)
        self._queue_changed.set()

    async def run(self) -> None:
        """Send the callbacks that become due; never returns."""
        # aiohttp rounds timeouts above the threshold up to full seconds.
        timeout = aiohttp.ClientTimeout(total=RECEIVER_TIMEOUT, ceil_threshold=2 * RECEIVER_TIMEOUT)
        cookies = aiohttp.DummyCookieJar()
        async with (
            self.open_session(timeout=timeout, cookie_jar=cookies) as session,
            anyio.create_task_group() as group,
        ):
            while True:
                self._queue_changed = anyio.Event()
                self._send_due(session, group)
                next_at = self._queue[0].at if self._queue else math.inf
                with anyio.move_on_at(next_at):
                    await self._queue_changed.wait()

    def _send_due(self, session: aiohttp.ClientSession, group: TaskGroup) -> None:
        while self._queue and self._queue[0].at <= anyio.current_time():
            due = heapq.heappop(self._queue)
            # A task whose end was moved is queued more than once.
            if due.task.ends_at == due.ends_at:
                if due.early is not None:
                    self._sent_early.add(due.task.task_id)
                group.start_soon(self._deliver, session, due)

    async def _deliver(self, session: aiohttp.ClientSession, due: _ScheduledCallback) -> None:
        task, url = due.task, due.url
        fault = due.early or self.pick_fault(path=url, body=_body(task), early=False)
        kind = None if fault is None else fault.kind
        if kind == "lost":
            return
        if not self._may_post_to(url):
            error = "not on this machine, and not one of callback_hosts"
            self.truth.callbacks.append(LoggedCallback(anyio.current_time(), task.task_id, url, 1, error=error))
            return
        await anyio.sleep(0.0 if kind == "early" else self.delay + _seconds(fault, "slow"))
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                await anyio.sleep(self.retry_delay)
            if await self._post(session, task, url, attempt, fault):
                break
        else:
            return
        for _ in range(1, (fault.copies if fault is not None else None) or 1):
            await self._post(session, task, url, 1, fault)

    async def _post(
        self, session: aiohttp.ClientSession, task: FakeTask, url: str, attempt: int, fault: Fault | None
    ) -> bool:
        """Make one attempt; return True if the receiver has responded with 200."""
        now = anyio.current_time()
        replaced = {} if fault is None else fault.data or {}
        entry = LoggedCallback(now, task.task_id, url, attempt)
        self.truth.callbacks.append(entry)
        signature = self._signature(str(replaced.get("taskId", task.task_id)), now, fault)
        headers = {"Content-Type": "application/json", **signature}
        try:
            async with session.post(url, data=_body(task, replaced), headers=headers, allow_redirects=False) as answer:
                entry.status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            entry.error = f"{type(error).__name__}: {error}"
        return entry.status == _OK

    def _signature(self, task_id: str, now: float, fault: Fault | None) -> dict[str, str]:
        kind = None if fault is None else fault.kind
        if self.key is None or kind == "unsigned":
            return {}
        age = _seconds(fault, "stale")
        key = self.key + "?" if kind == "wrong_signature" else self.key
        return sign(key, task_id, int(self.wall(now) - age))

    def _may_post_to(self, url: str) -> bool:
        try:
            host = urlsplit(url).hostname or ""
            return host in self.hosts or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def _seconds(fault: Fault | None, kind: FaultKind) -> float:
    """Return the seconds of a fault of *kind*, else 0."""
    return (fault.seconds if fault is not None and fault.kind == kind else None) or 0.0


def _body(task: FakeTask, replaced: Mapping[str, JSON] | None = None) -> bytes:
    return responses.encode(responses.callback_body(task, replaced)).encode()
