"""
One attempt to download a file from an untrusted host into a part on disk.

Every URL, redirects included, is checked before it is requested. Requests do not carry the API key. Responses are
bounded in size and in time, and their type is checked as soon as the first bytes are there.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import anyio
import attrs
from yarl import URL

from kie_async import errors
from kie_async._core.range_responses import size_if_rest, version_of
from kie_async._io.http.resolvers import PrivateAddressError
from kie_async._io.http.transport import Transport, describe, read_retry_after
from kie_async._media import HEAD, Media, media_of_result
from kie_async._urls import check_result_url, origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kie_async._io.files.part_files import PartFile
    from kie_async._urls import Networks

__all__ = ["MAX_BYTES", "DownloadPolicy", "InterruptedDownloadError", "MissingFileError", "download_part"]

MAX_BYTES = 2 * 1024**3
MAX_REDIRECTS = 3
#: The minimum rate: ``FLOOR`` bytes in each ``WINDOW`` seconds (16 KiB/s); a pause of a minute is allowed.
FLOOR = 1024 * 1024
WINDOW = 64.0

_LATER = "The task stays done: save again."

_GONE = (404, 410)
#: A host answers so to a URL that has expired, and also to a client that it does not like.
_EXPIRED_OR_REFUSED = (400, 401, 403)
#: The other statuses below 500 that another attempt may change.
_TEMPORARY = (408, 425, 429)
#: The content codings that aiohttp decodes, and the old name of one. Other words there are mistakes of an uploader.
_COMPRESSED = frozenset({"br", "deflate", "gzip", "x-gzip", "zstd"})
_REDIRECTS = (301, 302, 303, 307, 308)


class InterruptedDownloadError(errors.DownloadError):
    """A failed download that is worth another attempt, after ``retry_after`` seconds at the earliest."""

    retry_after: float = 0.0


class MissingFileError(Exception):
    """
    The host does not have the file, or refuses to serve it.

    Attributes:
        status: The status of its answer.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    @property
    def is_refusal(self) -> bool:
        """True if the answer does not tell that the file is gone."""
        return self.status not in _GONE

    @property
    def may_mean_expired(self) -> bool:
        """True if the host answers so to a URL that has expired."""
        return self.status in (*_GONE, *_EXPIRED_OR_REFUSED)


@attrs.frozen
class DownloadPolicy:
    """
    The rules for the hosts and sizes of results.

    Attributes:
        allowed_origins: Origins that the caller configured, which need not be public.

        hosts: The allowed endings of host names; None for any public host.

        max_bytes: The greatest size of a file.

        networks: Networks whose addresses count as public.

        headers: The caller's headers; None for none, and another User-Agent may be tried.
    """

    allowed_origins: frozenset[str]
    hosts: tuple[str, ...] | None
    max_bytes: int = MAX_BYTES
    networks: Networks = ()
    headers: Mapping[str, str] | None = None

    def check(self, url: str, *, trusted: bool) -> bool:
        """
        Check a URL before it is requested; return True if it is of an origin that the caller configured.

        Args:
            url: The URL.

            trusted: False if another host has redirected on the way to it. The caller's own origins need not be
                public, so no other host must lead there.

        Raises:
            DownloadError: If it must not be requested.
        """
        allowed_origins = self.allowed_origins if trusted else frozenset[str]()
        wrong = check_result_url(url, allowed_origins=allowed_origins, hosts=self.hosts, networks=self.networks)
        if wrong is not None:
            msg = (
                f"The result is not downloaded: {wrong}. Only base_url itself and public https hosts, limited by"
                " download_hosts, are fetched from, and the networks of allow_networks: check these."
            )
            raise _refused(msg)
        return origin(url) in allowed_origins


