"""``Callbacks``: the receiver of the callbacks that the service posts to the client's ``callback_url``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kie_async import errors
from kie_async.events import Event, EventName

if TYPE_CHECKING:
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

    A callback is accepted if the token at the end of its URL is ours and, with a ``webhook_key``, its signature is
    valid. It is journaled and answered at once; then ``recordInfo`` is asked how the task has ended. A forged callback
    cannot end a job wrongly, and a job ends by its callback or by polling, whichever is first.

    Any process that shares the journal can accept any callback.
    """

    def __init__(self, binding: EngineBinding, api_key: Callable[[], str], callback_url: str | None) -> None:
        self._binding = binding
        self._api_key = api_key
        self._callback_url = callback_url
        self._mounted = False

    @property
    def mounted(self) -> bool:
        """True if a receiver is in use. Until then no callback is expected, and every end is polled for."""
        return self._mounted

    async def handle(
        self, path: str, headers: Mapping[str, str] | Iterable[tuple[str, str]], body: bytes
    ) -> tuple[int, bytes]:
        """
        Accept or refuse one callback, in any web framework: a POST whose body has been read.

        If the framework allows a check before the body is read, call ``admits(path)`` first.

        Args:
            path: The request's path or URL, or only the token at its end.

            headers: The request's headers.

            body: The request's raw body.

        Returns:
            The HTTP status and the JSON body of the answer: 200 if it is accepted, 404 if the token is not ours or the
            journal does not know its job, 401 if the signature is invalid, 400 if no task is known or named, 413 if the
            body is too large, 503 if it could not be journaled; then the service retries.

        Raises:
            ConfigurationError: If the client is at work in another event loop or process.
        """
        self._mount()
        token = self._find_token(path)
        if token is None:
            return self._refuse("its URL has no token of ours", status=_NOT_FOUND)
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        return await self._accept(token, {str(name).lower(): str(value) for name, value in pairs}, body)

    def admits(self, path: str) -> bool:
        """
        Check if a path or URL ends with a token of ours; without I/O, and in constant time.

        A token that was made with an older API key is ours, too, if the journal has that key's secret.

        Args:
            path: The request's path or URL, or only the token.

        Returns:
            True if it does.
        """
        return self._find_token(path) is not None

    def asgi_app(self) -> ASGIApp:
        """
        Return an ASGI application, to be mounted at the path of ``callback_url``.

        It works with FastAPI, Starlette, Litestar, Django, Quart, or a server that runs it alone. It checks the token
        before it reads the body, reads at most 256 KiB within 10 s, and answers 405 to anything but a POST.
        """
        from kie_async._io.callbacks.adapters import CallbackApp

        self._mount()
        return CallbackApp(self._handler())

    def aiohttp_routes(self, path: str | None = None) -> list[web.RouteDef]:
        """
        Return routes for an aiohttp application: ``app.add_routes(kie.callbacks.aiohttp_routes())``.

        Args:
            path: The path of the routes, if a proxy changes it; by default the path of ``callback_url``.

        Returns:
            One route: a POST to anything below that path, with the token as the last segment.
        """
        from kie_async._io.callbacks.adapters import callback_routes

        self._mount()
        return callback_routes(self._handler(), urlsplit(self._callback_url or "").path if path is None else path)

    def _handler(self) -> CallbackHandler:
        from kie_async._io.callbacks.adapters import CallbackHandler

        return CallbackHandler(find_token=self._find_token, accept=self._accept, refuse=self._refuse)

    def _mount(self) -> None:
        """Expect callbacks from now on; every receiver calls this."""
        self._binding.check_process()
        if not self._mounted:
            self._mounted = True
            self._binding.expect_callbacks()

    async def _accept(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Accept a callback with a genuine token, and names of headers in lower case; see ``handle``."""
        try:
            engine = await self._binding.engine()
            await engine.receiver.accept(token, headers, body)
        except errors.CallbackRejectedError as error:
            return self._refuse(error.message, status=error.status, job_id=token.job_id)
        except (errors.ClientClosedError, errors.JournalError):
            reason = "the client is closed, or its journal cannot be used"
            return self._refuse(reason, status=_TRY_AGAIN, job_id=token.job_id)
        return _OK, _SUCCESS

    def _refuse(self, reason: str, *, status: int, job_id: str | None = None) -> tuple[int, bytes]:
        """Report a refused callback, and return its answer, which does not tell the reason."""
        detail: dict[str, JSON] = {"reason": reason, "status": status}
        self._binding.report(Event(name=EventName.CALLBACK_REFUSED, job_id=job_id, detail=detail))
        return status, b'{"code":%d,"msg":"refused"}' % status

    def _find_token(self, path: str) -> CallbackToken | None:
        from kie_async._core.callback_token import callback_secret, find_token

        engine = self._binding.current
        secrets = [callback_secret(self._api_key())] if engine is None else engine.callback_secrets
        return find_token(secrets[0], path, *secrets[1:])
