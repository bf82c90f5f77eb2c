"""
``Intake``: makes a job of a request: checks it, starts its submission, uploads its images, and journals it.

``IntentWriter`` is the part that writes to the journal; it runs in the submission.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import anyio
import anyio.to_thread
import attrs

from kie_async import errors
from kie_async._core.job_errors import load_error
from kie_async._core.lifecycle import Intent, SourceFile, encode_for_journal
from kie_async._display import shortened, shown
from kie_async._io.jobs.live_job import LiveJob, Submission
from kie_async._io.jobs.transitions import require_row
from kie_async._keys import check_key, differs, price_class, with_values
from kie_async._keys import fingerprint as make_fingerprint
from kie_async.requests.base import Request, invalid_request
from kie_async.requests.media import MediaSource, limits_of_upload
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kie_async._io.files.uploads import Uploads
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import ResultWriter
    from kie_async._io.journals.journal import Changes, Journal
    from kie_async._io.runtime import Runtime
    from kie_async._io.submitting.submission import Submitter, WriteIntent
    from kie_async.records import JSON

__all__ = ["ImageChangedError", "Intake", "IntentWriter", "conflict_error"]

#: The states of a job that the same key sends anew.
_REOPENED = (JobState.CANCELLED, JobState.REJECTED)
_NO_PATHS = "a URL, bytes or an open file, since this client has local_files=False"


class _Funding(TypedDict, total=False):
    budget: str
    price: float | None


class ImageChangedError(errors.UploadError):
    """A local image that has changed since its content was hashed; nothing was sent."""

    def __init__(self) -> None:
        super().__init__(
            "A local image has changed since its content was hashed, so the request is no longer the same. Nothing was"
            " sent or paid: submit the request again."
        )


@attrs.define(eq=False, repr=False, kw_only=True)
class Intake:
    """
    Makes jobs of requests.

    Args:
        registry: The live jobs.

        runtime: Makes ids.

        submitter: Submits jobs.

        intents: Writes intents.

        allowed_origins: Origins that URLs may have although they are not public.

        local_files: False to refuse images that are given as paths.
    """

    registry: Registry
    runtime: Runtime
    submitter: Submitter
    intents: IntentWriter
    allowed_origins: frozenset[str]
    local_files: bool
    _request_types: set[type] = attrs.field(factory=set, init=False)

    async def submit(self, request: Request, key: str | None) -> tuple[LiveJob, bool]:
        """
        Check a request and start its submission, without an await between the two.

        Args:
            request: The request.

            key: The caller's key, or None.

        Returns:
            The job, and True if this call has created it.

        Raises:
            InvalidRequestError: If the request is invalid; nothing was sent.

            KeyConflictError: If another request has the same key.
        """
        check_key(key)
        await self.check_request(request)
        fingerprint = None if key is None else await self.compute_fingerprint(request)
        if key is not None and (known := self.registry.by_key(key)) is not None and known.is_answered:
            if known.fingerprint != fingerprint:
                raise await conflict_error(known.row, request, key=key, job_id=known.id)
            return known, False
        return self.start_submission(request, key, fingerprint), True

    def start_submission(
        self,
        request: Request,
        key: str | None,
        fingerprint: str | None,
        submission: Submission | None = None,
    ) -> LiveJob:
        """
        Start the submission of a request that was checked.

        Args:
            request: The request.

            key: The caller's key, or None; no live job has it.

            fingerprint: The request's fingerprint; required with a key.

            submission: The options of the submission; None for the defaults.
        """
        job = LiveJob(id=self.runtime.new_id(), key=key, fingerprint=fingerprint)
        submission = submission or Submission()
        submission.upload_again = partial(self.intents.upload_again, job, request)
        self.submitter.start(job, partial(self.intents.write_intent, job, request), submission)
        return job

    async def compute_fingerprint(self, request: Request) -> str:
        """Return the fingerprint of a request; its images are read."""
        hashes = await _image_hashes(request)
        return make_fingerprint(request.model, request.input(hashes), hashes)

    async def check_request(self, request: Request) -> None:
        """
        Check a request offline.

        Raises:
            InvalidRequestError: If the request is invalid.

            ConfigurationError: If the object is not a request.
        """
        # Once for each type: isinstance() with a Protocol reads all attributes of the object.
        if type(request) not in self._request_types and (isinstance(request, type) or not isinstance(request, Request)):
            msg = (
                f"Expected a request, got {type(request).__name__}. Pass Wan22TurboImageToVideo(…) or MarketRequest(…)."
            )
            raise errors.ConfigurationError(msg)
        self._request_types.add(type(request))
        self.check_paths(type(request).__name__, files := request.files(), partial(_named, request))
        find_problems = partial(request.problems, allowed_origins=self.allowed_origins)
        # Local images are read from disk, which must not block the loop.
        problems = await anyio.to_thread.run_sync(find_problems) if files else find_problems()
        if problems:
            raise invalid_request(type(request).__name__, problems)

    def check_paths(self, name: str, images: Mapping[str, MediaSource], named: Callable[[str], str] = str) -> None:
        """
        Refuse images that are given as paths, unless the client allows them; no file is read.

        Args:
            name: The name of the request, for the error.

            images: The images by field.

            named: Returns the caller's name of a field.

        Raises:
            InvalidRequestError: If there is a path, and the client has ``local_files=False``.
        """
        paths = {field: image.content for field, image in images.items() if isinstance(image.content, Path)}
        if paths and not self.local_files:
            problems = [errors.Problem(named(field), shown(str(path)), _NO_PATHS) for field, path in paths.items()]
            raise invalid_request(name, problems)


@attrs.define(eq=False, repr=False, kw_only=True)
class IntentWriter:
    """
    Writes intents into the journal, after their images were uploaded.

    Args:
        journal: The journal.

        registry: The live jobs.

        runtime: The wall clock.

        uploads: Uploads images.

        results: Records jobs that cannot be sent any more.

        start: Starts the submission of another job; see ``Submitter.start``.

        callback_url: The base of the callback URLs, or None.
    """

    journal: Journal
    registry: Registry
    runtime: Runtime
    uploads: Uploads
    results: ResultWriter
    start: Callable[[LiveJob, WriteIntent, Submission], None]
    callback_url: str | None

    async def write_intent(self, job: LiveJob, request: Request) -> tuple[Intent, Mapping[str, JSON]]:
        """Journal the row of a new job, or adopt the row that has its key; return the row and the input to send."""
        while True:
            row = None if job.key is None else await self.journal.by_key(job.key)
            if row is None:
                row, given = await self._add_row(job, request)
                if row.id == job.id:
                    return row, given
            if (adopted := await self._adopt_row(job, row, request)) is not None:
                return adopted

    async def _add_row(self, job: LiveJob, request: Request) -> tuple[Intent, Mapping[str, JSON]]:
        # A key that is made of the content is only for that content; any other key is for what is uploaded.
        expected = job.fingerprint if job.submission is not None and job.submission.key_of_content else None
        sources, given, job.fingerprint = await self._upload(request, expected)
        now = self.runtime.wall()
        row = Intent(
            id=job.id,
            model=request.model,
            input=encode_for_journal(given),
            fingerprint=job.fingerprint,
            price_class=price_class(request.model, given),
            created_at=now,
            updated_at=now,
            sources=sources,
            key=job.key,
            callback_url=self.callback_url,
            holder=self.journal.worker if _is_shared(job) else None,
            **_funding(job),
            version=0 if job.row is None else job.row.version + 1,  # the old row was deleted
        )
        # Cancelled here, the row would stay in the journal, and recover() would send it.
        with anyio.CancelScope(shield=True):
            row = await self.journal.add(row)
        return row, given

    async def _write_again(self, row: Intent, request: Request) -> tuple[Intent, Mapping[str, JSON]]:
        """Return the row and the input of an intent whose input only the caller has; the journal has its hash."""
        sources, given, _ = await self._upload(request, row.fingerprint)
        now = self.runtime.wall()
        return await self.journal.update_fields(row.id, at=now, sources=sources) or row, given

    async def upload_again(self, job: LiveJob, request: Request | None) -> Mapping[str, JSON]:
        """
        Upload the images of a job whose uploads have expired while it waited, and return the input to send.

        Args:
            job: The job.

            request: Its request; None if only the journal has it.

        Raises:
            UploadError: If an upload fails, or an image has changed: it would be another request.
        """
        if request is None:
            job.row, given = await self.prepare_again(job)
            return given
        sources, given, _ = await self._upload(request, job.fingerprint)
        changes: Changes = {"sources": sources}
        if require_row(job).input:
            changes["input"] = encode_for_journal(given)
        await self.results.transitions.record_fields(job, **changes)
        return given

    async def _upload(
        self, request: Request, expected: str | None
    ) -> tuple[tuple[SourceFile, ...], Mapping[str, JSON], str]:
        """
        Upload the images of a request; return them, the input, and the fingerprint of what was uploaded.

        Raises:
            ImageChangedError: If the fingerprint is not the *expected* one: a file has changed since it was hashed.
        """
        sources: list[SourceFile] = []
        for field, image in request.files().items():
            uploaded = await self.uploads.upload(image)
            origin = str(image.content) if isinstance(image.content, Path) else None
            sources.append(
                SourceFile(
                    field=field,
                    sha256=uploaded.sha256,
                    origin=origin,
                    url=uploaded.url,
                    usable_until=uploaded.usable_until,
                )
            )
        given = request.input({source.field: source.url for source in sources})
        hashes = {source.field: source.sha256 for source in sources}
        fingerprint = make_fingerprint(request.model, request.input(hashes) if sources else given, hashes)
        if expected is not None and fingerprint != expected:
            raise ImageChangedError
        return tuple(sources), given, fingerprint

    async def _upload_again(self, job: LiveJob, source: SourceFile) -> SourceFile:
        if source.origin is None:
            raise await self._unsendable(job, "its file was given as bytes and uploaded too long ago")
        image = MediaSource(Path(source.origin), limits_of_upload(source.url))
        if await anyio.to_thread.run_sync(image.problems):
            raise await self._unsendable(job, f"its file was uploaded too long ago, and {source.origin} is gone")
        uploaded = await self.uploads.upload(image)
        if uploaded.sha256 != source.sha256:
            raise await self._unsendable(job, f"its file was uploaded too long ago, and {source.origin} has changed")
        return attrs.evolve(source, url=uploaded.url, usable_until=uploaded.usable_until)

    async def _unsendable(self, job: LiveJob, reason: str) -> errors.KieError:
        msg = (
            f"The job was not sent before its process ended and cannot be sent now: {reason}. Submit the request again."
        )
        error = errors.UploadError(msg, job_id=job.id)
        await self.results.record_cancelled(job, error)
        return job.error or error  # job.error if an ambiguous attempt may have been paid

    async def _adopt_row(self, job: LiveJob, row: Intent, request: Request) -> tuple[Intent, Mapping[str, JSON]] | None:
        """Adopt the row that has the job's key, as far as its state allows; None if it has changed meanwhile."""
        if row.fingerprint != job.fingerprint:
            raise await conflict_error(row, request, key=job.key or "", job_id=row.id)
        journal, known = self.journal, self.registry.get(row.id)
        if known is not None and known.unwritten is not None:
            await self.results.transitions.write_pending(known)
            return None
        # Cancelled between the claim and the adoption, this process would own a job that it does not work on.
        with anyio.CancelScope(shield=True):
            if (latest := await self._claim_row(job, row)) is None:
                return None
            row = latest
        # From here on nothing is awaited before the job is known to work on the row.
        sends = row.state is JobState.INTENT and journal.owns(row)
        # Of a shared run, the worker that holds the row has sent it, and yields it.
        reopens = row.state in _REOPENED and (not _is_shared(job) or row.holder == journal.worker)
        known = self.registry.get(row.id)
        if known is not None and known is not job:
            if (sends or reopens) and not known.has_submission:
                options = (job.submission or Submission()).again()
                options.upload_again = partial(self.upload_again, known, request)
                self.start(known, partial(self.write_intent, known, request), options)
            job.successor = known
            return row, {}
        self.registry.rename(job, row.id)
        job.learn(row)
        if row.state is JobState.REJECTED and row.ambiguous_attempts:
            raise load_error(row.error, job_id=row.id)
        if sends:
            funding = _funding(job)
            if funding and (row.budget, row.price) != (funding.get("budget"), funding.get("price")):
                changed = await journal.update_fields(row.id, at=self.runtime.wall(), **funding)
                job.learn(changed or row)
            return await self.prepare_again(job) if row.input else await self._write_again(row, request)
        return await self._reopen(job, row, request) if reopens else (row, {})

    async def _claim_row(self, job: LiveJob, row: Intent) -> Intent | None:
        """Claim a row that was not sent; return it as it is then, or None if it has changed meanwhile."""
        journal = self.journal
        if row.state is JobState.INTENT and not journal.owns(row):
            latest = next(iter(await journal.claim([row.id], adopt_key=True)), None) or await journal.get(row.id)
            return None if latest is None or latest.state is not JobState.INTENT or latest.owner is None else latest
        if row.state in _REOPENED and _is_shared(job):
            return next(iter(await journal.hold([row.id])), None)
        return row

    async def _reopen(self, job: LiveJob, row: Intent, request: Request) -> tuple[Intent, Mapping[str, JSON]] | None:
        """Make a job that was not accepted an intent again; None if another process was faster."""
        sources, given, _ = await self._upload(request, row.fingerprint)
        reopened: Intent | None = None
        with anyio.CancelScope(shield=True):
            reopened = await self.journal.transition(
                row,
                JobState.INTENT,
                at=self.runtime.wall(),
                sources=sources,
                input=encode_for_journal(given),
                callback_url=self.callback_url,
                error=None,
                **_funding(job),
            )
            if reopened is not None:
                job.learn(reopened)
        return None if reopened is None else (reopened, given)

    async def prepare_again(self, job: LiveJob) -> tuple[Intent, Mapping[str, JSON]]:
        """
        Return the row and the input of a job that was journaled before; expired uploads are renewed.

        Raises:
            UploadError: If the journal does not hold what is needed; the job is cancelled.
        """
        row = require_row(job)
        if not row.input:
            raise await self._unsendable(job, "the journal keeps only hashes of inputs")
        given: dict[str, JSON] = json.loads(row.input)
        now = self.runtime.wall()
        sources: list[SourceFile] = []
        for source in row.sources:
            fresh = source
            if now >= source.usable_until:
                fresh = await self._upload_again(job, source)
                given = with_values(given, {source.field: fresh.url})
            sources.append(fresh)
        if tuple(sources) == row.sources:
            return row, given
        changed = await self.journal.update_fields(
            row.id, at=now, sources=tuple(sources), input=encode_for_journal(given)
        )
        return changed or row, given


