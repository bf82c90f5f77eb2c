"""
Callbacks in: whose each one is, whether it may be believed, and noted before it is answered.

A callback is a hint, and what it says about the end of a task is not read. So all that is decided here is whether it is
worth a look; the look decides the rest.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kie_async._core.callback_validation import (
    MAX_CALLBACK_TASK_IDS,
    CallbackStep,
    check_signature,
    next_step,
    read_task_id,
)
from kie_async._io.jobs.live_job import LiveJob
from kie_async.errors import CallbackRejectedError, JournalError
from kie_async.events import EventName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kie_async._core.callback_token import CallbackToken
    from kie_async._io.callbacks.confirmations import Confirmations
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.jobs.transitions import Transitions
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.callback_weight import CallbackWeight
    from kie_async._io.runtime import Runtime

__all__ = ["Receiver"]

_log = logging.getLogger("kie_async")

_UNKNOWN = 404
_UNSIGNED = 401
_TOO_MANY = 429
_TRY_AGAIN = 503


class Receiver:
    """
    Takes callbacks whose token is genuine.

    Args:
        journal: Holds the intents.

        registry: The jobs of this process.

        runtime: Clock and randomness.

        transitions: Changes rows.

        callback_weight: Counts the callbacks.

        confirmations: Looks into them.

        webhook_keys: Keys of signatures; empty if callbacks are not signed.

        report: Takes events.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        registry: Registry,
        runtime: Runtime,
        transitions: Transitions,
        callback_weight: CallbackWeight,
        confirmations: Confirmations,
        webhook_keys: tuple[str, ...],
        report: Callable[..., None],
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._runtime = runtime
        self._transitions = transitions
        self._callback_weight = callback_weight
        self._webhook_keys = webhook_keys
        self._confirmations = confirmations
        self._report = report
        self._told = False
        #: Callbacks so far.
        self.callbacks = 0

    async def take(self, token: CallbackToken, headers: Mapping[str, str], body: bytes) -> None:
        """
        Note a callback; it is looked into soon.

        Args:
            token: What its URL says.

            headers: Its headers, with names in lower case.

            body: Its body.

        Raises:
            CallbackRejectedError: If it is not taken; its ``status`` is the answer.
        """
        job_id = token.job_id
        task_id = read_task_id(body)
        if self._webhook_keys:
            self._check_signature(task_id, headers)
        job = self._registry.get(job_id)
        try:
            row = job.row if job is not None and job.row is not None else await self._journal.get(job_id)
            if row is None:
                msg = "the journal does not know its job"
                raise CallbackRejectedError(msg, status=_UNKNOWN)
            step = next_step(row, task_id)
            if step is CallbackStep.PROVE:
                if not self._confirmations.has_room(job_id, task_id):
                    msg = "too many callbacks for its job wait"
                    raise CallbackRejectedError(msg, status=_TOO_MANY)
                await self._write_down(job or LiveJob.from_row(row), task_id)
        except JournalError as error:
            msg = "it could not be noted"
            raise CallbackRejectedError(msg, status=_TRY_AGAIN) from error
        if step is not CallbackStep.NOTHING and not self._confirmations.ask(
            job_id, task_id, own=step is CallbackStep.CONFIRM
        ):
            msg = "too many callbacks wait"
            raise CallbackRejectedError(msg, status=_TRY_AGAIN)
        self.callbacks += 1
        if step is not CallbackStep.PROVE:
            self._callback_weight.came(job_id, job)
        self._report(
            EventName.CALLBACK,
            job or LiveJob.from_row(row),
            named_task_id=task_id,
            attempt=token.attempt,
            state=row.state,
        )

    def _check_signature(self, task_id: str, headers: Mapping[str, str]) -> None:
        try:
            check_signature(self._webhook_keys, task_id, headers, wall=self._runtime.wall())
        except CallbackRejectedError as error:
            # Most likely a wrong key or clock, since the token was good; but not a line for each of a thousand.
            if not self._told:
                self._told = True
                _log.warning("A callback with a token of ours was refused: %s. Results are polled for.", error.message)
            raise
        self._told = False

    async def _write_down(self, job: LiveJob, task_id: str) -> None:
        """Keep the id of a task that nothing else would lead to, in case the process ends before it is proved."""
        row = await self._journal.get(job.id)
        if row is None or next_step(row, task_id) is not CallbackStep.PROVE or task_id in row.callback_task_ids:
            return
        if len(row.callback_task_ids) < MAX_CALLBACK_TASK_IDS:
            await self._transitions.record_fields(job, callback_task_ids=(*row.callback_task_ids, task_id))
