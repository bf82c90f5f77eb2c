"""
The receiver: verifies a callback, journals what it names, and has it confirmed; the answer follows at once.

A callback is a hint: its claim about the end of a task is not read, and its body is not decoded. Cheap checks come
first, so that no post keeps the loop busy. See docs/explanation/callbacks.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kie_async._core.callback_validation import (
    MAX_BODY,
    CallbackStep,
    named_tasks,
    next_step,
    read_signature,
    shows_request,
)
from kie_async._core.lifecycle import ENDED, Intent
from kie_async._io.jobs.live_job import LiveJob
from kie_async.errors import CallbackRejectedError, JournalError
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kie_async._core.callback_token import CallbackToken
    from kie_async._io.callbacks.confirmations import Confirmations
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import Transitions
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.watchlist import CallbackWeight
    from kie_async._io.runtime import Runtime

__all__ = ["Receiver"]

_UNSIGNED = 401
_NOT_FOUND = 404
_TOO_LARGE = 413
_UNAVAILABLE = 503


@attrs.define(eq=False, repr=False, kw_only=True, slots=False)
class Receiver:
    """
    Accepts callbacks that have a genuine token.

    Args:
        journal: Holds the intents.

        registry: The jobs of this process.

        runtime: The wall clock.

        transitions: Changes rows.

        callback_weight: Counts the callbacks.

        confirmations: Confirms the callbacks.

        webhook_keys: Returns the keys of the service's signatures; empty if callbacks are not signed.

        report: Takes events.
    """

    journal: Journal
    registry: Registry
    runtime: Runtime
    transitions: Transitions
    callback_weight: CallbackWeight
    confirmations: Confirmations
    webhook_keys: Callable[[], tuple[str, ...]]
    report: Callable[..., None]
    _bad_signature_logged: bool = attrs.field(default=False, init=False)
    #: The number of accepted callbacks.
    callbacks: int = attrs.field(default=0, init=False)

    async def accept(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> None:
        """
        Accept a callback, and have it confirmed soon.

        Args:
            token: The token of its URL.

            headers: Its headers, with names in lower case.

            body: Its body.

        Raises:
            CallbackRejectedError: If it is refused; its ``status`` is the answer.
        """
        if len(body) > MAX_BODY:
            msg = f"the body is larger than {MAX_BODY} bytes"
            raise CallbackRejectedError(msg, status=_TOO_LARGE)
        try:
            signature = None
            if self.webhook_keys():
                signature = read_signature(self.webhook_keys, headers, wall=self.runtime.wall())
            row = await self._find_row(token)
            task_ids = named_tasks(row, body, signature)
        except CallbackRejectedError as error:
            if error.status == _UNSIGNED:
                self._log_bad_signature(token.job_id, error)
            raise
        self._bad_signature_logged = False
        if token.attempt > row.attempts:
            self._log_lost_attempt(token, row, task_ids)
        job = self.registry.get(row.id)
        for task_id in task_ids:
            await self._confirm(row, task_id, body, signed=signature is not None)
        if job is not None:
            await self._write_pending(job)
        self.callbacks += 1
        if next_step(row, task_ids[0]) is not CallbackStep.PROVE:
            self.callback_weight.record_callback(row.id, job)
        self.report(
            EventName.CALLBACK,
            job or LiveJob.from_row(row),
            named_task_id=task_ids[0],
            attempt=token.attempt,
            state=row.state,
        )

    async def _find_row(self, token: CallbackToken) -> Intent:
        """Return the row of a token's job, if callbacks of that job are accepted."""
        try:
            row = await self.confirmations.find_row(token.job_id)
            if row is None and await self._may_be_lost(token):
                return _lost_row(token, self.runtime.wall())
        except JournalError as error:
            raise _unjournaled() from error
        if row is None:
            msg = "the journal does not know its job"
            raise CallbackRejectedError(msg, status=_NOT_FOUND)
        if token.older and row.state in ENDED and row.state is not JobState.REJECTED:
            msg = "its token was made under another API key, and its job has ended"
            raise CallbackRejectedError(msg, status=_NOT_FOUND)
        return row

    async def _may_be_lost(self, token: CallbackToken) -> bool:
        """Return True if the journal may have lost the row of a job: it has rows, and none of this id."""
        if token.older or not self.journal.durable or await self.journal.get(token.job_id) is not None:
            return False
        return bool(await self.journal.rows(limit=1))

    def _log_lost_attempt(self, token: CallbackToken, row: Intent, task_ids: Sequence[str]) -> None:
        self.confirmations.log_critical(
            row.id,
            "A callback is for attempt %d of %s (task %s), and the journal knows %d: it has gone back in time (a"
            " failover, or an older copy?). The task is bound as soon as the service confirms it.",
            *(token.attempt, row.id, ", ".join(task_ids), row.attempts),
        )

    async def _confirm(self, row: Intent, task_id: str, body: bytes, *, signed: bool) -> None:
        """Have a task confirmed that a callback is about; journal its id first if it is not known to be the job's."""
        step = next_step(row, task_id)
        if step is CallbackStep.NOTHING:
            return
        own = step is CallbackStep.CONFIRM
        # The first callback of a job with a known task is polled at once, whatever its body is.
        likely = signed or ((not own or self.confirmations.has_named(row.id)) and shows_request(body, row))
        if not self.confirmations.name(row.id, task_id, own=own, likely=likely):
            msg = "too many callbacks wait"
            raise CallbackRejectedError(msg, status=_UNAVAILABLE)
        try:
            if not own:
                await self.confirmations.journal_ids(row.id)
        except JournalError as error:
            raise _unjournaled() from error
        finally:
            self.confirmations.schedule(row.id)

    async def _write_pending(self, job: LiveJob) -> None:
        """Write what only this process knows of a job, which may end before the task's end is confirmed."""
        try:
            await self.confirmations.transitions.write_pending(job)
        except JournalError as error:
            raise _unjournaled() from error

    def _log_bad_signature(self, job_id: str, error: CallbackRejectedError) -> None:
        """Log the first of consecutive refusals: the token is genuine, so the key or a clock is probably wrong."""
        if not self._bad_signature_logged:
            self._bad_signature_logged = True
            self.confirmations.log(
                job_id,
                None,  # whatever its state: the reason is not the job's
                "Refused a callback for %s with a valid token: %s. Results are polled instead. Compare webhook_key with"
                " the webhookHmacKey at kie.ai/settings (pass none if there is none), and check the clock.",
                *(job_id, error.message),
            )


def _lost_row(token: CallbackToken, now: float) -> Intent:
    """Return what is known of a job that the journal has lost, or that is another journal's."""
    return Intent(
        id=token.job_id,
        model="",
        input="",
        fingerprint="",
        created_at=now,
        updated_at=now,
        state=JobState.SENDING,
        attempts=token.attempt,
    )


def _unjournaled() -> CallbackRejectedError:
    msg = "it could not be journaled"
    return CallbackRejectedError(msg, status=_UNAVAILABLE)
