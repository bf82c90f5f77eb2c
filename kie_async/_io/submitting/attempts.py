"""
The owner of an intent: brings it to a taskId, through every refusal that is worth another try.

From the first byte of a create on it goes through to an answer, and writes down what it learns before it tells anybody.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Unpack

import anyio
import attrs
from aiohttp import ClientConnectorCertificateError
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_exponential

from kie_async import errors
from kie_async._core.callback_token import make_callback_url
from kie_async._core.verdicts import Reply, Verdict, create_error, decide
from kie_async._core.wire import read_envelope, task_id_of, write_create
from kie_async._io.http.backoff import FullJitter, pause_after
from kie_async._io.http.transport import Exchange, describe
from kie_async._io.jobs.transitions import require_row
from kie_async._io.submitting.admission import Permit
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from kie_async._io.http.transport import Transport
    from kie_async._io.jobs.live_job import LiveJob, Submission
    from kie_async._io.jobs.transitions import ResultWriter, Transitions
    from kie_async._io.journals.journal import Changes
    from kie_async._io.runtime import Runtime
    from kie_async._io.submitting.admission import Admission
    from kie_async.policy import RetryPolicy
    from kie_async.records import JSON

__all__ = ["Attempts", "SubmissionContext"]

_log = logging.getLogger("kie_async")

_GATED = frozenset({Verdict.RATE_LIMITED, Verdict.MAINTENANCE})
_RETRIED = _GATED | {Verdict.UNSENT}
#: The ceiling of the wait after a failure: 0.5, 1, 2 … 30 seconds.
_UNSENT_WAIT = wait_exponential(multiplier=0.5, max=30.0)


@attrs.frozen(kw_only=True)
class SubmissionContext:
    """
    What every owner works with.

    Attributes:
        transport: What carries creates.

        admission: Tokens and the gate.

        transitions: Moves rows.

        results: Writes the end of a create down.

        runtime: Clock and randomness.

        retry: How often and for how long.

        secret: What callback tokens are made with.

        report: Takes events.
    """

    transport: Transport
    admission: Admission
    transitions: Transitions
    results: ResultWriter
    runtime: Runtime
    retry: RetryPolicy
    secret: bytes
    report: Callable[..., None]


class _NotSentError(Exception):
    """Raised in the write-ahead hook to send nothing: the permit is no longer good, or the owner is to stop."""


class _RowMovedError(Exception):
    """Raised in the write-ahead hook to send nothing: somebody else has moved the row."""


@attrs.frozen
class _AttemptResult:
    """How one attempt ended, for tenacity."""

    verdict: Verdict
    retry: bool


class Attempts:
    """
    One intent on its way to a taskId.

    Args:
        context: What it works with.

        job: The job.

        submission: What it takes along.

        given: The ``input`` to send.

        stop_for_account: Tells the owners of some jobs, or of all, that the account cannot pay.
    """

    def __init__(
        self,
        context: SubmissionContext,
        job: LiveJob,
        submission: Submission,
        given: Mapping[str, JSON],
        *,
        stop_for_account: Callable[[Collection[LiveJob] | None, errors.KieError], None],
    ) -> None:
        self._context = context
        self._job = job
        self._submission = submission
        self._input = given
        self._halt = stop_for_account
        self._wrote_sending = False
        self._row_moved = False
        self._reason = ""
        self._failures = 0
        self._unsent_since: float | None = None
        self._last_verdict = Verdict.UNSENT

    async def run(self) -> bool:
        """
        Try until there is a verdict that stands, or the patience with the network is at its end.

        Returns:
            False if somebody else has moved the row meanwhile, and so works on it; nothing was sent then.
        """
        attempt = await self._attempt()
        if attempt.retry and not self._unsent_timeout_reached():
            # Not before it is needed: tenacity's bookkeeping costs a tenth of all that a job costs.
            await self._sleep(self._backoff())
            attempt = await self._attempts()
        if attempt.retry:
            patience = self._context.retry.unsent_timeout
            await self._cancel_job(
                errors.TransportError(
                    f"The task could not be sent for {patience:g} s ({self._reason}). Nothing was paid: check the"
                    " network and submit again.",
                    job_id=self._job.id,
                )
            )
        return not self._row_moved

    # -- how tenacity goes on: all synchronous, all by the loop's clock ---------------------------------------------

    async def _attempts(self) -> _AttemptResult:
        retrying: AsyncRetrying = AsyncRetrying(
            reraise=True,
            retry=retry_if_result(lambda attempt: attempt.retry),
            stop=self._unsent_timeout_reached,
            wait=self._backoff,
            sleep=self._sleep,
            retry_error_callback=_last_attempt,
        )
        attempt: _AttemptResult = await retrying(self._attempt)
        return attempt

    def _unsent_timeout_reached(self, _: RetryCallState | None = None) -> bool:
        if self._unsent_since is None:
            return False
        return self._context.runtime.now() - self._unsent_since >= self._context.retry.unsent_timeout

    def _backoff(self, _: RetryCallState | None = None) -> float:
        # Counted by kind: ten refusals by the rate limit do not make the first broken connection wait for minutes.
        if not self._failures:
            return 0.0
        return pause_after(FullJitter(_UNSENT_WAIT, self._context.runtime.random), self._failures)

    async def _sleep(self, seconds: float) -> None:
        # After a 429 or a 455 the queue that all jobs share does the waiting, and keeps their order.
        if self._last_verdict not in _GATED and seconds > 0:
            await anyio.sleep(seconds)

    # -- one attempt ------------------------------------------------------------------------------------------------

    async def _attempt(self) -> _AttemptResult:
        submission, context = self._submission, self._context
        permit = await context.admission.acquire_permit(
            submission.position, since=submission.requested_at, outlasts_maintenance=submission.outlasts_maintenance
        )
        if not isinstance(permit, Permit):
            await self._cancel_job(self._admission_error(permit))
            return _AttemptResult(permit, retry=False)
        submission.on_wire = False
        try:
            exchange = await context.transport.create(
                self._create_body(), before_first_byte=lambda: self._journal_sending(permit)
            )
        except BaseException:
            # Cancelled. Before the first byte the row goes back; after it the row stays as it is, and tells.
            permit.finish(Verdict.IN_DOUBT if submission.on_wire else Verdict.UNSENT)
            if not submission.on_wire:
                with anyio.CancelScope(shield=True):
                    await self._return_to_intent()
            raise
        attempt = _AttemptResult(Verdict.IN_DOUBT, retry=False)
        # From here on the truth is known to nobody but this task: nothing may come between it and the journal.
        with anyio.CancelScope(shield=True):
            attempt = await self._handle_exchange(permit, exchange)
        # A caller who left while the create was on the wire is heard now, if nothing was accepted.
        return attempt if submission.stop_reason is None and not self._row_moved else attrs.evolve(attempt, retry=False)

    def _admission_error(self, reason: Verdict) -> errors.KieError:
        retry, job_id = self._context.retry, self._job.id
        if reason is Verdict.RATE_LIMITED:
            said = f"The rate limit has refused every create for more than {retry.max_age:g} s."
            return errors.RateLimitError(
                f"{said} Nothing was paid: find out who else uses the account, then submit again.",
                code=429,
                job_id=job_id,
            )
        said = f"The service has been under maintenance for more than {retry.maintenance_timeout:g} s."
        return errors.MaintenanceError(f"{said} Nothing was paid: try again later.", code=455, job_id=job_id)

    def _create_body(self) -> bytes:
        row = require_row(self._job)
        url = None
        if row.callback_url is not None:
            url = make_callback_url(row.callback_url, self._context.secret, row.id, row.attempts + 1)
        return write_create(row.model, self._input, url)

    async def _journal_sending(self, permit: Permit) -> None:
        """The write-ahead: SENDING is in the journal before a byte is on the wire."""
        job, context = self._job, self._context
        if job.state is not JobState.INTENT:
            raise _RowMovedError  # a callback has proved that a suspect attempt was accepted
        sending = False
        with anyio.CancelScope(shield=True):
            sending = await context.transitions.require_transition(
                job,
                JobState.SENDING,
                attempts=require_row(job).attempts + 1,
                sending_at=context.runtime.wall(),
            )
        if not sending:
            raise _RowMovedError
        self._wrote_sending = True
        if self._submission.stop_reason is not None or not permit.is_usable():
            raise _NotSentError
        self._submission.on_wire = True
        permit.record_write()
        job.wake_waiters()

    async def _return_to_intent(self, **changes: Unpack[Changes]) -> None:
        # Only what this owner has written: a SENDING of somebody else's is not to be touched.
        if self._wrote_sending:
            self._wrote_sending = False
            # Somebody else may have moved it: a callback has proved that a suspect attempt was accepted, say.
            self._row_moved = (
                self._job.state is not JobState.SENDING
                or not await self._context.transitions.record_transition(self._job, JobState.INTENT, **changes)
            )

    async def _handle_exchange(self, permit: Permit, exchange: Exchange) -> _AttemptResult:
        job = self._job
        reply = _read_reply(exchange)
        verdict = self._last_verdict = decide(reply)
        response = exchange.response
        closed = permit.finish(verdict, retry_after=None if response is None else response.retry_after)
        on_wire, self._submission.on_wire = self._submission.on_wire, False
        if verdict is not Verdict.UNSENT:
            self._unsent_since = None
        if on_wire and job.state is not JobState.SENDING and verdict is not Verdict.ACCEPTED:
            # A callback was faster, and has bound the task. The answer could only confirm it, or name one more.
            return _AttemptResult(verdict, retry=False)
        return await self._settle(verdict, reply, exchange.error, closed=closed)

    async def _settle(self, verdict: Verdict, reply: Reply, error: Exception | None, *, closed: bool) -> _AttemptResult:
        job, context = self._job, self._context
        match verdict:
            case Verdict.UNSENT:
                return await self._handle_unsent(error)
            case Verdict.AMBIGUOUS:
                return await self._handle_ambiguous(reply)
            case Verdict.ACCEPTED:
                await context.results.record_accepted(job, reply.task_id or "")
            case Verdict.RATE_LIMITED:
                context.report(EventName.RATE_LIMITED, job)
                await self._return_to_intent()
            case Verdict.MAINTENANCE:
                context.report(EventName.MAINTENANCE, job)
                await self._return_to_intent()
            case Verdict.ACCOUNT:
                context.report(EventName.ACCOUNT_PAUSED, job, code=reply.code or reply.status)
                self._halt((job,) if not closed else None, create_error(reply, job_id=job.id))
                await self._return_to_intent()
            case Verdict.REJECTED:
                await context.results.record_rejected(job, create_error(reply, job_id=job.id))
            case Verdict.IN_DOUBT:
                said = f"HTTP {reply.status}, code {reply.code}"
                await context.results.record_in_doubt(job, said if error is None else describe(error))
        return _AttemptResult(verdict, retry=verdict in _RETRIED)

    async def _handle_unsent(self, error: Exception | None) -> _AttemptResult:
        await self._return_to_intent()
        if isinstance(error, errors.JournalError):
            if self._job.key is not None:
                raise error  # it stays: the same key, or recover(), goes on with it
            await self._cancel_job(error)
            return _AttemptResult(Verdict.UNSENT, retry=False)
        if isinstance(error, _NotSentError):
            self._failures = 0  # nothing has failed: the job queues again
            return _AttemptResult(Verdict.UNSENT, retry=True)
        if isinstance(error, _RowMovedError):
            self._row_moved = True
            return _AttemptResult(Verdict.UNSENT, retry=False)
        self._reason = "no connection" if error is None else describe(error)
        if isinstance(error, ClientConnectorCertificateError):
            await self._cancel_job(
                errors.TransportError(
                    "The service's certificate is not trusted. Nothing was sent: check the base URL and the CA bundle.",
                    job_id=self._job.id,
                )
            )
            return _AttemptResult(Verdict.UNSENT, retry=False)
        self._failures += 1
        if self._unsent_since is None:
            self._unsent_since = self._context.runtime.now()
        return _AttemptResult(Verdict.UNSENT, retry=True)

    async def _handle_ambiguous(self, reply: Reply) -> _AttemptResult:
        job, context = self._job, self._context
        row = require_row(job)
        suspects = row.ambiguous_attempts + 1
        context.report(EventName.AMBIGUOUS, job, attempt=row.attempts, message=reply.message)
        if context.retry.on_server_error == "in_doubt":
            await context.results.record_in_doubt(
                job, f"code {reply.code}: {reply.message}", ambiguous_attempts=suspects
            )
            return _AttemptResult(Verdict.AMBIGUOUS, retry=False)
        if suspects >= context.retry.server_error_attempts or not self._may_pay_again():
            await context.results.record_rejected(job, create_error(reply, job_id=job.id), ambiguous_attempts=suspects)
            return _AttemptResult(Verdict.AMBIGUOUS, retry=False)
        _log.warning(
            "Attempt %d of %s was answered by code %s (%s) and may have been paid; it is sent again.",
            row.attempts,
            job.id,
            reply.code,
            reply.message[:200],
        )
        self._failures = suspects
        await self._return_to_intent(ambiguous_attempts=suspects)
        return _AttemptResult(Verdict.AMBIGUOUS, retry=True)

    def _may_pay_again(self) -> bool:
        """Whether whoever counts the money has enough to pay once more for what may have been paid already."""
        return self._submission.may_pay_again is None or self._submission.may_pay_again()

    async def _cancel_job(self, error: errors.KieError) -> None:
        if self._row_moved:
            return
        with anyio.CancelScope(shield=True):
            await self._context.results.record_cancelled(self._job, error)


def _last_attempt(state: RetryCallState) -> _AttemptResult:
    """What tenacity returns when it stops: how the last attempt ended, and not an error of its own."""
    if state.outcome is None:
        msg = "tenacity has stopped before the first attempt"
        raise RuntimeError(msg)
    attempt: _AttemptResult = state.outcome.result()
    return attempt


def _read_reply(exchange: Exchange) -> Reply:
    answer = exchange.response
    if answer is None:
        return Reply(sent=exchange.sent)
    envelope = read_envelope(answer.body)
    return Reply(
        sent=True,
        status=answer.status,
        envelope=envelope,
        task_id=None if envelope is None else task_id_of(envelope),
        head=answer.body[:256].decode("utf-8", "replace"),
    )
