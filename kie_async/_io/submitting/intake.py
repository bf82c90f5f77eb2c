"""Taking a request in: checked, given an owner, uploaded, and written down, in this order."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from kie_async import errors
from kie_async._core.job_errors import load_error
from kie_async._core.lifecycle import Intent, SourceImage, encode_for_journal
from kie_async._io.files.uploads import KEPT_FOR
from kie_async._io.jobs.live_job import LiveJob, Submission
from kie_async._io.jobs.transitions import require_row
from kie_async._keys import check_key, differs, fingerprint
from kie_async.requests.base import Request, invalid_request
from kie_async.requests.images import ImageSource
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kie_async._io.files.uploads import Uploads
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import ResultWriter
    from kie_async._io.journals.journal import Journal
    from kie_async._io.runtime import Runtime
    from kie_async._io.submitting.submitter import Submitter
    from kie_async.records import JSON

__all__ = ["Intake", "IntentWriter"]


class Intake:
    """
    Makes jobs of requests.

    Args:
        registry: The jobs of this process.

        runtime: New ids.

        submitter: Submits jobs.

        intents: Writes intents.

        allowed_origins: Origins that URLs may have although they are not public.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        runtime: Runtime,
        submitter: Submitter,
        intents: IntentWriter,
        allowed_origins: frozenset[str],
    ) -> None:
        self._registry = registry
        self._runtime = runtime
        self._submitter = submitter
        self._intents = intents
        self._allowed_origins = allowed_origins
        self._kinds: set[type] = set()

    async def submit(self, request: Request, key: str | None) -> tuple[LiveJob, bool]:
        """
        Check a request and start its owner; between the two nothing waits, so a job without an owner cannot be.

        Args:
            request: What is asked for.

            key: The caller's key, or None.

        Returns:
            The job, and whether it was begun by this call.

        Raises:
            InvalidRequestError: If something is wrong with the request; nothing was sent.

            KeyConflictError: If another request has the same key.
        """
        check_key(key)
        await self.check_request(request)
        identity = None if key is None else await self.compute_fingerprint(request)
        if key is not None and (known := self._registry.by_key(key)) is not None:
            if known.fingerprint != identity:
                raise await self.conflict_error(known.row, request, key=key, job_id=known.id)
            return known, False
        return self.start_job(request, key, identity), True

    def start_job(
        self,
        request: Request,
        key: str | None,
        identity: str | None,
        *,
        outlasts_maintenance: bool = False,
        may_pay_again: Callable[[], bool] | None = None,
    ) -> LiveJob:
        """
        Start the owner of a request that was checked; nothing waits in here.

        Args:
            request: What is asked for.

            key: The caller's key, or None; no job that is alive has it.

            identity: What ``identify`` says of the request, where there is a key.

            outlasts_maintenance: Whether it waits behind maintenance for as long as it takes.

            may_pay_again: Asked before a create is sent once more that may have been paid already.
        """
        job = LiveJob(id=self._runtime.new_id(), key=key, fingerprint=identity)
        submission = Submission(outlasts_maintenance=outlasts_maintenance, may_pay_again=may_pay_again)
        self._submitter.start(job, partial(self._intents.write_intent, job, request), submission)
        return job

    async def compute_fingerprint(self, request: Request) -> str:
        """The identity of a request: its model, its input and the content of its images, which are read."""
        hashes = await _hashes(request)
        return fingerprint(request.model, request.input(hashes), hashes)

    async def conflict_error(
        self, row: Intent | None, request: Request, *, key: str, job_id: str
    ) -> errors.KeyConflictError:
        """The error for a request whose key belongs to another one."""
        return _conflict_error(row, request, await _hashes(request), key=key, job_id=job_id)

    async def check_request(self, request: Request) -> None:
        """
        Look for what is wrong with a request, offline.

        Raises:
            InvalidRequestError: If something is.

            ConfigurationError: If it is no request.
        """
        # Of each type once: to compare an object with a Protocol, Python reads all of its attributes.
        if type(request) not in self._kinds and not _is_request(request):
            msg = f"A {type(request).__name__} is no request. Pass Wan22TurboImageToVideo(…) or MarketRequest(…)."
            raise errors.ConfigurationError(msg)
        self._kinds.add(type(request))
        find = partial(request.problems, allowed_origins=self._allowed_origins)
        # Only a local image takes a look at the disk, which must not hold the loop up.
        problems = await anyio.to_thread.run_sync(find) if request.images() else find()
        if problems:
            raise invalid_request(type(request).__name__, problems)