async def download_part(transport: Transport, url: str, part: PartFile, policy: DownloadPolicy) -> Media | None:
    """
    Download the missing bytes of a file: the rest if the host named the version of the part, otherwise everything.

    Args:
        transport: The sessions.

        url: The file's URL.

        part: The part to write to; after any error it still holds a beginning of the file.

        policy: The rules for hosts and sizes.

    Returns:
        The media type of the complete file; None if it is unknown.

    Raises:
        MissingFileError: If the host does not have the file, or refuses to serve it.

        DownloadError: If the download fails; ``InterruptedDownloadError`` if another attempt may help.
    """
    headers = {**(policy.headers or {}), "Accept-Encoding": "identity"}
    if part.size and part.version is not None:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.version.validator}
    is_own = True  # until another host has been asked
    # Headers count as well: they, too, could arrive at one byte a minute.
    with anyio.CancelScope(deadline=anyio.current_time() + WINDOW) as scope:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                is_own = policy.check(url, trusted=is_own)
                async with transport.get_result(
                    URL(url, encoded=url.isascii()), is_own=is_own, headers=headers
                ) as response:
                    if response.status not in _REDIRECTS or "Location" not in response.headers:
                        total = await _check_headers(response, part, is_range="Range" in headers)
                        if (total or 0) > policy.max_bytes:
                            raise _too_large(policy.max_bytes)
                        limit = policy.max_bytes if total is None else total
                        return await _write_body(response, part, total, limit, scope)
                    url = _join(response.url, response.headers["Location"])
        except (aiohttp.ClientError, OSError) as error:  # errors of the disk are DownloadErrors already
            if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PrivateAddressError):
                msg = f"The download was interrupted: {error.os_error}. {_LATER}"
                refused = InterruptedDownloadError(msg)  # the next answer of the resolver may be another one
                refused.worth_retrying = False
                raise refused from error
            msg = f"The download was interrupted ({describe(error)}). {_LATER}"
            raise InterruptedDownloadError(msg) from error
        msg = f"The download was redirected more than {MAX_REDIRECTS} times. {_LATER}"
        raise errors.DownloadError(msg)
    msg = f"The download was too slow: less than {FLOOR} bytes in {WINDOW:g} s. {_LATER}"
    raise InterruptedDownloadError(msg)


def _join(url: URL, location: str) -> str:
    try:
        return str(url.join(URL(location, encoded=location.isascii())))
    except ValueError:
        msg = f"The download was redirected to an invalid URL. {_LATER}"
        raise errors.DownloadError(msg) from None


async def _check_headers(response: aiohttp.ClientResponse, part: PartFile, *, is_range: bool) -> int | None:
    """Prepare the part for the body, and return the size of the whole file if the headers contain it."""
    headers, status = response.headers, response.status
    total: int | None = response.content_length
    if is_range and status in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        total = (
            size_if_rest(headers, version=part.version, have=part.size)
            if status == HTTPStatus.PARTIAL_CONTENT and part.version is not None
            else None
        )
        if total is None:
            await part.restart(None)
            msg = f"The result's host sent another range than the requested one. {_LATER}"
            raise InterruptedDownloadError(msg)
    elif status != HTTPStatus.OK:
        is_refused = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        if is_refused and status not in _TEMPORARY:
            raise MissingFileError(status)
        msg = f"The result's host responded with HTTP {status}. {_LATER}"
        if status < HTTPStatus.BAD_REQUEST:
            raise errors.DownloadError(msg)
        error = InterruptedDownloadError(msg)
        error.retry_after = read_retry_after(headers) or 0.0
        raise error
    codings = ",".join(headers.getall("Content-Encoding", ())).split(",")
    if any(coding.strip().lower() in _COMPRESSED for coding in codings):
        # Media is compressed already: another encoding can only be a decompression bomb.
        msg = f"The result came compressed, which is refused. {_LATER}"
        raise errors.DownloadError(msg)
    if status == HTTPStatus.OK:
        await part.restart(version_of(headers))
    return total


async def _write_body(
    response: aiohttp.ClientResponse, part: PartFile, total: int | None, limit: int, scope: anyio.CancelScope
) -> Media | None:
    """Write the body as it arrives; its type is checked before the second chunk is accepted."""
    media: Media | None = None
    checked = False
    missing = FLOOR
    async for chunk in response.content.iter_any():
        if part.size + len(chunk) > limit:
            raise _too_large(limit)
        await part.write(chunk)
        if not checked and part.size >= HEAD:
            media, checked = _check_type(response, part.head), True
        missing -= len(chunk)
        if missing <= 0:
            missing, scope.deadline = FLOOR, anyio.current_time() + WINDOW
    if total is not None and part.size != total:
        msg = f"The download was interrupted after {part.size} of {total} bytes. {_LATER}"
        raise InterruptedDownloadError(msg)
    if not checked:
        media = _check_type(response, part.head)
    joined = response.status == HTTPStatus.PARTIAL_CONTENT
    if media is not None and not await part.is_whole_media(media, joined=joined):
        await part.restart(None)
        fault = "whose parts do not fit together" if joined else "that is cut off"
        msg = f"The result is a file of type {media.mime} {fault}. {_LATER}"
        raise InterruptedDownloadError(msg)
    return media


def _check_type(response: aiohttp.ClientResponse, head: bytes) -> Media | None:
    try:
        return media_of_result(response.content_type, response.url.path, head)
    except ValueError as error:
        msg = f"The result {error}. {_LATER}"
        raise errors.DownloadError(msg) from None


def _too_large(limit: int) -> errors.DownloadError:
    return _refused(f"The result has more than {limit} bytes. Download its URL with another tool.")


def _refused(message: str) -> errors.DownloadError:
    """Return the error for a result that would be refused again."""
    error = errors.DownloadError(message)
    error.worth_retrying = False
    return error
