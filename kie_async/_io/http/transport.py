"""
HTTP requests over aiohttp, with proof of whether a create request may have been sent.

aiohttp awaits its trace hook ``on_request_headers_sent`` before it passes the first byte to the socket, and raises the
hook's exceptions. A hook that has not returned therefore proves that nothing was sent, and the journal's write-ahead
happens in the hook.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
import attrs
from aiohttp.abc import AbstractResolver
from yarl import URL

from kie_async import errors
from kie_async._core.job_errors import closed_error
from kie_async._io.http.resolvers import PublicResolver, ThreadResolver
from kie_async._io.runtime import Runtime, run_all, run_apart
from kie_async._urls import proxy_url
from kie_async._version import __version__

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from kie_async._urls import Networks

__all__ = [
    "Connector",
    "Exchange",
    "HttpResponse",
    "SessionFactory",
    "Transport",
    "describe",
]

#: The greatest size of a response; responses of the API have a few kilobytes. A larger one is truncated, and so broken.
MAX_BODY = 1024 * 1024
CONNECT_TIMEOUT = 10.0
#: From the first byte of a create request to the last byte of its response; recorded creates take 0.3 to 0.9 s.
CREATE_TIMEOUT = 60.0
POLL_TIMEOUT = 10.0
#: The greatest ``Retry-After`` that is obeyed: a proxy that asks for a day must not stop a client for a day.
MAX_RETRY_AFTER = 300.0
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
SILENCE_TIMEOUT = 60.0
#: The next step after a request without a response.
NEXT_STEP = "Check the network, the base URL and the proxy, if there is one, then try again."
#: The number of concurrent polls. More would only add connections, each with a handshake: a client that may poll a
#: thousand tasks at once polls them in turns over these.
MAX_CONCURRENT = 48
#: Bursts of creates are one window (10 s) apart. A connection that is kept longer saves two round trips in each.
CREATE_KEEPALIVE = 15.0
#: The greatest length of a line of headers. aiohttp's own bound (8,190) is below what some gateways send, and such an
#: answer could not be read: a paid create would be in doubt.
MAX_HEADER = 64 * 1024


@lru_cache(maxsize=64)
def _total_timeout(seconds: float) -> aiohttp.ClientTimeout:
    """Return a timeout of a whole exchange; aiohttp's own costs half as much as an anyio scope with a deadline."""
    # ceil_threshold: by default aiohttp rounds the deadline up to the next full second.
    return aiohttp.ClientTimeout(total=seconds, connect=CONNECT_TIMEOUT, ceil_threshold=math.inf)


_USER_AGENT = f"kie_async/{__version__} aiohttp/{aiohttp.__version__}"


class SessionFactory(Protocol):
    """A callable that creates an aiohttp session from keyword arguments, and may add or replace some of them."""

    def __call__(self, **kwargs: object) -> aiohttp.ClientSession:
        """Create the session: once for creates, once for other requests, and once for downloads from other hosts."""
        ...


@attrs.frozen
class HttpResponse:
    """
    A complete response.

    Attributes:
        status: The HTTP status.

        body: The body, at most ``MAX_BODY`` bytes.

        retry_after: The value of ``Retry-After`` in seconds, or None.
    """

    status: int
    body: bytes
    retry_after: float | None = None


@attrs.frozen(kw_only=True)
class Exchange:
    """
    The outcome of a create request.

    Attributes:
        sent: True if a byte may have been sent.

        response: The response, or None.

        error: The reason why there is no response, or None.

        partial: The bytes of a response that broke off.
    """

    sent: bool
    response: HttpResponse | None = None
    error: Exception | None = None
    partial: bytes = b""

    @property
    def body(self) -> bytes:
        """The body of the response, or the part of it that has come."""
        return self.partial if self.response is None else self.response.body

    @property
    def retry_after(self) -> float | None:
        """The value of ``Retry-After`` in seconds, or None."""
        return None if self.response is None else self.response.retry_after


