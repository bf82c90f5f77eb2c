"""Callbacks: the posts by which the service reports that a task has ended."""

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import ipaddress
import math
from collections.abc import Callable, Collection, Mapping
from itertools import count
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import aiohttp
import anyio
import attrs

from kie_async.testing import dialect
from kie_async.testing.truth import LoggedCallback

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from kie_async.records import JSON
    from kie_async.testing.faults import Fault
    from kie_async.testing.tasks import FakeTask
    from kie_async.testing.truth import Truth

__all__ = ["ANSWER_WITHIN", "TRIES", "CallbackSender", "sign"]

#: How long a receiver may take to answer, in seconds, and how often a report is tried.
ANSWER_WITHIN = 15.0
TRIES = 3

_OK = 200


def sign(key: str, task_id: str, timestamp: int) -> dict[str, str]:
    """
    The headers that sign a callback: the id and the time, not the body.

    Args:
        key: The account's ``webhookHmacKey``.

        task_id: The task.

        timestamp: Seconds since the epoch.

    >>> sign("secret", "abc", 1767225600)["X-Webhook-Signature"]
    'kEgM6OvYQJhzZEV8VWRyDo4wCQ5qxLYFMQ5WWAkH5bo='
    """
    digest = hmac.new(key.encode(), f"{task_id}.{timestamp}".encode(), hashlib.sha256).digest()
    return {"X-Webhook-Timestamp": str(timestamp), "X-Webhook-Signature": base64.b64encode(digest).decode()}


class _Strike(Protocol):
    def __call__(self, *, path: str, body: bytes, early: bool) -> Fault | None: ...


@attrs.frozen(kw_only=True, order=True)
class _Due:
    """A report that is due at an instant, unless the task's end is moved before."""

    at: float
    number: int
    task: FakeTask = attrs.field(order=False)
    url: str = attrs.field(order=False)
    ends_at: float = attrs.field(order=False)
    early: Fault | None = attrs.field(order=False)


class CallbackSender:
    """
    Posts the end of every task that has a callback URL: within ``ANSWER_WITHIN`` seconds, at most ``TRIES`` times.

    It posts to this machine alone unless told otherwise, so that a test never reaches a real receiver.

    Args:
        truth: Where each attempt is noted.

        strike: Asks the fault script about a post.

        wall: The wall clock at an instant of the loop's.

        key: The account's ``webhookHmacKey``, or None if callbacks are not signed.

        delay: Seconds between a task's end and its post.

        retry_delay: Seconds between a failed attempt and the next.

        hosts: Further hosts that may be posted to.
    """

    def __init__(
        self,
        *,
        truth: Truth,
        strike: _Strike,
        wall: Callable[[float], float],
        key: str | None,
        delay: float,
        retry_delay: float,
        hosts: Collection[str],
    ) -> None:
        self._truth = truth
        self._strike = strike
        self._wall = wall
        self._key = key
        self._delay = delay
        self._retry_delay = retry_delay
        self._hosts = frozenset(hosts)
        self._queue: list[_Due] = []
        self._told_early: set[str] = set()
        self._numbers = count()
        self._earlier = anyio.Event()

    def expect(self, task: FakeTask) -> None:
        """Report *task*, which has just been created, when it ends or before; one that hangs has no end to report."""
        if task.callback_url is not None and math.isfinite(task.ends_at):
            fault = self._strike(path=task.callback_url, body=_body(task), early=True)
            seconds = (None if fault is None else fault.seconds) or 0.0
            self._plan(task, task.callback_url, at=max(task.created_at, task.ends_at - seconds), early=fault)

    def ended(self, task: FakeTask) -> None:
        """Report *task*, whose end has been moved to this instant, unless that was done before."""
        if task.callback_url is not None and task.task_id not in self._told_early:
            self._plan(task, task.callback_url, at=task.ends_at, early=None)

    def _plan(self, task: FakeTask, url: str, *, at: float, early: Fault | None) -> None:
        due = _Due(at=at, number=next(self._numbers), task=task, url=url, ends_at=task.ends_at, early=early)
        heapq.heappush(self._queue, due)
        self._earlier.set()

    async def run(self) -> None:
        """Wait for ends, and report them; never returns."""
        # To the point: aiohttp rounds longer time-outs up to full seconds unless told not to.
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN, ceil_threshold=2 * ANSWER_WITHIN)
        cookies = aiohttp.DummyCookieJar()
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=cookies) as session,
            anyio.create_task_group() as group,
        ):
            while True:
                self._earlier = anyio.Event()
                self._send_due(session, group)
                next_at = self._queue[0].at if self._queue else float("inf")
                with anyio.move_on_at(next_at):
                    await self._earlier.wait()

    def _send_due(self, session: aiohttp.ClientSession, group: TaskGroup) -> None:
        while self._queue and self._queue[0].at <= anyio.current_time():
            due = heapq.heappop(self._queue)
            # A task whose end was moved stands here more than once.
            if due.task.ends_at == due.ends_at:
                if due.early is not None:
                    self._told_early.add(due.task.task_id)
                group.start_soon(self._report, session, due)

    async def _report(self, session: aiohttp.ClientSession, due: _Due) -> None:
        task, url = due.task, due.url
        fault = due.early or self._strike(path=url, body=_body(task), early=False)
        what = None if fault is None else fault.kind
        if what == "lost":
            return
        if not self._may_post_to(url):
            error = "not on this machine, and not one of callback_hosts"
            self._truth.callbacks.append(LoggedCallback(anyio.current_time(), task.task_id, url, 1, error=error))
            return
        seconds = (fault.seconds if fault is not None and what == "slow" else None) or 0.0
        await anyio.sleep(0.0 if what == "early" else self._delay + seconds)
        for attempt in range(1, TRIES + 1):
            if attempt > 1:
                await anyio.sleep(self._retry_delay)
            if await self._post(session, task, url, attempt, fault):
                break
        else:
            return
        for _ in range(1, (fault.copies if fault is not None else None) or 1):
            await self._post(session, task, url, 1, fault)

    async def _post(
        self, session: aiohttp.ClientSession, task: FakeTask, url: str, attempt: int, fault: Fault | None
    ) -> bool:
        """Make one attempt; whether the receiver has answered 200."""
        now = anyio.current_time()
        forged = {} if fault is None else fault.data or {}
        body = _body(task, forged)
        noted = LoggedCallback(now, task.task_id, url, attempt)
        self._truth.callbacks.append(noted)
        headers = {
            "Content-Type": "application/json",
            **self._signature(str(forged.get("taskId", task.task_id)), now, fault),
        }
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                noted.status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            noted.error = f"{type(error).__name__}: {error}"
        return noted.status == _OK

    def _signature(self, task_id: str, now: float, fault: Fault | None) -> dict[str, str]:
        what = None if fault is None else fault.kind
        if self._key is None or what == "unsigned":
            return {}
        age = (fault.seconds if fault is not None and what == "stale" else None) or 0.0
        key = self._key + "?" if what == "wrong_signature" else self._key
        return sign(key, task_id, int(self._wall(now) - age))

    def _may_post_to(self, url: str) -> bool:
        try:
            host = urlsplit(url).hostname or ""
            return host in self._hosts or host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def _body(task: FakeTask, forged: Mapping[str, JSON] | None = None) -> bytes:
    return dialect.compact(dialect.callback(task, forged)).encode()
