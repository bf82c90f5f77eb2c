"""
Uploads of local files: the same bytes once per client, a few at a time.

Uploads are free of charge, and their names differ with content and time, so a failed upload is simply repeated.
"""

from __future__ import annotations

import base64
import io
from collections import OrderedDict
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import anyio
import anyio.to_thread
import attrs
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from kie_async import errors
from kie_async._core.lifecycle import Intent
from kie_async._core.verdicts import Reply, answer_error
from kie_async._core.wire import read_envelope, read_upload, upload_fields, write_base64_upload
from kie_async._io.http.backoff import FullJitter
from kie_async._io.http.transport import NEXT_STEP, HttpResponse, Transport
from kie_async._io.runtime import Runtime
from kie_async.requests.media import LocalFile, MediaSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractStreamWriter

__all__ = ["Uploaded", "Uploads"]

#: Up to this size the bytes are sent as base64 in JSON: one small body instead of a multipart form.
MAX_BASE64 = 64 * 1024
MAX_CONCURRENT_UPLOADS = 4
ATTEMPTS = 3
#: Larger files are uploaded one at a time, since each is in memory.
LARGE = 32 * 1024 * 1024
#: The time without progress after which an attempt ends, in seconds: until the connection takes the next part of the
#: bytes, and then until the response is complete.
TIMEOUT = 120.0
#: Even if there is progress, an attempt ends when it is slower than this, in bytes a second: a quarter of 128 kbit/s,
#: which four uploads may share.
SLOWEST = 4096
_PART = 64 * 1024
MAX_KNOWN = 10_000


@attrs.frozen
class Uploaded:
    """
    An uploaded file.

    Attributes:
        url: Its URL.

        sha256: The hash of its bytes, in hexadecimal.

        usable_until: The instant from which it is not used in a create any more, in seconds since the epoch.
    """

    url: str
    sha256: str
    usable_until: float


class _RetryableUploadError(errors.UploadError):
    """A failed upload that is worth another attempt, after ``retry_after`` seconds at the earliest."""

    retry_after: float = 0.0


class _AskedWait(wait_base):
    """The wait that the last answer asked for with ``Retry-After``."""

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome and retry_state.outcome.exception()
        return error.retry_after if isinstance(error, _RetryableUploadError) else 0.0


class _WatchedImage(aiohttp.BytesIOPayload):
    """The bytes of an image in a form; ``on_progress`` is called when the connection has taken a part of them."""

    def __init__(self, image: LocalFile, on_progress: Callable[[], None]) -> None:
        super().__init__(io.BytesIO(image.data), content_type=image.mime)
        self._on_progress = on_progress

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._value.seek(0)
        while part := self._value.read(_PART):
            await writer.write(part)
            self._on_progress()


