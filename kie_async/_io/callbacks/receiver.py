"""
The receiver: verifies a callback, journals what it names, and has it confirmed; the answer follows at once.

A callback is a hint: its claim about the end of a task is not read, and its body is not decoded. Cheap checks come
first, so that no post keeps the loop busy. See docs/explanation/callbacks.md.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from kie_async._core.callback_validation import (
    MAX_BODY,
    MAX_CALLBACK_TASK_IDS,
    CallbackStep,
    named_tasks,
    next_step,
    read_signature,
)
from kie_async._core.lifecycle import ENDED
from kie_async._io.jobs.live_job import LiveJob
from kie_async.errors import CallbackRejectedError, JournalError
from kie_async.events import EventName
from kie_async.states import JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kie_async._core.callback_token import CallbackToken
    from kie_async._core.lifecycle import Intent
    from kie_async._io.callbacks.confirmations import Confirmations
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import Transitions
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.watchlist import CallbackWeight
    from kie_async._io.runtime import Runtime

__all__ = ["Receiver"]

_log = logging.getLogger("kie_async")

_UNSIGNED = 401
_NOT_FOUND = 404
_TOO_LARGE = 413
_TOO_MANY_REQUESTS = 429
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
                self._log_bad_signature(error)
            raise
        self._bad_signature_logged = False
        job = self.registry.get(row.id)
        for task_id in task_ids:
            await self._confirm(row, job, task_id)
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
        except JournalError as error:
            raise _unjournaled() from error
        if row is None:
            msg = "the journal does not know its job"
            raise CallbackRejectedError(msg, status=_NOT_FOUND)
        if token.older and row.state in ENDED and row.state is not JobState.REJECTED:
            msg = "its token was made under another API key, and its job has ended"
            raise CallbackRejectedError(msg, status=_NOT_FOUND)
        return row

    async def _confirm(self, row: Intent, job: LiveJob | None, task_id: str) -> None:
        """Have a task confirmed that a callback is about; journal its id first if it is not known to be the job's."""
        step = next_step(row, task_id)
        if step is CallbackStep.PROVE:
            if not self.confirmations.has_room(row.id, task_id):
                msg = "too many callbacks for its job wait"
                raise CallbackRejectedError(msg, status=_TOO_MANY_REQUESTS)
            try:
                await self._journal_task_id(job or LiveJob.from_row(row), task_id)
            except JournalError as error:
                raise _unjournaled() from error
        own = step is CallbackStep.CONFIRM
        if step is not CallbackStep.NOTHING and not self.confirmations.enqueue(row.id, task_id, own=own):
            msg = "too many callbacks wait"
            raise CallbackRejectedError(msg, status=_UNAVAILABLE)

    def _log_bad_signature(self, error: CallbackRejectedError) -> None:
        """Log the first of consecutive refusals: the token is genuine, so the key or a clock is probably wrong."""
        if not self._bad_signature_logged:
            self._bad_signature_logged = True
            _log.warning(
                "Refused a callback with a valid token: %s. Results are polled instead. Compare webhook_key with"
                " the webhookHmacKey at kie.ai/settings (pass none if there is none), and check the clock.",
                error.message,
            )

    async def _journal_task_id(self, job: LiveJob, task_id: str) -> None:
        """Journal the id of a task that must be proved, in case the process ends first."""
        row = await self.journal.get(job.id)
        if row is None or next_step(row, task_id) is not CallbackStep.PROVE or task_id in row.callback_task_ids:
            return
        if len(row.callback_task_ids) < MAX_CALLBACK_TASK_IDS:
            await self.transitions.record_fields(job, callback_task_ids=(*row.callback_task_ids, task_id))


def _unjournaled() -> CallbackRejectedError:
    msg = "it could not be journaled"
    return CallbackRejectedError(msg, status=_UNAVAILABLE)