class _WriteAhead:
    """The write-ahead that the trace hook awaits before the first byte."""

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
        api_key: Returns the bearer token, sent to the API and the upload host only.

        base_url: The URL of the API, without a slash at the end.

        upload_url: The URL of the upload host, without a slash at the end.

        session_factory: Creates the sessions.

        trust_env: True to use the proxies of the environment.

        networks: Networks from which results may be fetched although they are not public.
    """

    def __init__(
        self,
        *,
        api_key: Callable[[], str],
        base_url: str,
        upload_url: str,
        session_factory: SessionFactory,
        trust_env: bool,
        networks: Networks = (),
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._record_info = URL(f"{base_url}/api/v1/jobs/recordInfo")
        self._upload_url = upload_url
        self._session_factory = session_factory
        self._trust_env = trust_env
        self._proxies: Mapping[str, str] = {}
        self._networks = networks
        self._creates: aiohttp.ClientSession | None = None
        self._shared: aiohttp.ClientSession | None = None
        self._foreign: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """
        Create the sessions; called in the task that closes them.

        Raises:
            ConfigurationError: If the session factory or a proxy of the environment cannot be used.
        """
        if self._trust_env:
            self._proxies = getproxies()
            for url in (self._base_url, self._upload_url):
                self._proxy_for(URL(url))
        tracing = aiohttp.TraceConfig()
        tracing.on_request_headers_sent.append(_on_headers)
        self._creates = self._make_session(
            Connector(ThreadResolver(), keepalive=CREATE_KEEPALIVE), silence=None, trace_configs=[tracing]
        )
        if tracing not in self._creates.trace_configs:
            msg = (
                "session_factory has dropped trace_configs, which prove whether a create was sent. Pass the given ones"
                " to aiohttp.ClientSession; others may be added."
            )
            raise errors.ConfigurationError(msg)
        self._shared = self._make_session(Connector(ThreadResolver()))

    def _make_session(
        self, connector: Connector, *, silence: float | None = SILENCE_TIMEOUT, **more: object
    ) -> aiohttp.ClientSession:
        session = self._session_factory(
            connector=connector,
            # Requests have total timeouts of their own; ``silence`` ends a silent download.
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT, sock_read=silence),
            headers={"User-Agent": _USER_AGENT},
            # aiohttp would read passwords from netrc, too, and send them to any host that is named there.
            trust_env=False,
            # Cookies are set by a proxy in front of the service, and are not needed.
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            **more,
        )
        if session.trust_env:
            session.detach()
            msg = (
                "session_factory sets trust_env=True, with which aiohttp sends passwords of netrc to other hosts. Pass"
                " trust_env=True to KieClient instead: it takes proxies only."
            )
            raise errors.ConfigurationError(msg)
        return session

    @property
    def _sessions(self) -> list[aiohttp.ClientSession]:
        return [session for session in (self._creates, self._shared, self._foreign) if session is not None]

    async def close(self) -> None:
        """Close the sessions and their connections."""
        await run_all(*[session.close for session in self._sessions])

    def abandon(self) -> None:
        """Close the sessions of a closed event loop, whose connections cannot be closed in order."""
        for session in self._sessions:
            closing = session.close()
            with suppress(StopIteration):
                closing.send(None)
            closing.close()

    @property
    def shared_session(self) -> aiohttp.ClientSession:
        """The session for all requests but creates; it does not contain the API key."""
        if self._shared is None or self._shared.closed:
            raise closed_error()
        return self._shared

    def get_result(
        self, url: URL, *, is_own: bool, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """
        Request a result; redirects are not followed, nothing is decompressed, and the API key is not sent.

        Args:
            url: The URL.

            is_own: True if it is of an origin that the caller configured, whose address is not checked.

            headers: The headers.

        Raises:
            DownloadError: If the addresses of other hosts cannot be checked.
        """
        session = self.shared_session  # raises if the client is closed
        if not is_own:
            session = self._foreign_session()
        return session.get(
            url, headers=headers, allow_redirects=False, auto_decompress=False, proxy=self._proxy_for(url)
        )

    def _foreign_session(self) -> aiohttp.ClientSession:
        """
        Return the session for hosts that the service names.

        It shares no connection and no resolved name with the others.
        """
        if self._foreign is None:
            proxies: set[tuple[str | None, int | None]] = set()
            for scheme in ("http", "https"):
                with suppress(errors.ConfigurationError):  # it is raised where the proxy is needed
                    if (proxy := self._read_proxy(scheme)) is not None:
                        proxies.add((proxy.host, proxy.port))
            resolver = PublicResolver(self._networks, proxies=frozenset(proxies))
            session = self._make_session(Connector(resolver))
            # aiohttp has no public way to read a connector's resolver; without the attribute, the check fails safely.
            if not isinstance(getattr(session.connector, "_resolver", None), PublicResolver):
                session.detach()  # its connector may be in use elsewhere
                msg = (
                    "The result is not downloaded: session_factory replaces the connector, and with it the check that"
                    " results come from public addresses only. Make the connector with"
                    " resolver=kwargs['connector'].resolver, and save again."
                )
                error = errors.DownloadError(msg)
                error.worth_retrying = False
                raise error
            self._foreign = session
        return self._foreign

    def _proxy_for(self, url: URL) -> URL | None:
        """Return the proxy that the environment names for a URL, or None."""
        if not self._proxies or url.host is None or proxy_bypass(url.host) or proxy_bypass(f"{url.host}:{url.port}"):
            return None
        return self._read_proxy(url.scheme)

    def _read_proxy(self, scheme: str) -> URL | None:
        """Return the proxy for a scheme, or None; refuse SOCKS, which aiohttp would take for an HTTP proxy."""
        text = self._proxies.get(scheme) or self._proxies.get("all")
        if not text:
            return None
        try:
            return URL(proxy_url(text))
        except ValueError as error:
            msg = f"{scheme.upper()}_PROXY or ALL_PROXY: {error} Change it, or name hosts without a proxy in NO_PROXY."
        del text  # error trackers show variables
        raise errors.ConfigurationError(msg)

    async def create(self, body: bytes, *, before_first_byte: Callable[[], Awaitable[None]]) -> Exchange:
        """
        Post a create request once. Only cancellation is raised; all errors are in the returned value.

        Args:
            body: The JSON.

            before_first_byte: Awaited before the first byte; if it raises, nothing is sent.
        """
        if self._creates is None or self._creates.closed:
            raise closed_error()
        scope = anyio.CancelScope()
        write_ahead = _WriteAhead(before_first_byte, scope)
        received = bytearray()
        error: Exception = TimeoutError(f"no response within {CREATE_TIMEOUT:g} s")
        with scope:
            try:
                async with self._creates.post(
                    f"{self._base_url}/api/v1/jobs/createTask",
                    data=body,
                    headers=self._headers(body),
                    allow_redirects=False,
                    proxy=self._proxy_for(self._record_info),
                    trace_request_ctx=write_ahead,
                ) as response:
                    return Exchange(sent=True, response=await _read(response, received))
            except Exception as raised:  # noqa: BLE001 (no exception may hide that a request was sent)
                error = raised.with_traceback(None)  # its frames have the headers
        # The kind of exception does not tell whether the service has the request; the hook does.
        return Exchange(sent=write_ahead.returned, error=error, partial=bytes(received))

    async def poll(self, task_id: str, *, timeout: float = POLL_TIMEOUT) -> HttpResponse:
        """
        Request a task's record (recordInfo).

        Args:
            task_id: The task's id.

            timeout: The timeout of the whole exchange, in seconds.

        Raises:
            TransportError: If there is no complete response in time.
        """
        url = self._record_info.with_query(f"taskId={task_id}")
        return _require_response(await self._exchange("GET", url, _total_timeout(timeout)), "GET", url)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | aiohttp.FormData | None = None,
        upload: bool = False,
        timeout: float = 30.0,
    ) -> HttpResponse:
        """
        Send any request that is free of charge.

        Args:
            method: The HTTP method.

            path: The path, with a slash at the beginning.

            params: The query.

            data: The body: JSON as bytes, or a form.

            upload: True to send it to the upload host.

            timeout: The timeout of the whole exchange, in seconds.

        Raises:
            TransportError: If there is no complete response in time.
        """
        url = URL(f"{self._upload_url if upload else self._base_url}{path}").update_query(params)
        # aiohttp's frames have the headers: they must not be in the traceback of the caller's own timeout.
        return _require_response(
            await run_apart(self._exchange, method, url, _total_timeout(timeout), data), method, url
        )

    async def _exchange(
        self, method: str, url: URL, timeout: aiohttp.ClientTimeout, data: bytes | aiohttp.FormData | None = None
    ) -> HttpResponse | str:
        """Return the response, or the reason why there is none: an exception would carry aiohttp's frames."""
        try:
            async with self.shared_session.request(
                method,
                url,
                data=data,
                headers=self._headers(data),
                allow_redirects=False,
                timeout=timeout,
                proxy=self._proxy_for(url),
            ) as response:
                return await _read(response, bytearray())
        except errors.ClientClosedError:
            raise
        except Exception as error:  # noqa: BLE001 (a session of the caller's own, or its hooks, may raise anything)
            return describe(error)

    def _headers(self, data: object) -> dict[str, str]:
        """Return the key and the content type; never kept in a variable, which an error report would show."""
        headers = {"Authorization": f"Bearer {self._api_key()}"}
        if isinstance(data, bytes):
            headers["Content-Type"] = "application/json"
        return headers


