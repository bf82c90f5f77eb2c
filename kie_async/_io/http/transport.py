"""
One HTTP exchange over aiohttp, with the one thing that aiohttp's exceptions do not tell: may a byte have left?

aiohttp awaits its trace hook ``on_request_headers_sent`` before it hands the first byte to the socket, and raises what
the hook raises. So a hook that has not returned proves that nothing was sent, and the hook is where a write-ahead
belongs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Protocol

import aiohttp
import anyio
import attrs
from yarl import URL

from kie_async import errors
from kie_async._core.job_errors import closed_error
from kie_async._io.http.resolver import PublicResolver
from kie_async._version import __version__

__all__ = ["Answer", "Exchange", "SessionFactory", "Transport"]

#: An answer of the API is a few kilobytes; a larger one is cut off and counts as broken.
MAX_BODY = 1024 * 1024
CONNECT_TIMEOUT = 10.0
#: From the first byte of a create to the last of its answer: recorded creates take 0.3 to 0.9 s.
CREATE_TIMEOUT = 60.0
LOOK_TIMEOUT = 10.0
#: ``Retry-After`` is believed up to here; a proxy that asks for a day must not stop a client for a day.
MAX_RETRY_AFTER = 300.0
_DIGITS = 5
SILENCE_TIMEOUT = 60.0
#: Creates, and likewise looks, on the wire at once. More would be more connections, each with a handshake of its own,
#: and not more answers: a client that may take a thousand looks at once takes them over these, in turns.
MOST_AT_ONCE = 48
#: Bursts of creates are a window (10 s) apart; a connection that is kept longer than that saves two round trips in
#: each.
CREATE_KEEPALIVE = 15.0


@lru_cache(maxsize=64)
def _bound(seconds: float) -> aiohttp.ClientTimeout:
    """A bound on the whole of an exchange: aiohttp's own, which costs half of a scope of anyio's with a deadline."""
    # To the point: by itself aiohttp would round it up to the next full second.
    return aiohttp.ClientTimeout(total=seconds, connect=CONNECT_TIMEOUT, ceil_threshold=math.inf)


_USER_AGENT = f"kie_async/{__version__} aiohttp/{aiohttp.__version__}"


class SessionFactory(Protocol):
    """Makes an aiohttp session of the keyword arguments that it is given, and may add or replace some."""

    def __call__(self, **kwargs: object) -> aiohttp.ClientSession:
        """Make the session; called once for creates and once for all else."""
        ...


@attrs.frozen
class Answer:
    """
    A complete answer.

    Attributes:
        status: The HTTP status.

        body: The body, at most ``MAX_BODY`` bytes.

        retry_after: What ``Retry-After`` asks for, in seconds, or None.
    """

    status: int
    body: bytes
    retry_after: float | None = None


@attrs.frozen(kw_only=True)
class Exchange:
    """
    How a create went.

    Attributes:
        sent: Whether a byte may have left.

        answer: The answer, or None.

        error: Why there is none, or None.
    """

    sent: bool
    answer: Answer | None = None
    error: Exception | None = None


class _WriteAhead:
    """What the trace hook awaits before the first byte."""

    def __init__(self, before_first_byte: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
        self._before_first_byte = before_first_byte
        self._scope = scope
        self.returned = False

    async def __call__(self) -> None:
        await self._before_first_byte()
        self._scope.deadline = anyio.current_time() + CREATE_TIMEOUT
        self.returned = True


async def _on_headers(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    await context.trace_request_ctx()


class Transport:
    """
    The sessions of one client in one event loop.

    Args:
        api_key: Sent as a bearer token to the API and the upload host, and to nobody else.

        base_url: The API, without a slash at the end.

        upload_url: The upload host, likewise.

        session_factory: Makes the sessions.

        trust_env: Whether proxies are taken from the environment.

        known_hosts: Hosts that may have an address which is not public, because the caller configured them.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        upload_url: str,
        session_factory: SessionFactory,
        trust_env: bool,
        known_hosts: frozenset[str],
    ) -> None:
        self._authorization = {"Authorization": f"Bearer {api_key}"}
        self._base_url = base_url
        self._record_info = URL(f"{base_url}/api/v1/jobs/recordInfo")
        self._upload_url = upload_url
        self._session_factory = session_factory
        self._trust_env = trust_env
        self._known_hosts = known_hosts
        self._creates: aiohttp.ClientSession | None = None
        self._rest: aiohttp.ClientSession | None = None
        self._create_places = anyio.Semaphore(MOST_AT_ONCE, fast_acquire=True)

    async def open(self) -> None:
        """Make the sessions; called in the task that closes them."""
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_on_headers)
        common: dict[str, object] = {
            "headers": {"User-Agent": _USER_AGENT},
            "trust_env": self._trust_env,
            # Cookies are set by a proxy in front of the service and mean nothing to us.
            "cookie_jar": aiohttp.DummyCookieJar(),
        }
        self._creates = self._session_factory(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=CREATE_KEEPALIVE),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
            trace_configs=[tracing],
            **common,
        )
        if tracing not in self._creates.trace_configs:
            msg = (
                "session_factory has dropped trace_configs, without which nobody can tell whether a create was sent."
                " Pass the ones that it is given on; others may be added."
            )
            raise errors.ConfigurationError(msg)
        self._rest = self._session_factory(
            connector=aiohttp.TCPConnector(limit=0, resolver=PublicResolver(self._known_hosts)),
            # Exchanges have bounds of their own on the whole; this one ends a download that has gone silent.
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT),
            **common,
        )

    async def close(self) -> None:
        """Close the sessions and their connections."""
        for session in (self._creates, self._rest):
            if session is not None:
                await session.close()

    @property
    def rest(self) -> aiohttp.ClientSession:
        """The session for all but creates; it has no key of its own."""
        if self._rest is None or self._rest.closed:
            raise closed_error()
        return self._rest

    async def create(self, body: bytes, *, before_first_byte: Callable[[], Awaitable[None]]) -> Exchange:
        """
        Post a create once. Nothing but cancellation, and what *before_first_byte* raises, is raised.

        Args:
            body: The JSON.

            before_first_byte: Awaited before the first byte; if it raises, nothing is sent.
        """
        if self._creates is None or self._creates.closed:
            raise closed_error()
        scope = anyio.CancelScope()
        write_ahead = _WriteAhead(before_first_byte, scope)
        async with self._create_places:
            with scope:
                try:
                    async with self._creates.post(
                        f"{self._base_url}/api/v1/jobs/createTask",
                        data=body,
                        headers=self._headers(body),
                        allow_redirects=False,
                        trace_request_ctx=write_ahead,
                    ) as response:
                        return Exchange(sent=True, answer=await _read(response))
                except Exception as error:  # noqa: BLE001 (whatever it is, it must not hide what was sent)
                    # Which exception it is does not tell whether the service has the request; the hook does.
                    return Exchange(sent=write_ahead.returned, error=error)
        return Exchange(sent=write_ahead.returned, error=TimeoutError(f"no answer within {CREATE_TIMEOUT:g} s"))

    async def poll(self, task_id: str, *, timeout: float = LOOK_TIMEOUT) -> Answer:
        """
        Ask for a task's record.

        Args:
            task_id: The task's.

            timeout: A bound on the whole, in seconds.

        Raises:
            TransportError: If no complete answer came in time.
        """
        return await self._exchange("GET", self._record_info.with_query(f"taskId={task_id}"), _bound(timeout))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | aiohttp.FormData | None = None,
        upload: bool = False,
        timeout: float = 30.0,
    ) -> Answer:
        """
        Exchange anything that costs nothing.

        Args:
            method: The HTTP method.

            path: The path, with a slash at the beginning.

            params: The query.

            data: The body: JSON as bytes, or a form.

            upload: Whether it goes to the upload host.

            timeout: A bound on the whole, in seconds.

        Raises:
            TransportError: If no complete answer came in time.
        """
        url = URL(f"{self._upload_url if upload else self._base_url}{path}").update_query(params)
        return await self._exchange(method, url, _bound(timeout), data)

    async def _exchange(
        self, method: str, url: URL, bound: aiohttp.ClientTimeout, data: bytes | aiohttp.FormData | None = None
    ) -> Answer:
        try:
            async with self.rest.request(
                method, url, data=data, headers=self._headers(data), allow_redirects=False, timeout=bound
            ) as response:
                return await _read(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = describe(error)
        # Raised outside, so that aiohttp's frames are not attached: their variables hold the key, and tools that
        # report errors show variables.
        msg = f"{method} {url.path} got no answer ({reason}). Try again."
        raise errors.TransportError(msg)

    def _headers(self, data: object) -> dict[str, str]:
        """The key, and what the body is; never kept in a variable, which an error report would show."""
        if isinstance(data, bytes):
            return {**self._authorization, "Content-Type": "application/json"}
        return self._authorization


async def _read(response: aiohttp.ClientResponse) -> Answer:
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > MAX_BODY:
            response.close()
            break
        chunks.append(chunk)
    return Answer(response.status, b"".join(chunks), _retry_after(response.headers.get("Retry-After")))


def _retry_after(text: str | None) -> float | None:
    """Seconds only: the service is not known to send the header at all, and a date would need its clock."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        return None
    return min(float(text), MAX_RETRY_AFTER)


def describe(error: BaseException) -> str:
    """An error in a few words, without addresses, headers or bodies."""
    if isinstance(error, asyncio.TimeoutError) and not str(error):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return type(error).__name__
