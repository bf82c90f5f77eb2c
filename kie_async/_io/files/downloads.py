"""
Downloads of results: each file is complete and of the type it claims, or not there at all.

A few files at a time, those that expire first going first. An interrupted download is resumed, and an expired URL is
replaced by a fresh link once. ``fetching`` makes one attempt; ``part_files`` writes to the disk. See docs/downloads.md.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import anyio
import attrs
from tenacity import wait_exponential

from kie_async import errors
from kie_async._core.wire import read_download_url, read_envelope, write_download_url
from kie_async._io.files.fetching import (
    MAX_BYTES,
    DownloadPolicy,
    InterruptedDownloadError,
    MissingFileError,
    download_part,
)
from kie_async._io.files.part_files import PartFile, is_folder
from kie_async._io.http.backoff import pause_after
from kie_async._io.http.transport import Transport, describe
from kie_async._media import SUFFIX, numbered_paths, with_real_suffix

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from kie_async._io.runtime import Runtime
    from kie_async._media import Media
    from kie_async._urls import Networks
    from kie_async.records import Generation, SavedFile

__all__ = ["Downloads", "PrioritySemaphore", "expires_at"]

#: The lifetime of a result's URL, in seconds: "typically 24 hours" (Kie's page on task details).
URL_LIFETIME = 86_400.0
#: The lifetime of the file, in seconds: 14 days, through fresh links of twenty minutes (Kie's quickstart).
FILE_LIFETIME = 14 * 86_400.0

#: The number of concurrent downloads.
MAX_CONCURRENT_DOWNLOADS = 8
#: The number of consecutive attempts that may add less than ``PROGRESS`` bytes each.
ATTEMPTS = 3
PROGRESS = 16 * 1024
#: The timeout of one file, in seconds, from its turn to its final name: 2 GiB at 600 kB/s.
MAX_SECONDS = 3600.0

#: The codes with which the service refuses a fresh link because the file is gone.
_NOT_HELD = (404, 422)
_PAUSES = wait_exponential(multiplier=0.5, max=5.0)
_LATER = "The task stays done: save again."
#: What a host gets that refuses the client's own User-Agent, unless the caller has said what it is to get.
_BROWSER = {
    "User-Agent": (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
    )
}


class Downloads:
    """
    Downloads of results, through the client's sessions or, after it is closed, through sessions of their own.

    Args:
        transport: Opens a transport for the duration of one file.

        runtime: Returns the clock and the ids of the running loop.

        allowed_origins: Origins that the caller configured, which need not be public.

        hosts: The allowed endings of host names; None for any public host.

        max_bytes: The greatest size of a result.

        networks: Networks from which results may be fetched although they are not public.

        headers: The caller's headers; None for none.
    """

    def __init__(
        self,
        *,
        transport: Callable[[], AbstractAsyncContextManager[Transport]],
        runtime: Callable[[], Runtime],
        allowed_origins: frozenset[str],
        hosts: tuple[str, ...] | None,
        max_bytes: int = MAX_BYTES,
        networks: Networks = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._transport = transport
        self._runtime = runtime
        self._policy = DownloadPolicy(allowed_origins, hosts, max_bytes, networks, headers)
        self._cannot: set[str] = set()
        self._semaphore = PrioritySemaphore(MAX_CONCURRENT_DOWNLOADS)

    async def save(self, generation: Generation, path: Path) -> list[SavedFile]:
        """
        Save all results of *generation*; see ``Generation.save``.

        However many calls there are at once, only a few files are downloaded at a time; a waiting call costs its task.
        """
        wall = self._runtime().wall
        files: list[SavedFile] = []
        try:
            into_folder = await is_folder(path)
            urls = generation.urls or (generation.url,)
            paths = [path] * len(urls) if into_folder else numbered_paths(path, len(urls), mark="-")
            for index, (url, target) in enumerate(zip(urls, paths, strict=True), 1):
                async with self._semaphore.hold(expires_at(generation.record.completed_at, wall())):
                    files.append(await self._save_one(generation, index, url, target, into_folder=into_folder))
        except InterruptedDownloadError as error:
            known = {"job_id": generation.job_id, "task_id": generation.task_id}
            last = errors.DownloadError(error.message, **known)
            last.worth_retrying = error.worth_retrying
            raise last from None
        except errors.DownloadError as error:
            error.job_id, error.task_id = generation.job_id, generation.task_id
            raise
        return files

    async def _save_one(
        self, generation: Generation, index: int, url: str, path: Path, *, into_folder: bool
    ) -> SavedFile:
        # Hashed, so that no text of the service gets into a file name unchanged.
        target = f"{generation.task_id}\n{index}\n{'' if into_folder else path.name}"
        part = PartFile(
            path if into_folder else path.parent,
            hashlib.sha256(target.encode("utf-8", "surrogatepass")).hexdigest()[:24],
            spare=self._runtime().new_id(),
            cannot=self._cannot,
        )
        try:
            await part.open()
            ended_at = generation.record.completed_at
            may_be_gone = ended_at is not None and self._runtime().wall() >= ended_at + URL_LIFETIME
            media = await self._download(url, part, may_be_gone=may_be_gone)
            stem = path / f"{generation.task_id}-{index}{SUFFIX}" if into_folder else path
            return await part.finish(with_real_suffix(stem, ".bin" if media is None else media.suffix))
        except BaseException:
            await part.discard()
            raise

    async def _download(self, url: str, part: PartFile, *, may_be_gone: bool) -> Media | None:
        with anyio.move_on_after(MAX_SECONDS):
            async with self._transport() as transport:
                return await self._download_by_any_link(transport, url, part, may_be_gone=may_be_gone)
        msg = f"The download took more than {MAX_SECONDS:g} s. {_LATER}"
        raise errors.DownloadError(msg)

    async def _download_by_any_link(
        self, transport: Transport, url: str, part: PartFile, *, may_be_gone: bool
    ) -> Media | None:
        """
        Download a file by its URL, then by a fresh link, then with a browser's User-Agent.

        A refusal is not the end of a file: hosts refuse by User-Agent, too. It counts as such an end only after the
        lifetime of the URL.
        """
        attempts = _DownloadAttempts(part)
        try:
            return await attempts.run(transport, url, self._policy)
        except MissingFileError as error:
            missing = error
        tried = ["its URL"]
        try:
            url = await self._request_fresh_link(transport, url)
        except errors.DownloadError:
            if not missing.is_refusal or (may_be_gone and missing.may_mean_expired):
                raise
            tried.append("a fresh link, which the service did not give")
        else:
            try:
                return await attempts.run(transport, url, self._policy)
            except MissingFileError as error:
                missing = error
            tried.append("a fresh link")
        if missing.is_refusal and self._policy.headers is None:
            try:
                return await attempts.run(transport, url, attrs.evolve(self._policy, headers=_BROWSER))
            except MissingFileError as error:
                missing = error
            tried.append("a browser's User-Agent")
        if not missing.is_refusal or (may_be_gone and missing.may_mean_expired):
            raise _expired()
        msg = (
            f"The result's host refuses the download (HTTP {missing.status}), which does not mean that it has"
            f" expired. Tried: {', '.join(tried)}. It may want another network, or other headers, such as a Referer, in"
            f" KieClient(download_headers=…). {_LATER}"
        )
        raise errors.DownloadError(msg)

    async def _request_fresh_link(self, transport: Transport, url: str) -> str:
        """Request a fresh link for an expired URL; a link does not prove that the file exists."""
        try:
            response = await transport.request("POST", "/api/v1/common/download-url", data=write_download_url(url))
        except errors.TransportError as error:
            raise _no_fresh_link(describe(error)) from error
        envelope = read_envelope(response.body)
        fresh = None if envelope is None else read_download_url(envelope)
        if fresh is not None:
            return fresh
        if envelope is not None and envelope.code in _NOT_HELD:
            raise _expired()
        raise _no_fresh_link(str(response.status if envelope is None else envelope.code))


class _DownloadAttempts:
    """
    Attempts to complete a part, for as long as they make progress.

    Args:
        part: The part.
    """

    def __init__(self, part: PartFile) -> None:
        self._part = part
        self._largest = part.size

    async def run(self, transport: Transport, url: str, policy: DownloadPolicy) -> Media | None:
        """Download the file in as many attempts as it takes; raise the error of the last one."""
        without_progress = 0
        while True:
            try:
                return await download_part(transport, url, self._part, policy)
            except InterruptedDownloadError as error:
                without_progress += 1
                retry_after = error.retry_after
                if self._part.size >= self._largest + PROGRESS:
                    self._largest, without_progress = self._part.size, 0
                if without_progress >= ATTEMPTS:
                    raise
            await anyio.sleep(max(retry_after, pause_after(_PAUSES, max(without_progress, 1))))


class PrioritySemaphore:
    """
    A semaphore whose slots go to the waiter with the earliest deadline.

    It serves one event loop at a time: in another loop, all slots are free again. A waiter costs a future and a heap
    entry in addition to its own task.

    Args:
        total: The number of slots.

    Attributes:
        taken: The number of slots in use.

        waiting: The number of waiters.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._loop: asyncio.AbstractEventLoop | None = None
        self.taken = 0
        self.waiting = 0
        self._heap: list[tuple[float, int, asyncio.Future[None]]] = []
        self._arrivals = 0

    @asynccontextmanager
    async def hold(self, deadline: float) -> AsyncGenerator[None]:
        """
        Wait for a slot, and hold it.

        Args:
            deadline: The waiter's deadline, by any clock; smaller values go first, equal ones in order of arrival.
        """
        await self._wait_for_slot(deadline)
        try:
            yield
        finally:
            self._free_slot()

    async def _wait_for_slot(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            # The holders and waiters of an earlier loop do not exist any more.
            self._loop, self.taken, self.waiting = loop, 0, 0
            self._heap.clear()
        if self.taken < self._total:  # then there are no waiters
            self.taken += 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._arrivals += 1
        self.waiting += 1
        heappush(self._heap, (deadline, self._arrivals, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot was given at the very moment of the cancellation
                self._free_slot()
            raise
        finally:
            self.waiting -= 1
            self._compact()

    def _compact(self) -> None:
        """Compact the heap once most entries belong to cancelled waiters."""
        if len(self._heap) > 2 * self.waiting + 8:
            self._heap = [entry for entry in self._heap if not entry[2].done()]
            heapify(self._heap)

    def _free_slot(self) -> None:
        while self._heap:
            turn = heappop(self._heap)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self.taken -= 1


def _no_fresh_link(reason: str) -> errors.DownloadError:
    return errors.DownloadError(f"The result's URL has expired, and there is no fresh link ({reason}). {_LATER}")


def _expired() -> errors.ResultExpiredError:
    return errors.ResultExpiredError(
        "The service no longer holds the result: its URLs last about a day, its files two weeks. Look at kie.ai/logs."
    )


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
