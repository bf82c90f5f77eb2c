"""
Results on their way to disk: each file whole and what it claims to be, or not there at all.

A result URL comes from the service and leads to another host. So it is judged before it is followed, at every redirect
again; it never sees the API key; and what it answers is bounded, counted and looked at before it gets its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import anyio
import attrs
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential
from yarl import URL

from kie_async import errors
from kie_async._core.claims import claims_other, looks_like_text
from kie_async._core.wire import read_download_url, read_envelope
from kie_async._core.wire_files import write_download_url
from kie_async._io.disk import PartFile, is_folder
from kie_async._io.transport import Transport, describe
from kie_async.requests.media import HEAD, Media, identify
from kie_async.requests.urls import check_result_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from kie_async.records import Generation

__all__ = ["Downloads"]

MAX_BYTES = 2 * 1024**3
MAX_REDIRECTS = 3
ATTEMPTS = 3
#: A download may take a minute, and a second more for each of these many bytes that have come.
GRACE = 60.0
MIN_RATE = 16 * 1024

_OK = 200
_GONE = (403, 404, 410)
#: The codes with which a fresh link is refused because there is nothing to link to.
_NOT_HELD = (404, 422)
_REDIRECTS = (301, 302, 303, 307, 308)
_SERVER_ERROR = 500

_LATER = "The task stays done: save again."


class _BrokenOffError(errors.DownloadError):
    """A download that is worth another try."""


class _GoneError(Exception):
    """The host does not have the file, or does not give it."""


@attrs.frozen
class _Fetched:
    """A complete download under a name of its own, beside the file that it will become."""

    part: PartFile
    media: Media | None


class Downloads:
    """
    Fetches results, with the client's sessions or, when it is closed, with sessions of its own.

    Args:
        transport: Opens a transport for the time of one save.

        new_id: Makes names for files that are not whole yet.

        allowed_origins: Origins that are taken as they are, because the caller configured them.

        hosts: Endings of the host names that results may come from; None for any public host.
    """

    def __init__(
        self,
        *,
        transport: Callable[[], AbstractAsyncContextManager[Transport]],
        new_id: Callable[[], str],
        allowed_origins: frozenset[str],
        hosts: tuple[str, ...] | None,
    ) -> None:
        self._transport = transport
        self._new_id = new_id
        self._allowed_origins = allowed_origins
        self._hosts = hosts

    async def save(self, generation: Generation, path: Path) -> list[Path]:
        """Put all results of *generation* on disk; see ``Generation.save``."""
        files: list[Path] = []
        try:
            async with self._transport() as transport:
                into_folder = await is_folder(path)
                for index, url in enumerate(generation.urls or (generation.url,), 1):
                    fetched = await self._fetch(transport, url, path if into_folder else path.parent)
                    name = (
                        _name(path, index, generation.task_id, fetched.media) if into_folder else _numbered(path, index)
                    )
                    try:
                        await fetched.part.become(name)
                    except BaseException:
                        await fetched.part.discard()
                        raise
                    files.append(name)
        except _BrokenOffError as error:
            known = {"intent_id": generation.intent_id, "task_id": generation.task_id}
            raise errors.DownloadError(error.message, **known) from None
        except errors.DownloadError as error:
            error.intent_id, error.task_id = generation.intent_id, generation.task_id
            raise
        return files

    async def _fetch(self, transport: Transport, url: str, folder: Path) -> _Fetched:
        retrying: AsyncRetrying = AsyncRetrying(
            reraise=True,
            retry=retry_if_exception_type(_BrokenOffError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=0.5, max=5.0),
            sleep=anyio.sleep,
        )
        fetched: _Fetched
        try:
            fetched = await retrying(self._once, transport, url, folder)
        except _GoneError:
            fresh = await self._mint(transport, url)
            try:
                fetched = await retrying(self._once, transport, fresh, folder)
            except _GoneError:
                raise _expired() from None
        return fetched

    async def _mint(self, transport: Transport, url: str) -> str:
        """A fresh link for an expired URL; that there is one does not prove that there is a file."""
        try:
            answer = await transport.ask("POST", "/api/v1/common/download-url", data=write_download_url(url))
        except errors.TransportError as error:
            raise _not_minted(describe(error)) from error
        envelope = read_envelope(answer.body)
        fresh = None if envelope is None else read_download_url(envelope)
        if fresh is not None:
            return fresh
        if envelope is not None and envelope.code in _NOT_HELD:
            raise _expired()
        raise _not_minted(str(answer.status if envelope is None else envelope.code))

    async def _once(self, transport: Transport, url: str, folder: Path) -> _Fetched:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                wrong = check_result_url(url, allowed_origins=self._allowed_origins, hosts=self._hosts)
                if wrong is not None:
                    msg = (
                        f"The result is not fetched: {wrong}. If its host is right, pass download_hosts to the client."
                    )
                    raise errors.DownloadError(msg)
                async with transport.rest.get(
                    URL(url, encoded=url.isascii()),
                    allow_redirects=False,
                    auto_decompress=False,
                    headers={"Accept-Encoding": "identity"},
                ) as response:
                    if response.status not in _REDIRECTS or "Location" not in response.headers:
                        return await self._receive(response, folder)
                    url = _joined(response.url, response.headers["Location"])
        except (aiohttp.ClientError, OSError) as error:  # the disk's own are DownloadErrors already
            msg = f"The download was broken off ({describe(error)}). {_LATER}"
            raise _BrokenOffError(msg) from error
        msg = f"The download was redirected more than {MAX_REDIRECTS} times. {_LATER}"
        raise errors.DownloadError(msg)

    async def _receive(self, response: aiohttp.ClientResponse, folder: Path) -> _Fetched:
        _check_headers(response)
        part = PartFile(folder / f".{self._new_id()}.part")
        await part.create()
        try:
            media = _judge(response.content_type, await _pour(response, part))
            await part.close()
        except BaseException:
            await part.discard()
            raise
        return _Fetched(part, media)


def _joined(url: URL, location: str) -> str:
    try:
        return str(url.join(URL(location, encoded=location.isascii())))
    except ValueError:
        msg = f"The download was redirected to something that is no URL. {_LATER}"
        raise errors.DownloadError(msg) from None


def _check_headers(response: aiohttp.ClientResponse) -> None:
    if response.status in _GONE:
        raise _GoneError
    if response.status != _OK:
        kind = _BrokenOffError if response.status >= _SERVER_ERROR else errors.DownloadError
        msg = f"The result's host answered with HTTP {response.status}. {_LATER}"
        raise kind(msg)
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        # Media is compressed already: an encoding on top of it can be a bomb, and nothing else.
        msg = f"The result came compressed, which is refused. {_LATER}"
        raise errors.DownloadError(msg)
    if (response.content_length or 0) > MAX_BYTES:
        raise _too_large()


def _judge(content_type: str, head: bytes) -> Media | None:
    media = identify(head)
    if claims_other(content_type, media) or (media is None and looks_like_text(head)):
        msg = f"The result claims to be {content_type}, and begins with {head[:16]!r}. {_LATER}"
        raise errors.DownloadError(msg)
    return media


async def _pour(response: aiohttp.ClientResponse, part: PartFile) -> bytes:
    """Write the body out as it comes, and return its first bytes."""
    head, size = b"", 0
    with anyio.CancelScope(deadline=anyio.current_time() + GRACE) as scope:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > MAX_BYTES:
                raise _too_large()
            if len(head) < HEAD:
                head = (head + chunk)[:HEAD]
            scope.deadline += len(chunk) / MIN_RATE
            await part.write(chunk)
    if scope.cancelled_caught:
        msg = f"The download was too slow: {size} bytes so far. {_LATER}"
        raise _BrokenOffError(msg)
    return head


def _too_large() -> errors.DownloadError:
    return errors.DownloadError(f"The result has more than {MAX_BYTES} bytes. Fetch its URL by other means.")


def _not_minted(why: str) -> errors.DownloadError:
    return errors.DownloadError(f"The result's URL has expired, and a fresh one was not to be had ({why}). {_LATER}")


def _expired() -> errors.ResultExpiredError:
    return errors.ResultExpiredError(
        "The service no longer holds the result: its URLs last about a day, its files two weeks. Look at kie.ai/logs."
    )


def _name(folder: Path, index: int, task_id: str, media: Media | None) -> Path:
    return folder / f"{task_id}-{index}{'.bin' if media is None else media.suffix}"


def _numbered(path: Path, index: int) -> Path:
    return path if index == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")
