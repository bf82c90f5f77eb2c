"""
One try to bring a file from a foreign host into a part on disk.

The host is not trusted. Every hop is judged before it is asked, the API key is no part of the question, and what is
answered is bounded in size and in time, counted, and looked at as soon as its first bytes are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import anyio
import attrs
from yarl import URL

from kie_async import errors
from kie_async._core.ranges import brings_the_rest, version_of
from kie_async._io.http.transport import describe
from kie_async._media import HEAD, Media, identify, is_mislabeled, looks_like_text
from kie_async._urls import check_result_url, origin

if TYPE_CHECKING:
    from kie_async._io.files.disk import PartFile

__all__ = ["MAX_BYTES", "BrokenOffError", "GoneError", "Terms", "bring"]

MAX_BYTES = 2 * 1024**3
MAX_REDIRECTS = 3
#: At least so many bytes in each so many seconds: 16 KiB/s, with patience for a minute's standstill.
FLOOR = 1024 * 1024
WINDOW = 64.0

_LATER = "The task stays done: save again."

_OK = 200
_PARTIAL = 206
_RANGE_NOT_SATISFIABLE = 416
_GONE = (403, 404, 410)
_REDIRECTS = (301, 302, 303, 307, 308)
_TOO_MANY = 429
_SERVER_ERROR = 500


class BrokenOffError(errors.DownloadError):
    """A download that is worth another try."""


class GoneError(Exception):
    """The host does not have the file, or does not give it."""


@attrs.frozen
class Terms:
    """
    What is taken, and from where.

    Attributes:
        allowed_origins: Origins that are taken as they are, because the caller configured them.

        hosts: Endings of the names of hosts; None for any public host.

        max_bytes: How large a file may be.
    """

    allowed_origins: frozenset[str]
    hosts: tuple[str, ...] | None
    max_bytes: int = MAX_BYTES

    def check(self, url: str, *, sent_by: str | None) -> None:
        """
        Judge a URL before it is asked.

        Args:
            url: The URL.

            sent_by: The URL that redirects to it, or None. The caller's own origins need not be public, and so no
                other host may lead there.

        Raises:
            DownloadError: If it is not to be asked.
        """
        own = self.allowed_origins if sent_by is None or origin(sent_by) in self.allowed_origins else frozenset[str]()
        wrong = check_result_url(url, allowed_origins=own, hosts=self.hosts)
        if wrong is not None:
            msg = f"The result is not fetched: {wrong}. If its host is right, pass download_hosts to the client."
            raise errors.DownloadError(msg)


async def bring(session: aiohttp.ClientSession, url: str, part: PartFile, terms: Terms) -> Media | None:
    """
    Bring what is missing of a file: the rest, where the host has named the version of what is there, or all of it.

    Args:
        session: One without the API key.

        url: Where it is.

        part: Where it goes; whatever happens, it holds a beginning of the file afterwards.

        terms: What is taken.

    Returns:
        What the file is, now that it is whole; None for something unknown.

    Raises:
        GoneError: If the host does not have it.

        DownloadError: If it cannot be had; ``BrokenOffError`` if another try may help.
    """
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.version is not None:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.version.validator}
    sent_by: str | None = None
    # Headers count as well: they, too, could come by one byte a minute.
    with anyio.CancelScope(deadline=anyio.current_time() + WINDOW) as scope:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                terms.check(url, sent_by=sent_by)
                async with session.get(
                    URL(url, encoded=url.isascii()), allow_redirects=False, auto_decompress=False, headers=headers
                ) as response:
                    if response.status not in _REDIRECTS or "Location" not in response.headers:
                        whole = await _admit(response, part, asked="Range" in headers)
                        if (whole or 0) > terms.max_bytes:
                            raise _too_large(terms.max_bytes)
                        return await _pour(response, part, whole, terms.max_bytes if whole is None else whole, scope)
                    url, sent_by = _joined(response.url, response.headers["Location"]), url
        except (aiohttp.ClientError, OSError) as error:  # the disk's own are DownloadErrors already
            msg = f"The download was broken off ({describe(error)}). {_LATER}"
            raise BrokenOffError(msg) from error
        msg = f"The download was redirected more than {MAX_REDIRECTS} times. {_LATER}"
        raise errors.DownloadError(msg)
    msg = f"The download was too slow: less than {FLOOR} bytes in {WINDOW:g} s. {_LATER}"
    raise BrokenOffError(msg)


def _joined(url: URL, location: str) -> str:
    try:
        return str(url.join(URL(location, encoded=location.isascii())))
    except ValueError:
        msg = f"The download was redirected to something that is no URL. {_LATER}"
        raise errors.DownloadError(msg) from None


async def _admit(response: aiohttp.ClientResponse, part: PartFile, *, asked: bool) -> int | None:
    """Make the part ready for the body, and return how large the whole is, if the headers say so."""
    headers, status = response.headers, response.status
    if status in _GONE:
        raise GoneError
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        # Media is compressed already: an encoding on top of it can be a bomb, and nothing else.
        msg = f"The result came compressed, which is refused. {_LATER}"
        raise errors.DownloadError(msg)
    whole: int | None = response.content_length
    if asked and status in (_PARTIAL, _RANGE_NOT_SATISFIABLE):
        whole = (
            brings_the_rest(headers, version=part.version, have=part.size)
            if status == _PARTIAL and part.version is not None
            else None
        )
        if whole is None:
            await part.begin(None)
            msg = f"The result's host answered with another part than the one asked for. {_LATER}"
            raise BrokenOffError(msg)
    elif status != _OK:
        kind = BrokenOffError if status >= _SERVER_ERROR or status == _TOO_MANY else errors.DownloadError
        msg = f"The result's host answered with HTTP {status}. {_LATER}"
        raise kind(msg)
    if status == _OK:
        await part.begin(version_of(headers))
    return whole


async def _pour(
    response: aiohttp.ClientResponse, part: PartFile, whole: int | None, most: int, scope: anyio.CancelScope
) -> Media | None:
    """Write the body out as it comes; what it is, is judged before the second piece is taken."""
    media: Media | None = None
    judged = False
    owed = FLOOR
    async for chunk in response.content.iter_any():
        if part.size + len(chunk) > most:
            raise _too_large(most)
        await part.write(chunk)
        if not judged and part.size >= HEAD:
            media, judged = _judge(response.content_type, part.head), True
        owed -= len(chunk)
        if owed <= 0:
            owed, scope.deadline = FLOOR, anyio.current_time() + WINDOW
    if whole is not None and part.size != whole:
        msg = f"The download was broken off after {part.size} of {whole} bytes. {_LATER}"
        raise BrokenOffError(msg)
    if not judged:
        media = _judge(response.content_type, part.head)
    if media is not None and not await part.is_whole(media):
        await part.begin(None)
        msg = f"The result is a file of type {media.mime} that is cut off. {_LATER}"
        raise BrokenOffError(msg)
    return media


def _judge(content_type: str, head: bytes) -> Media | None:
    media = identify(head)
    if is_mislabeled(content_type, media) or (media is None and looks_like_text(head)):
        msg = f"The result claims to be {content_type}, and begins with {head[:16]!r}. {_LATER}"
        raise errors.DownloadError(msg)
    return media


def _too_large(most: int) -> errors.DownloadError:
    return errors.DownloadError(f"The result has more than {most} bytes. Fetch its URL by other means.")
