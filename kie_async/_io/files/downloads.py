"""
Results on their way to disk: each file whole and what it claims to be, or not there at all.

A few at a time, the soonest to expire first. A try that breaks is followed by one for the rest; an expired URL is
minted again once. Who asks which host for what, and what is taken as an answer, is in ``fetching``; how a part becomes
a file, in ``disk``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from kie_async import errors
from kie_async._core.wire import read_download_url, read_envelope, write_download_url
from kie_async._io.files.disk import PartFile, is_folder
from kie_async._io.files.fetching import MAX_BYTES, BrokenOffError, GoneError, Terms, bring
from kie_async._io.files.priority_semaphore import PrioritySemaphore
from kie_async._io.http.backoff import pause_after
from kie_async._io.http.transport import Transport, describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from kie_async._io.runtime import Runtime
    from kie_async._media import Media
    from kie_async.records import Generation, SavedFile

__all__ = ["Downloads", "expires_at"]

#: The time for which a result's URL works, in seconds: "typically 24 hours" (Kie's page on task details).
URL_LIFETIME = 86_400.0
#: The time for which the file is kept, in seconds: 14 days, by fresh links of twenty minutes (Kie's quickstart).
FILE_LIFETIME = 14 * 86_400.0

#: Files that are fetched at once.
AT_ONCE = 8
#: Tries in a row that bring less than ``PROGRESS`` bytes each.
ATTEMPTS = 3
PROGRESS = 16 * 1024
#: A file takes no longer than this, in seconds, from its turn to its name: 2 GiB at 600 kB/s.
MAX_SECONDS = 3600.0

#: The codes with which a fresh link is refused because there is nothing to link to.
_NOT_HELD = (404, 422)
_PAUSES = wait_exponential(multiplier=0.5, max=5.0)
_LATER = "The task stays done: save again."


class Downloads:
    """
    Fetches results, with the client's sessions or, when it is closed, with sessions of its own.

    Args:
        transport: Opens a transport for the time of one file.

        runtime: Gives the clock and new names of the running loop.

        allowed_origins: Origins that are taken as they are, because the caller configured them.

        hosts: Endings of the host names that results may come from; None for any public host.

        max_bytes: How large a result may be.
    """

    def __init__(
        self,
        *,
        transport: Callable[[], AbstractAsyncContextManager[Transport]],
        runtime: Callable[[], Runtime],
        allowed_origins: frozenset[str],
        hosts: tuple[str, ...] | None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._transport = transport
        self._runtime = runtime
        self._terms = Terms(allowed_origins, hosts, max_bytes)
        self._places = PrioritySemaphore(AT_ONCE)

    @property
    def waiting(self) -> int:
        """How many results wait for their turn."""
        return self._places.waiting

    async def save(self, generation: Generation, path: Path) -> list[SavedFile]:
        """
        Put all results of *generation* on disk; see ``Generation.save``.

        However many do so at once, a few files are fetched at a time; who waits costs no more than its own task.
        """
        wall = self._runtime().wall
        files: list[SavedFile] = []
        try:
            into_folder = await is_folder(path)
            for index, url in enumerate(generation.urls or (generation.url,), 1):
                async with self._places.take(expires_at(generation.record.completed_at, wall())):
                    files.append(await self._save(generation, index, url, path, into_folder=into_folder))
        except BrokenOffError as error:
            known = {"job_id": generation.job_id, "task_id": generation.task_id}
            raise errors.DownloadError(error.message, **known) from None
        except errors.DownloadError as error:
            error.job_id, error.task_id = generation.job_id, generation.task_id
            raise
        return files

    async def _save(self, generation: Generation, index: int, url: str, path: Path, *, into_folder: bool) -> SavedFile:
        # Nothing of the service's gets into a name as it is.
        target = f"{generation.task_id}\n{index}\n{'' if into_folder else path.name}"
        part = PartFile(
            path if into_folder else path.parent,
            hashlib.sha256(target.encode("utf-8", "surrogatepass")).hexdigest()[:24],
            spare=self._runtime().new_id(),
        )
        try:
            await part.open()
            media = await self._fetch(url, part)
            name = _named(path, index, generation.task_id, media) if into_folder else _numbered(path, index)
            return await part.become(name)
        except BaseException:
            await part.discard()
            raise

    async def _fetch(self, url: str, part: PartFile) -> Media | None:
        with anyio.move_on_after(MAX_SECONDS):
            async with self._transport() as transport:
                patience = _Patience(part)
                try:
                    return await patience.bring(transport, url, self._terms)
                except GoneError:
                    fresh = await self._mint(transport, url)
                try:
                    return await patience.bring(transport, fresh, self._terms)
                except GoneError:
                    raise _expired() from None
        msg = f"The download took more than {MAX_SECONDS:g} s. {_LATER}"
        raise errors.DownloadError(msg)

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


class _Patience:
    """
    Tries again for as long as it helps.

    Args:
        part: What is tried for.
    """

    def __init__(self, part: PartFile) -> None:
        self._part = part
        self._most = part.size
        self._in_vain = 0

    async def bring(self, transport: Transport, url: str, terms: Terms) -> Media | None:
        """Bring the file, in as many tries as it takes; raises what the last one raised."""
        self._in_vain = 0
        retrying: AsyncRetrying = AsyncRetrying(
            reraise=True,
            retry=retry_if_exception_type(BrokenOffError),
            after=self._count,
            stop=lambda _: self._in_vain >= ATTEMPTS,
            wait=lambda _: pause_after(_PAUSES, max(self._in_vain, 1)),
            sleep=anyio.sleep,
        )

        async def once() -> Media | None:
            return await bring(transport.rest, url, self._part, terms)

        media: Media | None = await retrying(once)
        return media

    def _count(self, _: RetryCallState) -> None:
        if self._part.size >= self._most + PROGRESS:
            self._most, self._in_vain = self._part.size, 0
        else:
            self._in_vain += 1


def _not_minted(why: str) -> errors.DownloadError:
    return errors.DownloadError(f"The result's URL has expired, and a fresh one was not to be had ({why}). {_LATER}")


def _expired() -> errors.ResultExpiredError:
    return errors.ResultExpiredError(
        "The service no longer holds the result: its URLs last about a day, its files two weeks. Look at kie.ai/logs."
    )


def _named(folder: Path, index: int, task_id: str, media: Media | None) -> Path:
    return folder / f"{task_id}-{index}{'.bin' if media is None else media.suffix}"


def _numbered(path: Path, index: int) -> Path:
    return path if index == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")


def expires_at(completed_at: float | None, now: float) -> float:
    """
    Return the next instant at which a result becomes harder to get.

    That is the end of its URL. Once the URL has expired, it is the end of the file: until then a fresh link is
    available, so such a result is less urgent than one whose URL is about to expire.

    Args:
        completed_at: The end of the task, in seconds since the epoch; None if it is not known, so that the result may
            expire at any moment.

        now: The wall clock, in seconds since the epoch.

    >>> expires_at(1000.0, now=2000.0)
    87400.0
    >>> expires_at(1000.0, now=90_000.0)
    1210600.0
    """
    if completed_at is None:
        return now
    ends_at = completed_at + URL_LIFETIME
    return ends_at if now < ends_at else completed_at + FILE_LIFETIME
