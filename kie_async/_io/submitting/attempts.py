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
from kie_async._io.jobs.transitions import row_of
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

__all__ = ["Owner", "SubmissionContext"]

_log = logging.getLogger("kie_async")

_GATED = frozenset({Verdict.RATE_LIMITED, Verdict.MAINTENANCE})
_AGAIN = _GATED | {Verdict.UNSENT}
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


class _LostError(Exception):
    """Raised in the write-ahead hook to send nothing: somebody else has moved the row."""


@attrs.frozen
class _Attempt:
    """How one attempt ended, for tenacity."""

    verdict: Verdict
    again: bool


class Owner:
    """
    One intent on its way to a taskId.

    Args:
        tools: What it works with.

        job: The job.

        submission: What it takes along.

        given: The ``input`` to send.

        halt: Tells the owners of some jobs, or of all, that the account cannot pay.
    """

    def __init__(
        self,
        tools: SubmissionContext,
        job: LiveJob,
        submission: Submission,
        given: Mapping[str, JSON],
        *,
        halt: Callable[[Collection[LiveJob] | None, errors.KieError], None],
    ) -> None:
        self._tools = tools
        self._job = job
        self._errand = submission
        self._given = given
        self._halt = halt
        self._wrote_sending = False
        self._lost = False
        self._reason = ""
        self._failures = 0
        self._unsent_since: float | None = None
        self._last = Verdict.UNSENT

    async def run(self) -> bool:
        """
        Try until there is a verdict that stands, or the patience with the network is at its end.

        Returns:
            False if somebody else has moved the row meanwhile, and so works on it; nothing was sent then.
        """
        attempt = await self._attempt()
        if attempt.again and not self._out_of_patience():
            # Not before it is needed: tenacity's bookkeeping costs a tenth of all that a job costs.
            await self._sleep(self._backoff())
            attempt = await self._attempts()
        if attempt.again:
            patience = self._tools.retry.unsent_timeout
            await self._withdraw(
                errors.TransportError(
                    f"The task could not be sent for {patience:g} s ({self._reason}). Nothing was paid: check the"
                    " network and submit again.",
                    job_id=self._job.id,
                )
            )
        return not self._lost

    # -- how tenacity goes on: all synchronous, all by the loop's clock ---------------------------------------------

    async def _attempts(self) -> _Attempt:
        retrying: AsyncRetrying = AsyncRetrying(
            reraise=True,
            retry=retry_if_result(lambda attempt: attempt.again),
            stop=self._out_of_patience,
            wait=self._backoff,
            sleep=self._sleep,
            retry_error_callback=_last_attempt,
        )
        attempt: _Attempt = await retrying(self._attempt)
        return attempt

    def _out_of_patience(self, _: RetryCallState | None = None) -> bool:
        if self._unsent_since is None:
            return False
        return self._tools.runtime.now() - self._unsent_since >= self._tools.retry.unsent_timeout

    def _backoff(self, _: RetryCallState | None = None) -> float:
        # Counted by kind: ten refusals by the rate limit do not make the first broken connection wait for minutes.
        if not self._failures:
            return 0.0
        return pause_after(FullJitter(_UNSENT_WAIT, self._tools.runtime.random), self._failures)

    async def _sleep(self, seconds: float) -> None:
        # After a 429 or a 455 the queue that all jobs share does the waiting, and keeps their order.
        if self._last not in _GATED and seconds > 0:
            await anyio.sleep(seconds)

    # -- one attempt ------------------------------------------------------------------------------------------------

    async def _attempt(self) -> _Attempt:
        submission, tools = self._errand, self._tools
        permit = await tools.admission.permit(submission.place, since=submission.began_at, patient=submission.patient)
        if not isinstance(permit, Permit):
            await self._withdraw(self._outlasted(permit))
            return _Attempt(permit, again=False)
        submission.on_wire = False
        try:
            exchange = await tools.transport.create(
                self._body(), before_first_byte=lambda: self._before_first_byte(permit)
            )
        except BaseException:
            # Cancelled. Before the first byte the row goes back; after it the row stays as it is, and tells.
            permit.end(Verdict.IN_DOUBT if submission.on_wire else Verdict.UNSENT)
            if not submission.on_wire:
                with anyio.CancelScope(shield=True):
                    await self._back()
            raise
        attempt = _Attempt(Verdict.IN_DOUBT, again=False)
        # From here on the truth is known to nobody but this task: nothing may come between it and the journal.
        with anyio.CancelScope(shield=True):
            attempt = await self._judge(permit, exchange)
        # A caller who left while the create was on the wire is heard now, if nothing was accepted.
        return attempt if submission.stop is None and not self._lost else attrs.evolve(attempt, again=False)

    def _outlasted(self, reason: Verdict) -> errors.KieError:
        retry, job_id = self._tools.retry, self._job.id
        if reason is Verdict.RATE_LIMITED:
            said = f"The rate limit has refused every create for more than {retry.max_age:g} s."
            return errors.RateLimitError(
                f"{said} Nothing was paid: find out who else uses the account, then submit again.",
                code=429,
                job_id=job_id,
            )
        said = f"The service has been under maintenance for more than {retry.maintenance_timeout:g} s."
        return errors.MaintenanceError(f"{said} Nothing was paid: try again later.", code=455, job_id=job_id)

    def _body(self) -> bytes:
        row = row_of(self._job)
        url = None
        if row.callback_url is not None:
            url = make_callback_url(row.callback_url, self._tools.secret, row.id, row.attempts + 1)
        return write_create(row.model, self._given, url)

    async def _before_first_byte(self, permit: Permit) -> None:
        """The write-ahead: SENDING is in the journal before a byte is on the wire."""
        job, tools = self._job, self._tools
        if job.state is not JobState.INTENT:
            raise _LostError  # a callback has proved that a suspect attempt was accepted
        sending = False
        with anyio.CancelScope(shield=True):
            sending = await tools.transitions.strictly(
                job,
                JobState.SENDING,
                attempts=row_of(job).attempts + 1,
                sending_at=tools.runtime.wall(),
            )
        if not sending:
            raise _LostError
        self._wrote_sending = True
        if self._errand.stop is not None or not permit.still_good():
            raise _NotSentError
        self._errand.on_wire = True
        permit.record_write()
        job.publish()

    async def _back(self, **changes: Unpack[Changes]) -> None:
        # Only what this owner has written: a SENDING of somebody else's is not to be touched.
        if self._wrote_sending:
            self._wrote_sending = False
            # Somebody else may have moved it: a callback has proved that a suspect attempt was accepted, say.
            self._lost = self._job.state is not JobState.SENDING or not await self._tools.transitions.to(
                self._job, JobState.INTENT, **changes
            )

    async def _judge(self, permit: Permit, exchange: Exchange) -> _Attempt:
        job = self._job
        reply = _reply_of(exchange)
        verdict = self._last = decide(reply)
        closed = permit.end(verdict, retry_after=None if exchange.answer is None else exchange.answer.retry_after)
        on_wire, self._errand.on_wire = self._errand.on_wire, False
        if verdict is not Verdict.UNSENT:
            self._unsent_since = None
        if on_wire and job.state is not JobState.SENDING and verdict is not Verdict.ACCEPTED:
            # A callback was faster, and has bound the task. The answer could only confirm it, or name one more.
            return _Attempt(verdict, again=False)
        return await self._settle(verdict, reply, exchange.error, closed=closed)

    async def _settle(self, verdict: Verdict, reply: Reply, error: Exception | None, *, closed: bool) -> _Attempt:
        job, tools = self._job, self._tools
        match verdict:
            case Verdict.UNSENT:
                return await self._unsent(error)
            case Verdict.AMBIGUOUS:
                return await self._suspect(reply)
            case Verdict.ACCEPTED:
                await tools.results.accepted(job, reply.task_id or "")
            case Verdict.RATE_LIMITED:
                tools.report(EventName.RATE_LIMITED, job)
                await self._back()
            case Verdict.MAINTENANCE:
                tools.report(EventName.MAINTENANCE, job)
                await self._back()
            case Verdict.ACCOUNT:
                tools.report(EventName.ACCOUNT_PAUSED, job, code=reply.code or reply.status)
                self._halt((job,) if not closed else None, create_error(reply, job_id=job.id))
                await self._back()
            case Verdict.REJECTED:
                await tools.results.rejected(job, create_error(reply, job_id=job.id))
            case Verdict.IN_DOUBT:
                said = f"HTTP {reply.status}, code {reply.code}"
                await tools.results.doubted(job, said if error is None else describe(error))
        return _Attempt(verdict, again=verdict in _AGAIN)

    async def _unsent(self, error: Exception | None) -> _Attempt:
        await self._back()
        if isinstance(error, errors.JournalError):
            if self._job.key is not None:
                raise error  # it stays: the same key, or recover(), goes on with it
            await self._withdraw(error)
            return _Attempt(Verdict.UNSENT, again=False)
        if isinstance(error, _NotSentError):
            self._failures = 0  # nothing has failed: the job queues again
            return _Attempt(Verdict.UNSENT, again=True)
        if isinstance(error, _LostError):
            self._lost = True
            return _Attempt(Verdict.UNSENT, again=False)
        self._reason = "no connection" if error is None else describe(error)
        if isinstance(error, ClientConnectorCertificateError):
            await self._withdraw(
                errors.TransportError(
                    "The service's certificate is not trusted. Nothing was sent: check the base URL and the CA bundle.",
                    job_id=self._job.id,
                )
            )
            return _Attempt(Verdict.UNSENT, again=False)
        self._failures += 1
        if self._unsent_since is None:
            self._unsent_since = self._tools.runtime.now()
        return _Attempt(Verdict.UNSENT, again=True)

    async def _suspect(self, reply: Reply) -> _Attempt:
        job, tools = self._job, self._tools
        row = row_of(job)
        suspects = row.ambiguous_attempts + 1
        tools.report(EventName.AMBIGUOUS, job, attempt=row.attempts, message=reply.message)
        if tools.retry.on_server_error == "in_doubt":
            await tools.results.doubted(job, f"code {reply.code}: {reply.message}", ambiguous_attempts=suspects)
            return _Attempt(Verdict.AMBIGUOUS, again=False)
        if suspects >= tools.retry.server_error_attempts or not self._affordable():
            await tools.results.rejected(job, create_error(reply, job_id=job.id), ambiguous_attempts=suspects)
            return _Attempt(Verdict.AMBIGUOUS, again=False)
        _log.warning(
            "Attempt %d of %s was answered by code %s (%s) and may have been paid; it is sent again.",
            row.attempts,
            job.id,
            reply.code,
            reply.message[:200],
        )
        self._failures = suspects
        await self._back(ambiguous_attempts=suspects)
        return _Attempt(Verdict.AMBIGUOUS, again=True)

    def _affordable(self) -> bool:
        """Whether whoever counts the money has enough to pay once more for what may have been paid already."""
        return self._errand.afford is None or self._errand.afford()

    async def _withdraw(self, error: errors.KieError) -> None:
        if self._lost:
            return
        with anyio.CancelScope(shield=True):
            await self._tools.results.withdrawn(self._job, error)


def _last_attempt(state: RetryCallState) -> _Attempt:
    """What tenacity returns when it stops: how the last attempt ended, and not an error of its own."""
    if state.outcome is None:
        msg = "tenacity has stopped before the first attempt"
        raise RuntimeError(msg)
    attempt: _Attempt = state.outcome.result()
    return attempt


def _reply_of(exchange: Exchange) -> Reply:
    answer = exchange.answer
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