def _require_response(outcome: HttpResponse | str, method: str, url: URL) -> HttpResponse:
    if isinstance(outcome, HttpResponse):
        return outcome
    msg = f"{method} {url.path} got no response ({outcome}). {NEXT_STEP}"
    raise errors.TransportError(msg)


async def _read(response: aiohttp.ClientResponse, received: bytearray) -> HttpResponse:
    """Read a response into *received*, which keeps what has come if it breaks off."""
    while chunk := await response.content.readany():
        if len(received) + len(chunk) > MAX_BODY:
            response.close()
            break
        received += chunk
    return HttpResponse(response.status, bytes(received), read_retry_after(response.headers))


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the seconds of ``Retry-After``; a date counts from the answer's own ``Date``, so that clocks may differ."""
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER)
    until = _read_date(text)
    if until is None:
        return None
    since = _read_date(headers.get("Date", ""))
    if since is None:
        since = Runtime(asyncio.get_running_loop()).wall()
    return min(max(until - since, 0.0), MAX_RETRY_AFTER)


def _read_date(text: str) -> float | None:
    """Return the instant of an HTTP date in any of its three forms, in seconds since the epoch; None if it is none."""
    try:
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def describe(error: BaseException) -> str:
    """Describe an error in a few words, without addresses, headers or bodies."""
    if isinstance(error, asyncio.TimeoutError) and not str(error):
        return "timed out"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return type(error).__name__


class Connector(aiohttp.TCPConnector):
    """
    The connector of a session, whose resolver another connector can take over, and with it the check of addresses.

    Args:
        resolver: The resolver.

        keepalive: The time that an idle connection is kept, in seconds.
    """

    def __init__(self, resolver: AbstractResolver, *, keepalive: float = 15.0) -> None:
        super().__init__(limit=0, resolver=resolver, keepalive_timeout=keepalive)
        self.resolver: AbstractResolver = resolver
