"""``Callbacks``: where a web server hands in what the service has posted to the client's ``callback_url``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kie_async import errors
from kie_async.events import Event, EventName

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from kie_async._binding import EngineBinding
    from kie_async._core.callback_token import CallbackToken
    from kie_async._io.callbacks.adapters import ASGIApp, CallbackHandler
    from kie_async.records import JSON

__all__ = ["Callbacks"]

_OK = 200
_SUCCESS = b'{"code":200,"msg":"success"}'
_NOT_FOUND = 404
_TRY_AGAIN = 503


class Callbacks:
    """
    The receiver of one client, as ``KieClient.callbacks``.

    A callback is taken if the token at the end of its URL is ours and its signature fits (if the client has a
    ``webhook_key``). It is noted and answered at once; then ``recordInfo`` is asked how the task has ended.
    Nobody can make a job end wrongly by posting something, and a job ends by its callback or by polling, whichever is
    first.

    Any process that shares the journal can take any callback.
    """

    def __init__(self, binding: EngineBinding, api_key: str, callback_url: str | None) -> None:
        self._binding = binding
        self._api_key = api_key
        self._callback_url = callback_url
        self._find: Callable[[str], CallbackToken | None] | None = None
        self._mounted = False

    @property
    def mounted(self) -> bool:
        """Whether callbacks are expected to come here: until something takes them, every end is polled for."""
        return self._mounted

    async def handle(
        self, path: str, headers: Mapping[str, str] | Iterable[tuple[str, str]], body: bytes
    ) -> tuple[int, bytes]:
        """
        Take one callback, in any web framework: a POST whose body has been read.

        Where the framework lets a handler decide before it reads the body, ask ``admits(path)`` first.

        Args:
            path: The request's path or URL, or only the token at its end.

            headers: The request's headers.

            body: The request's body, as it came.

        Returns:
            The HTTP status and the body (JSON) to answer with: 200 if it is taken, 404 if the token is not ours or the
            journal does not know its job, 401 if the signature does not fit, 400 or 413 if it cannot be read, 429 if
            too many others for its job wait, 503 if it could not be noted; then the service tries again.

        Raises:
            ConfigurationError: If the client is at work in another event loop or process.
        """
        self._mount()
        token = self._token(path)
        if token is None:
            return self._refuse("its URL has no token of ours", status=_NOT_FOUND)
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        return await self._take(token, {str(name).lower(): str(value) for name, value in pairs}, body)

    def admits(self, path: str) -> bool:
        """
        Whether a path or URL ends with a token of ours; nobody is asked, and it takes the same time for any other one.

        Args:
            path: The request's path or URL, or only the token.
        """
        return self._token(path) is not None

    def asgi_app(self) -> ASGIApp:
        """
        An ASGI application, to be mounted at the path of ``callback_url``.

        It fits FastAPI, Starlette, Litestar, Django, Quart, or a server that runs nothing else.
        It reads no body before it has seen the token, reads at most 256 KiB within 10 s, and answers 405 to anything
        but a POST.
        """
        from kie_async._io.callbacks.adapters import CallbackApp

        self._mount()
        return CallbackApp(self._door())

    def aiohttp_routes(self, path: str | None = None) -> list[web.RouteDef]:
        """
        Routes for an aiohttp application: ``app.add_routes(kie.callbacks.aiohttp_routes())``.

        Args:
            path: Where they are, if a proxy has changed it; by default the path of ``callback_url``.
        """
        from kie_async._io.callbacks.adapters import callback_routes

        self._mount()
        return callback_routes(self._door(), urlsplit(self._callback_url or "").path if path is None else path)

    def _door(self) -> CallbackHandler:
        from kie_async._io.callbacks.adapters import CallbackHandler

        return CallbackHandler(find_token=self._token, accept=self._take, refuse=self._refuse)

    def _mount(self) -> None:
        """Expect callbacks from now on; done by whatever takes them."""
        if not self._mounted:
            self._mounted = True
            self._binding.expect_callbacks()

    async def _take(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Take a callback whose token is genuine, with names of headers in lower case; see ``handle``."""
        try:
            engine = await self._binding.engine()
            await engine.receiver.take(token, headers, body)
        except errors.CallbackRejectedError as error:
            return self._refuse(error.message, status=error.status, job_id=token.job_id)
        except (errors.ClientClosedError, errors.JournalError):
            why = "the client is closed, or its journal cannot be used"
            return self._refuse(why, status=_TRY_AGAIN, job_id=token.job_id)
        return _OK, _SUCCESS

    def _refuse(self, reason: str, *, status: int, job_id: str | None = None) -> tuple[int, bytes]:
        """Report a callback that is not taken, and make the answer to it, which tells a stranger nothing."""
        detail: dict[str, JSON] = {"reason": reason, "status": status}
        self._binding.report(Event(name=EventName.CALLBACK_REFUSED, job_id=job_id, detail=detail))
        return status, b'{"code":%d,"msg":"refused"}' % status

    def _token(self, path: str) -> CallbackToken | None:
        if self._find is None:
            from kie_async._core.callback_token import callback_secret, find_token

            self._find = partial(find_token, callback_secret(self._api_key))
        return self._find(path)