class Uploads:
    """
    The uploads of one client.

    Args:
        transport: The transport.

        runtime: The clock and randomness.

        on_gateway_answer: Called after each answer that a gateway or a proxy has given in place of the service.
    """

    def __init__(
        self, transport: Transport, runtime: Runtime, on_gateway_answer: Callable[[], None] = lambda: None
    ) -> None:
        self._transport = transport
        self._runtime = runtime
        self._on_gateway_answer = on_gateway_answer
        self._limiter = anyio.CapacityLimiter(MAX_CONCURRENT_UPLOADS)
        self._large_limiter = anyio.CapacityLimiter(1)
        self._known: OrderedDict[str, Uploaded] = OrderedDict()
        self._running: dict[str, anyio.Event] = {}

    async def upload(self, source: MediaSource) -> Uploaded:
        """
        Upload the bytes of *source*, unless they were uploaded already.

        Raises:
            InvalidRequestError: If the bytes are not a valid file of its field.

            UploadError: If the upload fails.

            AuthenticationError: If the service does not accept the API key.
        """
        if await anyio.to_thread.run_sync(source.size) > LARGE:
            async with self._large_limiter:
                return await self._upload_once(source)
        return await self._upload_once(source)

    async def _upload_once(self, source: MediaSource) -> Uploaded:
        while True:
            # The limiter bounds memory, too: a file is in memory only while it holds a slot.
            async with self._limiter:
                image = await anyio.to_thread.run_sync(source.load)
                # Not by the hash: the same bytes may be a video for one field and a sound for another.
                name = image.name
                if (known := self._find_known(name)) is not None:
                    return known
                running = self._running.get(name)
                if running is None:
                    return await self._upload(image)
            # Another task uploads the same bytes: a waiter holds neither a slot nor the bytes.
            del image
            await running.wait()
            if (known := self._find_known(name)) is not None:
                return known

    def forget(self, row: Intent) -> None:
        """Forget the uploads that a request has used: the service could not fetch a file of it."""
        own = {source.sha256 for source in row.sources}
        # The caller of KieClient.upload() has put its URL into the input.
        known = self._known.items()
        lost = [name for name, uploaded in known if uploaded.sha256 in own or uploaded.url in row.input]
        for name in lost:
            del self._known[name]

    def _find_known(self, name: str) -> Uploaded | None:
        known = self._known.get(name)
        if known is not None and self._runtime.wall() < known.usable_until:
            self._known.move_to_end(name)
            return known
        return None

    async def _upload(self, image: LocalFile) -> Uploaded:
        retrying: AsyncRetrying = AsyncRetrying(
            reraise=True,
            retry=retry_if_exception_type(_RetryableUploadError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=FullJitter(wait_exponential(multiplier=0.5, max=10.0), self._runtime.random) + _AskedWait(),
            sleep=anyio.sleep,
        )
        url: str
        usable_until: float
        # The service overwrites files of the same name, and serves from a cache for a while: so other content, and an
        # upload that replaces a lost one, needs another name.
        name = f"{self._runtime.wall():.0f}-{image.name}"
        ended = self._running[image.name] = anyio.Event()
        try:
            url, usable_until = await retrying(partial(self._attempt, image, name))
        except _RetryableUploadError as error:
            raise errors.UploadError(error.message) from None
        finally:
            del self._running[image.name]
            ended.set()
        uploaded = Uploaded(url, image.sha256, usable_until)
        self._known[image.name] = uploaded
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return uploaded

    async def _attempt(self, image: LocalFile, name: str) -> tuple[str, float]:
        asked_at = self._runtime.wall()
        try:
            response = await (self._post_base64 if len(image.data) <= MAX_BASE64 else self._post_form)(image, name)
        except errors.TransportError as error:
            reason = error.message.removesuffix(NEXT_STEP).rstrip()
            msg = (
                f"A file was not uploaded: {reason} Nothing was paid: check the network, the proxy, if"
                " there is one, and upload_url (KIE_UPLOAD_URL), then try again."
            )
            raise _RetryableUploadError(msg) from error
        if (uploaded := read_upload(response.body, now=asked_at)) is not None:
            return uploaded
        envelope = read_envelope(response.body)
        reply = Reply(
            sent=True,
            status=response.status,
            envelope=envelope if envelope and envelope.code is not None else None,
            head=response.body[:64].decode("utf-8", "replace"),
        )
        if reply.from_gateway:
            self._on_gateway_answer()
        if reply.has_code(HTTPStatus.UNAUTHORIZED):
            raise answer_error(reply, what="the upload")
        reason = f": {reply.message}" if reply.message else ""
        refused = reply.code not in (None, 200, 429, 500) and response.status < HTTPStatus.INTERNAL_SERVER_ERROR
        code = reply.code or response.status
        msg = f"The upload of a file was refused with code {code}{reason}. Nothing was paid: try again."
        if refused:
            raise errors.UploadError(msg)
        busy = _RetryableUploadError(msg)
        busy.retry_after = response.retry_after or 0.0
        raise busy

    async def _post_base64(self, image: LocalFile, name: str) -> HttpResponse:
        text = f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}"
        return await self._transport.request(
            "POST", "/api/file-base64-upload", data=write_base64_upload(text, name), upload=True, timeout=TIMEOUT
        )

    async def _post_form(self, image: LocalFile, name: str) -> HttpResponse:
        total = TIMEOUT + len(image.data) / SLOWEST
        with anyio.move_on_after(TIMEOUT) as silence:

            def extend() -> None:
                silence.deadline = anyio.current_time() + TIMEOUT

            form = aiohttp.FormData()
            for field, value in upload_fields(name).items():
                form.add_field(field, value)
            form.add_field("file", _WatchedImage(image, extend), filename=name, content_type=image.mime)
            path = "/api/file-stream-upload"
            return await self._transport.request("POST", path, data=form, upload=True, timeout=total)
        msg = f"The upload host took nothing, or did not answer, for {TIMEOUT:g} s. {NEXT_STEP}"
        raise errors.TransportError(msg)