def _is_shared(job: LiveJob) -> bool:
    return job.submission is not None and job.submission.shared


def _funding(job: LiveJob) -> _Funding:
    """Return the budget and the price of a job; nothing if its submission has no named budget."""
    submission = job.submission
    if submission is None or submission.budget is None:
        return {}
    return {"budget": submission.budget, "price": submission.price}


async def _image_hashes(request: Request) -> dict[str, str]:
    """Return the hashes of the local images by field."""
    return {field: (await anyio.to_thread.run_sync(image.load)).sha256 for field, image in request.files().items()}


async def conflict_error(row: Intent | None, request: Request, *, key: str, job_id: str) -> errors.KeyConflictError:
    """Return the error for a request whose key belongs to another request."""
    hashes = await _image_hashes(request)
    names: tuple[str, ...] = ()
    if row is not None and row.input:
        theirs = {source.field: source.sha256 for source in row.sources}
        names = differs(row.model, json.loads(row.input), theirs, request.model, request.input(hashes), hashes)
    differing = f" (different: {shortened(', '.join(names))})" if names else ""
    msg = f"The key {key!r} belongs to another request{differing}. Use a different key, or the same request."
    return errors.KeyConflictError(msg, differs=names, job_id=job_id)


def _named(request: Request, path: str) -> str:
    """Return a path of the input as the caller names it: fields have other names in the service."""
    from kie_async.requests._model import ModelRequest  # for errors only

    if isinstance(request, ModelRequest):
        for field in request.field_rules():
            if path == field.wire or path.startswith((f"{field.wire}[", f"{field.wire}.")):
                return field.name + path.removeprefix(field.wire)
    return path
