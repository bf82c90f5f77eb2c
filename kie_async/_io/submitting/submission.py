"""
Submissions: tasks that take one intent to a taskId. ``Submitter`` starts and stops them; ``Attempts`` sends creates.

A create costs money and cannot be undone. So a submission is a task of its own, started before the caller first waits;
a caller who leaves can only ask it to stop. It stops at once while nothing is on the wire. From the first byte of a
request it continues to the response, and journals the result before it reports it.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, TypeAlias, Unpack

import anyio
import attrs
from aiohttp import ClientConnectorCertificateError
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential

from kie_async import errors
from kie_async._core.callback_token import make_callback_url
from kie_async._core.candidates import read_candidates
from kie_async._core.job_errors import closed_error, dump_error, not_admitted_error
from kie_async._core.verdicts import Reply, Verdict, create_error, decide, names_lost_media
from kie_async._core.wire import read_envelope, task_id_of, write_create
from kie_async._io.http.backoff import FullJitter, pause_after
from kie_async._io.http.transport import Exchange, describe
from kie_async._io.jobs.live_job import StopReason, Submission
from kie_async._io.jobs.transitions import require_row
from kie_async._io.submitting.admission import Permit
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from kie_async._core.lifecycle import Intent
    from kie_async._io.http.account_check import AccountCheck
    from kie_async._io.http.transport import Transport
    from kie_async._io.jobs.live_job import LiveJob, Registry
    from kie_async._io.jobs.transitions import ResultWriter, Transitions
    from kie_async._io.journals.journal import Changes
    from kie_async._io.polling.tracker import Tracker
    from kie_async._io.runtime import Runtime, Supervisor
    from kie_async._io.submitting.admission import Admission
    from kie_async._io.submitting.candidates import Candidates
    from kie_async.policy import RetryPolicy
    from kie_async.records import JSON

__all__ = ["Attempts", "SubmissionContext", "Submitter", "WriteIntent"]

#: Uploads images, journals the row of a job, and returns it with the input to send.
WriteIntent: TypeAlias = "Callable[[], Awaitable[tuple[Intent, Mapping[str, JSON]]]]"

_log = logging.getLogger("kie_async")

#: The HTTP status, and the codes, by which the service refuses the API key and not the account.
_BAD_KEY = 401
_KEY_REFUSALS = frozenset({401, 433})
_GATED = frozenset({Verdict.RATE_LIMITED, Verdict.MAINTENANCE})
#: The upper bound of the wait after each failure: 0.5, 1, 2 … 30 seconds.
_UNSENT_WAIT = wait_exponential(multiplier=0.5, max=30.0)


@attrs.frozen(kw_only=True, repr=False)
class SubmissionContext:
    """
    The parts that all submissions share.

    Attributes:
        transport: Sends creates.

        admission: Grants slots and permits.

        transitions: Changes rows.

        results: Records the results of creates.

        runtime: Clock and randomness.

        retry: The number and duration of retries.

        secret: The secret of callback tokens.

        report: Reports events.

        forget_uploads: Forgets the uploads of a request.

        candidates: Confirms tasks that odd answers have named.

        account_check: Checks the answers that a gateway or a proxy has given in place of the service.
    """

    transport: Transport
    admission: Admission
    transitions: Transitions
    results: ResultWriter
    runtime: Runtime
    retry: RetryPolicy
    secret: bytes
    report: Callable[..., None]
    forget_uploads: Callable[[Intent], None]
    candidates: Candidates
    account_check: AccountCheck


class _NotSentError(Exception):
    """Raised in the write-ahead hook to send nothing: the permit has expired, or the submission is to stop."""


class _RowMovedError(Exception):
    """Raised in the write-ahead hook to send nothing: the row has been changed elsewhere."""


@attrs.define(eq=False, repr=False, kw_only=True)
class Attempts:
    """
    The attempts of one intent. Methods that return a boolean return True if another attempt is to follow.

    Args:
        context: The parts that all submissions share.

        job: The job.

        submission: The job's submission.

        task_input: The ``input`` to send.

        stop_for_account: Stops the submissions of some jobs, or all, because the account cannot pay.
    """

    context: SubmissionContext
    job: LiveJob
    submission: Submission
    task_input: Mapping[str, JSON]
    stop_for_account: Callable[[Collection[LiveJob] | None, errors.KieError], None]
    _wrote_sending: bool = attrs.field(default=False, init=False)
    _row_moved: bool = attrs.field(default=False, init=False)
    _reason: str = attrs.field(default="", init=False)
    _failures: int = attrs.field(default=0, init=False)
    _unsent_since: float | None = attrs.field(default=None, init=False)
    _last_verdict: Verdict = attrs.field(default=Verdict.UNSENT, init=False)
    _named: tuple[str, ...] = attrs.field(default=(), init=False)

    async def run(self) -> bool:
        """
        Send the create until there is a final verdict, or ``unsent_timeout`` is reached.

        Returns:
            False if the row was changed elsewhere meanwhile; then nothing was sent.
        """
        retry = await self._attempt()
        if retry and not self._unsent_timeout_reached():
            # Only for retries: tenacity takes a tenth of the time that a job costs.
            await self._sleep(self._backoff())
            retrying: AsyncRetrying = AsyncRetrying(
                reraise=True,
                retry=retry_if_result(bool),
                stop=self._unsent_timeout_reached,
                wait=self._backoff,
                sleep=self._sleep,
                retry_error_callback=lambda _: True,  # stopped although another attempt was to follow
            )
            retry = await retrying(self._attempt)
        if retry:
            timeout = self.context.retry.unsent_timeout
            await self._cancel_job(
                errors.TransportError(
                    f"The task could not be sent for {timeout:g} s ({self._reason}). Nothing was paid: check the"
                    " network and submit again.",
                    job_id=self.job.id,
                )
            )
        return not self._row_moved

    # -- for tenacity: all synchronous, all by the loop's clock -----------------------------------------------------

    def _unsent_timeout_reached(self, _: RetryCallState | None = None) -> bool:
        if self._unsent_since is None:
            return False
        return self.context.runtime.now() - self._unsent_since >= self.context.retry.unsent_timeout

    def _backoff(self, _: RetryCallState | None = None) -> float:
        # Refusals do not count: after ten of them, the first failed connection is not followed by a wait of minutes.
        if not self._failures:
            return 0.0
        return pause_after(FullJitter(_UNSENT_WAIT, self.context.runtime.random), self._failures)

    async def _sleep(self, seconds: float) -> None:
        # After a 429 or 455 the job waits in the shared queue, which keeps the order of jobs.
        if self._last_verdict not in _GATED and seconds > 0:
            await anyio.sleep(seconds)

    # -- one attempt ------------------------------------------------------------------------------------------------

    async def _attempt(self) -> bool:
        submission, context, upload_again = self.submission, self.context, self.submission.upload_again
        if upload_again is not None and self._are_uploads_expired() and not await self._upload_again(upload_again):
            return False
        try:
            permit = await context.admission.acquire_permit(
                submission.position, since=submission.requested_at, outlasts_maintenance=submission.outlasts_maintenance
            )
        except errors.JournalError as error:
            return await self._handle_broken_journal(error)
        if not isinstance(permit, Permit):
            limited = permit is Verdict.RATE_LIMITED
            waited = context.retry.max_age if limited else context.retry.maintenance_timeout
            await self._cancel_job(not_admitted_error(waited, limited=limited, job_id=self.job.id))
            return False
        if upload_again is not None and self._are_uploads_expired():
            permit.finish(Verdict.UNSENT)
            return True  # the place in the queue stays
        submission.on_wire = False
        try:
            exchange = await context.transport.create(
                self._create_body(), before_first_byte=lambda: self._journal_sending(permit)
            )
        except BaseException:
            # Cancelled. Before the first byte the row returns to INTENT; after it the row stays SENDING.
            permit.finish(Verdict.IN_DOUBT if submission.on_wire else Verdict.UNSENT)
            if not submission.on_wire:
                with anyio.CancelScope(shield=True):
                    await self._return_to_intent()
            raise
        verdict = decide(reply := _read_reply(exchange))
        context.account_check.answered |= reply.code is not None
        self._named = () if verdict is Verdict.ACCEPTED else read_candidates(exchange.body)
        unclear = self._named or reply.is_bare_refusal
        refusal = create_error(reply, job_id=self.job.id) if verdict is Verdict.ACCOUNT else None
        permit.finish(
            Verdict.IN_DOUBT if unclear else verdict,
            retry_after=exchange.retry_after,
            error=refusal,
            refuses_key=reply.code in _KEY_REFUSALS or reply.status == _BAD_KEY,
        )
        retry, on_wire, submission.on_wire = False, submission.on_wire, False
        if unclear:
            verdict = await self._clarify(verdict, reply)
        if on_wire and self.job.state is not JobState.SENDING and verdict is not Verdict.ACCEPTED:
            return False  # what the answer has named is bound, or a callback was faster
        # Only this task knows the response: nothing may interrupt it before the result is journaled.
        with anyio.CancelScope(shield=True):
            retry = await self._record_verdict(verdict, reply, exchange.error)
        # A submission that was stopped while the create was on the wire ends now.
        return retry and submission.stop_reason is None and not self._row_moved

    async def _clarify(self, verdict: Verdict, reply: Reply) -> Verdict:
        """Confirm what the answer names; ask if the service may be behind a bare refusal."""
        if self._named and await self.context.candidates.settle(self.job, self._named) is None:
            return Verdict.IN_DOUBT  # a task that may be ours: the create is not sent again
        if not reply.is_bare_refusal:
            return verdict
        return decide(attrs.evolve(reply, from_service_url=await self.context.account_check.may_be_service()))

    def _are_uploads_expired(self) -> bool:
        now = self.context.runtime.wall()
        expired = any(now >= source.usable_until for source in require_row(self.job).sources)
        return expired and self.job.state is JobState.INTENT

    async def _upload_again(self, upload_again: Callable[[], Awaitable[Mapping[str, JSON]]]) -> bool:
        """Upload the images of the request again; return False if the job was cancelled because that is impossible."""
        try:
            self.task_input = await upload_again()
        except errors.KieError as error:
            if self.job.key is not None or self.job.state is not JobState.INTENT:
                raise  # the intent stays: the same key resumes it
            await self._cancel_job(error)
            return False
        return True

    def _create_body(self) -> bytes:
        row = require_row(self.job)
        url = None
        if row.callback_url is not None:
            url = make_callback_url(row.callback_url, self.context.secret, row.id, row.attempts + 1)
        return write_create(row.model, self.task_input, url)

    async def _journal_sending(self, permit: Permit) -> None:
        """Journal SENDING before the first byte is on the wire (write-ahead)."""
        job, context = self.job, self.context
        if job.state is not JobState.INTENT:
            raise _RowMovedError  # a callback has proved that an ambiguous attempt was accepted
        sending, before = False, require_row(job)
        with anyio.CancelScope(shield=True):
            sending = await context.transitions.require_transition(
                job,
                JobState.SENDING,
                account_epoch=permit.account_epoch,
                attempts=before.attempts + 1,
                sending_at=context.runtime.wall(),
                error=None,
            )
        if not sending:
            row = require_row(job)
            if (row.state, row.attempts, row.owner) == (before.state, before.attempts, before.owner):
                context.admission.read_state()  # another worker has closed the gate
                raise _NotSentError
            raise _RowMovedError
        self._wrote_sending = True
        if self.submission.stop_reason is not None or not permit.is_usable():
            raise _NotSentError
        self.submission.on_wire = True
        permit.record_write()
        job.wake_waiters()

    async def _return_to_intent(self, **changes: Unpack[Changes]) -> None:
        # Only after a SENDING of this submission: another process's must not be changed.
        if self._wrote_sending:
            self._wrote_sending = False
            # The row may have changed: for example, a callback has proved that an ambiguous attempt was accepted.
            self._row_moved = (
                self.job.state is not JobState.SENDING
                or not await self.context.transitions.record_transition(self.job, JobState.INTENT, **changes)
            )

    async def _record_verdict(self, verdict: Verdict, reply: Reply, error: Exception | None) -> bool:
        job, context = self.job, self.context
        self._last_verdict = verdict
        self._unsent_since = self._unsent_since if verdict is Verdict.UNSENT else None
        match verdict:
            case Verdict.UNSENT:
                return await self._handle_unsent(error)
            case Verdict.AMBIGUOUS:
                return await self._handle_ambiguous(reply)
            case Verdict.ACCEPTED:
                await self._record_accepted(reply.task_id or "")
            case Verdict.RATE_LIMITED:
                context.report(EventName.RATE_LIMITED, job)
                await self._return_to_intent()
            case Verdict.MAINTENANCE:
                context.report(EventName.MAINTENANCE, job)
                await self._return_to_intent()
            case Verdict.ACCOUNT:
                context.report(EventName.ACCOUNT_PAUSED, job, code=reply.code or reply.status)
                self.stop_for_account((job,), create_error(reply, job_id=job.id))
                await self._return_to_intent()
            case Verdict.REJECTED:
                if names_lost_media(reply.message):
                    context.forget_uploads(require_row(job))
                await context.results.record_rejected(job, create_error(reply, job_id=job.id))
            case Verdict.IN_DOUBT:
                await self._record_doubt(reply, error)
        return verdict in _GATED

    async def _record_accepted(self, task_id: str) -> None:
        if not await self.context.results.record_accepted(self.job, task_id):
            # An answer that was given before. The job's own task may exist, and a callback may still name it.
            await self.context.results.record_in_doubt(self.job, f"the answer names {task_id}, another job's task")

    async def _record_doubt(self, reply: Reply, error: Exception | None) -> None:
        if reply.from_gateway:
            self.context.account_check.record_gateway_answer()
        reason = reply.summary if error is None else describe(error)
        if self._named:
            reason += f"; it names {', '.join(self._named)}, which could not be confirmed"
        await self.context.results.record_in_doubt(self.job, reason)
        for task_id in self._named:
            self.context.candidates.confirm(self.job.id, task_id)

    async def _handle_unsent(self, error: Exception | None) -> bool:
        await self._return_to_intent()
        if isinstance(error, errors.JournalError) and not error.retryable:
            return await self._handle_broken_journal(error)
        if isinstance(error, errors.BudgetExceededError):
            await self._cancel_job(error)
            return False
        if isinstance(error, _NotSentError):
            self._failures = 0  # nothing has failed: the job is queued again
            return True
        if isinstance(error, _RowMovedError):
            self._row_moved = True
            return False
        self._reason = "no connection" if error is None else describe(error)
        if isinstance(error, ClientConnectorCertificateError):
            await self._cancel_job(
                errors.TransportError(
                    "The service's certificate is not trusted. Nothing was sent: check the base URL and the CA bundle.",
                    job_id=self.job.id,
                )
            )
            return False
        self._failures += 1
        if self._unsent_since is None:
            self._unsent_since = self.context.runtime.now()
        return True

    async def _handle_broken_journal(self, error: errors.JournalError) -> bool:
        if self.job.key is not None:
            raise error  # the intent stays: the same key, or recover(), resumes it
        await self._cancel_job(error)
        return False

    async def _handle_ambiguous(self, reply: Reply) -> bool:
        job, context = self.job, self.context
        row = require_row(job)
        ambiguous = row.ambiguous_attempts + 1
        context.report(EventName.AMBIGUOUS, job, attempt=row.attempts, message=reply.message)
        if context.retry.on_server_error == "in_doubt":
            await context.results.record_in_doubt(
                job, f"code {reply.code}: {reply.message}", ambiguous_attempts=ambiguous
            )
            return False
        if ambiguous >= context.retry.server_error_attempts or not self._may_pay_again():
            await context.results.record_rejected(job, create_error(reply, job_id=job.id), ambiguous_attempts=ambiguous)
            return False
        _log.warning(
            "Attempt %d of %s was answered by code %s (%s) and may have been paid; it is sent again.",
            row.attempts,
            job.id,
            reply.code,
            reply.message[:200],
        )
        self._failures = ambiguous
        await self._return_to_intent(ambiguous_attempts=ambiguous)
        return True

    def _may_pay_again(self) -> bool:
        return self.submission.may_pay_again is None or self.submission.may_pay_again()

    async def _cancel_job(self, error: errors.KieError) -> None:
        if self._row_moved:
            return
        with anyio.CancelScope(shield=True):
            await self.context.results.record_cancelled(self.job, error)


def _read_reply(exchange: Exchange) -> Reply:
    response = exchange.response
    if response is None:
        return Reply(sent=exchange.sent)
    envelope = read_envelope(response.body)
    return Reply(
        sent=True,
        status=response.status,
        envelope=envelope,
        task_id=None if envelope is None else task_id_of(envelope),
        head=response.body[:256].decode("utf-8", "replace"),
    )


@attrs.define(eq=False, repr=False, kw_only=True)
class Submitter:
    """
    Starts submissions and stops them.

    Args:
        context: The parts that all submissions share.

        registry: The live jobs.

        tracker: Forgets jobs that are not tracked any more.

        follow: Resumes a job after its submission.

        supervisor: Runs the submissions.

        owns: Returns True if this process owns a row.
    """

    context: SubmissionContext
    registry: Registry
    tracker: Tracker
    follow: Callable[[LiveJob], Awaitable[None]]
    supervisor: Supervisor
    owns: Callable[[Intent], bool]
    #: True once no more submissions are started.
    closing: bool = attrs.field(default=False, init=False)
    # An ordered set of jobs, not of ids: a job that a callback has ended may still wait for its response when a
    # new job with the same key adopts its row.
    _active: dict[LiveJob, None] = attrs.field(factory=dict, init=False)
    _positions: int = attrs.field(default=0, init=False)

    @property
    def active(self) -> int:
        """The number of submissions."""
        return len(self._active)

    @property
    def sending(self) -> int:
        """The number of creates that may be on the wire."""
        return sum(job.state is JobState.SENDING for job in self._active)

    async def wait_idle(self) -> None:
        """Wait until no submission is left."""
        while self._active:
            await next(iter(self._active)).wait_for_change()

    def start(
        self,
        job: LiveJob,
        write_intent: WriteIntent,
        submission: Submission | None = None,
    ) -> None:
        """
        Start the submission of a job, at the end of the queue.

        Args:
            job: The job.

            write_intent: Uploads images, journals the row and returns it with the input to send.

            submission: The options of the submission; None for the defaults.

        Raises:
            ClientClosedError: If the client closes.
        """
        if self.closing:
            raise closed_error(job_id=job.id)
        self._positions += 1
        job.submission = submission = submission or Submission()
        submission.position, submission.requested_at = self._positions, self.context.runtime.now()
        job.submitted_here, job.remote, job.error = True, False, None
        self.registry.add(job)
        self._active[job] = None
        self.supervisor.start(self._submit, job, submission, write_intent)

    def stop(self, job: LiveJob, reason: StopReason, error: errors.KieError) -> None:
        """
        Ask a submission to end; only the first request counts.

        Args:
            job: The job; nothing happens if its submission has ended.

            reason: The reason.

            error: The error for its waiters.
        """
        submission = job.submission
        if submission is None or submission.stop_reason is not None:
            return
        submission.stop_reason = reason
        job.error = error
        if job.state is not JobState.SENDING:
            submission.cancel_unless_on_wire()

    def interrupt(self, job: LiveJob) -> None:
        """
        End the submission of a job whose task was confirmed before the response to its create.

        A create on the wire continues to its response, which may name another task.
        """
        if job.submission is not None:
            job.submission.cancel_unless_on_wire()

    def stop_for_account(
        self, jobs: Collection[LiveJob] | None, error: errors.KieError, *, until: float = math.inf
    ) -> None:
        """Stop the submissions of *jobs*, or all with None, that began by an instant: the account cannot pay."""
        for job in list(self._active) if jobs is None else jobs:
            if job.submission is not None and job.submission.requested_at > until:
                continue
            own = error.copy()
            own.job_id = job.id
            self.stop(job, StopReason.ACCOUNT, own)

    async def _submit(self, job: LiveJob, submission: Submission, write_intent: WriteIntent) -> None:
        final = False
        try:
            with anyio.CancelScope() as submission.scope:
                if submission.stop_reason is None:
                    row, task_input = await write_intent()
                    if job.successor is None:
                        job.learn(row)
                    job.journaled = True
                    job.wake_waiters()
                    if self._is_sendable(job):
                        await self._take_slot(job)
                        final = await Attempts(
                            context=self.context,
                            job=job,
                            submission=submission,
                            task_input=task_input,
                            stop_for_account=self.stop_for_account,
                        ).run()
            if job.state is JobState.INTENT and job.error is not None:
                final = True
                with anyio.CancelScope(shield=True):
                    await self._record_stop(job, submission.stop_reason, job.error)
        except errors.KieError as error:
            final, job.error = True, error
        except Exception as error:
            msg = f"The job has failed within the client ({type(error).__name__}). This is a bug: please report it."
            final, job.error = True, errors.KieError(msg, job_id=job.id, task_id=job.task_id)
            raise
        finally:
            if final and self._is_sendable(job) and not self.closing:  # a client that closes frees its jobs anyway
                with anyio.CancelScope(shield=True):
                    await self._give_up(job)
            del self._active[job]
            job.submission = None
            if job.row is None or job.successor is not None or (final and job.state is JobState.INTENT):
                self.tracker.stop_tracking(job)
        if self.registry.get(job.id) is job:
            await self.follow(job)
        job.wake_waiters()

    def _is_sendable(self, job: LiveJob) -> bool:
        """Return True if this process is to send a job that was journaled."""
        row = job.row
        return job.successor is None and row is not None and row.state is JobState.INTENT and self.owns(row)

    async def _take_slot(self, job: LiveJob) -> None:
        if job.holds_slot:
            return
        await self.context.admission.slots.acquire()
        if job.state is JobState.INTENT:
            job.holds_slot = True
        else:
            # Just now a callback has confirmed its task, which has a slot of its own.
            self.context.admission.slots.release()

    async def _give_up(self, job: LiveJob) -> None:
        """Leave a job that was not sent to any process: a later submit() with its key, or recover(), sends it."""
        error = None if job.error is None else dump_error(job.error)
        await self.context.transitions.record_transition(job, JobState.INTENT, owner=None, error=error)

    async def _record_stop(self, job: LiveJob, reason: StopReason | None, error: errors.KieError) -> None:
        """Record that a submission has ended before its create was accepted, if that is final."""
        # After a refusal by the account, an intent with a key stays: the same key, or recover(), resumes it.
        # It also stays when the client closes: recover() sends it.
        if reason is StopReason.CANCELLED or (reason is StopReason.ACCOUNT and job.key is None):
            await self.context.results.record_cancelled(job, error)