class IntentWriter:
    """
    Writes intents into the journal, with their images uploaded.

    Args:
        journal: Holds the intents.

        registry: The jobs of this process.

        runtime: The wall clock.

        uploads: Uploads images.

        results: Writes down what cannot be sent any more.

        callback_url: The base of the callback URLs, or None.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        registry: Registry,
        runtime: Runtime,
        uploads: Uploads,
        results: ResultWriter,
        callback_url: str | None,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._runtime = runtime
        self._uploads = uploads
        self._results = results
        self._callback_url = callback_url

    async def write_intent(self, job: LiveJob, request: Request) -> tuple[Intent, Mapping[str, JSON]]:
        journal = self._journal
        if job.key is not None and (row := await journal.by_key(job.key)) is not None:
            return await self._take_over(job, row, request)
        sources, given = await self._upload(request)
        now = self._runtime.wall()
        hashes = {source.field: source.sha256 for source in sources}
        job.fingerprint = fingerprint(request.model, request.input(hashes) if sources else given, hashes)
        row = Intent(
            id=job.id,
            model=request.model,
            input=encode_for_journal(given),
            fingerprint=job.fingerprint,
            created_at=now,
            updated_at=now,
            sources=sources,
            key=job.key,
            callback_url=self._callback_url,
        )
        # A caller who leaves now would leave a row behind that nobody withdraws, and that recover() sends.
        with anyio.CancelScope(shield=True):
            row = await journal.add(row)
        return (row, given) if row.id == job.id else await self._take_over(job, row, request)

    async def _write_again(self, row: Intent, request: Request) -> tuple[Intent, Mapping[str, JSON]]:
        """The row and the input of an intent whose input the journal does not keep, and the caller has."""
        sources, given = await self._upload(request)
        now = self._runtime.wall()
        return await self._journal.update_fields(row.id, at=now, sources=sources) or row, given

    async def _upload(self, request: Request) -> tuple[tuple[SourceImage, ...], Mapping[str, JSON]]:
        sources: list[SourceImage] = []
        for field, image in request.images().items():
            there = await self._uploads.upload(image)
            origin = str(image.content) if isinstance(image.content, Path) else None
            sources.append(
                SourceImage(
                    field=field, sha256=there.sha256, origin=origin, url=there.url, uploaded_at=there.uploaded_at
                )
            )
        return tuple(sources), request.input({source.field: source.url for source in sources})

    async def _upload_again(self, job: LiveJob, source: SourceImage) -> SourceImage:
        if source.origin is None:
            raise await self._unsendable(job, "its image was given as bytes and uploaded too long ago")
        image = ImageSource(Path(source.origin))
        if await anyio.to_thread.run_sync(image.problems):
            raise await self._unsendable(job, f"its image was uploaded too long ago, and {source.origin} is gone")
        there = await self._uploads.upload(image)
        if there.sha256 != source.sha256:
            raise await self._unsendable(job, f"its image was uploaded too long ago, and {source.origin} has changed")
        return attrs.evolve(source, url=there.url, uploaded_at=there.uploaded_at)

    async def _unsendable(self, job: LiveJob, why: str) -> errors.KieError:
        msg = f"The job was not sent before its process ended, and cannot be sent now: {why}. Submit the request again."
        error = errors.UploadError(msg, job_id=job.id)
        await self._results.record_cancelled(job, error)
        return job.error or error  # where a suspect attempt may have been paid, that says so

    async def _take_over(self, job: LiveJob, row: Intent, request: Request) -> tuple[Intent, Mapping[str, JSON]]:
        """The same key again: go on with the row that has it, as far as its state allows."""
        if row.fingerprint != job.fingerprint:
            raise _conflict_error(row, request, await _hashes(request), key=job.key or "", job_id=row.id)
        journal = self._journal
        if row.state is JobState.INTENT and not journal.owns(row):
            row = next(iter(await journal.claim([row.id])), row)
        if (known := self._registry.get(row.id)) is not None:
            job.successor = known
            return row, {}
        self._registry.rename(job, row.id)
        job.row = row
        if row.state is JobState.REJECTED and row.ambiguous_attempts:
            raise load_error(row.error, job_id=row.id)
        if row.state is JobState.INTENT and journal.owns(row):
            return await self.prepare_again(job) if row.input else await self._write_again(row, request)
        if row.state in (JobState.CANCELLED, JobState.REJECTED):
            sources, given = await self._upload(request)
            anew = await journal.transition(
                row,
                JobState.INTENT,
                at=self._runtime.wall(),
                sources=sources,
                input=encode_for_journal(given),
                callback_url=self._callback_url,
                error=None,
            )
            # Where it was lost, another process sends it.
            return (anew, given) if anew is not None else (await journal.get(row.id) or row, {})
        return row, {}

    async def prepare_again(self, job: LiveJob) -> tuple[Intent, Mapping[str, JSON]]:
        """
        The row and the input of a job that was written down before, with its images there to be fetched.

        Raises:
            UploadError: If it cannot be sent any more, since the journal does not hold what is needed; it is withdrawn.
        """
        row = require_row(job)
        if not row.input:
            raise await self._unsendable(job, "the journal keeps only hashes of inputs")
        given: dict[str, JSON] = json.loads(row.input)
        now = self._runtime.wall()
        sources: list[SourceImage] = []
        for source in row.sources:
            fresh = source
            if now - source.uploaded_at > KEPT_FOR:
                fresh = await self._upload_again(job, source)
                given[source.field] = fresh.url
            sources.append(fresh)
        if tuple(sources) == row.sources:
            return row, given
        changed = await self._journal.update_fields(
            row.id, at=now, sources=tuple(sources), input=encode_for_journal(given)
        )
        return changed or row, given


def _is_request(value: object) -> bool:
    return isinstance(value, Request) and not isinstance(value, type)


async def _hashes(request: Request) -> dict[str, str]:
    """The content of the local images, as far as it says which request this is."""
    return {field: (await anyio.to_thread.run_sync(image.load)).sha256 for field, image in request.images().items()}


def _conflict_error(
    row: Intent | None, request: Request, hashes: Mapping[str, str], *, key: str, job_id: str
) -> errors.KeyConflictError:
    names: tuple[str, ...] = ()
    if row is not None and row.input:
        theirs = {source.field: source.sha256 for source in row.sources}
        names = differs(row.model, json.loads(row.input), theirs, request.model, request.input(hashes), hashes)
    shown = f" (what differs: {', '.join(names)})" if names else ""
    msg = f"The key {key!r} belongs to another request{shown}. Use another key, or the same request."
    return errors.KeyConflictError(msg, differs=names, job_id=job_id)
