"""
One client at work in one event loop: builds the parts, hands them each other, and ends them.

A client is bound to a loop when it is first used in it. When that loop is over the engine is, too; the journal is not.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import anyio

from kie_async import errors
from kie_async._core.callback_token import callback_secret
from kie_async._core.job_errors import closed_error
from kie_async._core.polling import LagPolicy
from kie_async._core.verdicts import Reply, Verdict, answer_error
from kie_async._core.wire import read_credit, read_envelope
from kie_async._io.callbacks.confirmations import Confirmations
from kie_async._io.callbacks.receiver import Receiver
from kie_async._io.files.uploads import Uploads
from kie_async._io.jobs.live_job import BEFORE_AN_ANSWER, Stop
from kie_async._io.jobs.outcomes import Outcomes
from kie_async._io.jobs.recovery import Recovery
from kie_async._io.jobs.registry import Registry
from kie_async._io.jobs.resolution import Resolution
from kie_async._io.jobs.transitions import Transitions
from kie_async._io.jobs.waiting import Waiting
from kie_async._io.parts import Parts
from kie_async._io.polling.callback_weight import CallbackWeight
from kie_async._io.polling.poller import Poller
from kie_async._io.polling.tracker import Tracker
from kie_async._io.runtime import Runtime
from kie_async._io.submitting.admission import SENT_WITHIN, Admission
from kie_async._io.submitting.attempts import SubmissionContext
from kie_async._io.submitting.intake import Intake
from kie_async._io.submitting.results import ResultWriter
from kie_async._io.submitting.submitter import Submitter
from kie_async._io.supervisor import Supervisor
from kie_async._io.timers import Timers
from kie_async.events import Event
from kie_async.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping

    from kie_async._core.map_options import MapOptions
    from kie_async._io.jobs.live_job import LiveJob
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.budgeting import Prices
    from kie_async._io.mapping.map_run import MapRun
    from kie_async._io.mapping.row_source import RowInput
    from kie_async._io.parts import Settings
    from kie_async.events import EventName
    from kie_async.records import JSON
    from kie_async.states import JobState

__all__ = ["Engine"]

_T = TypeVar("_T")
_log = logging.getLogger("kie_async")

_SUCCESS = 200


class Engine:
    """
    All of a client in one event loop.

    Args:
        settings: What the client was made with.

        journal: Where intents are written down.

        loop: The running loop.
    """

    def __init__(self, settings: Settings, journal: Journal, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._settings = settings
        self._timers = timers = Timers(loop)
        self.supervisor = Supervisor(loop, enter=self._enter, ending=self._ending, leave=self._leave)
        self._closing = False
        #: How many jobs of dead processes the journal has, by their states, until they are recovered or reminded of.
        self.orphans: Mapping[JobState, int] = {}
        self._opened = AsyncExitStack()
        runtime = Runtime(loop)
        registry = Registry()
        transport = settings.transport()
        secret = callback_secret(settings.api_key)
        self._transitions = transitions = Transitions(
            journal=journal, runtime=runtime, timers=timers, supervisor=self.supervisor, report=self._report
        )
        admission = Admission(
            settings.limits,
            patience={
                Verdict.MAINTENANCE: settings.retry.maintenance_timeout,
                Verdict.RATE_LIMITED: settings.retry.max_age,
            },
            loop=loop,
            runtime=runtime,
            timers=timers,
        )
        admission.restore_tokens(settings.spent_until)
        poller = Poller(
            transport=transport,
            polls_per_second=settings.limits.polls_per_second,
            policy=settings.polling or LagPolicy(randrange=runtime.random.randrange, old_age=settings.retry.max_age),
            durations=settings.durations,
            loop=loop,
            timers=timers,
            supervisor=self.supervisor,
        )
        tracker = Tracker(
            transitions=transitions,
            slots=admission.slots,
            registry=registry,
            poller=poller,
            supervisor=self.supervisor,
            runtime=runtime,
            timers=timers,
            retry=settings.retry,
            report=self._report,
        )
        poller.on_poll, poller.on_round_trip = tracker.on_poll, admission.record_round_trip
        net = CallbackWeight(poller=poller, registry=registry, runtime=runtime, timers=timers)
        poller.weigh, tracker.on_end = net.weigh, net.ended
        result_writer = ResultWriter(transitions=transitions, runtime=runtime, report=self._report)
        submitter = Submitter(
            tools=SubmissionContext(
                transport=transport,
                admission=admission,
                transitions=transitions,
                result_writer=result_writer,
                runtime=runtime,
                retry=settings.retry,
                secret=secret,
                report=self._report,
                halt=lambda jobs, error: submitter.halt(jobs, error),  # noqa: PLW0108 (it is made of these tools)
            ),
            registry=registry,
            tracker=tracker,
            supervisor=self.supervisor,
            owns=journal.owns,
        )
        self._parts = parts = Parts(
            settings=settings,
            journal=journal,
            transitions=transitions,
            runtime=runtime,
            registry=registry,
            supervisor=self.supervisor,
            timers=timers,
            transport=transport,
            admission=admission,
            uploads=Uploads(transport, runtime),
            poller=poller,
            net=net,
            tracker=tracker,
            result_writer=result_writer,
            submitter=submitter,
            secret=secret,
        )
        self._recovery = Recovery(parts)
        self.intake = Intake(parts)
        self._recovery.send_again = self.intake.send_again
        tracker.follow = self._recovery.follow
        self._confirmations = Confirmations(parts, self._recovery, report=self._report)
        self._recovery.confirm = self._confirmations.ask
        self.receiver = Receiver(parts, self._confirmations, report=self._report)
        self.waiting = Waiting(parts, Outcomes(settings), self._recovery)
        self.doubts = Resolution(parts, self.waiting, self._recovery)
        self._prices: Prices | None = None

    @property
    def over(self) -> bool:
        """Whether it can do nothing any more."""
        return self._closing or self.supervisor.task.done() or self.loop.is_closed()

    @property
    def parts(self) -> Parts:
        """The parts."""
        return self._parts

    async def leave_cleanly(self, job: LiveJob, until: Awaitable[_T], *, withdraw: bool) -> _T:
        """
        Wait; and if the caller leaves while nothing was sent, withdraw the job that this very call has begun.

        Args:
            job: The job.

            until: What is waited for.

            withdraw: Whether it was this call that has begun the job; one with a key stays in any case.
        """
        try:
            return await until
        except asyncio.CancelledError:
            if withdraw and job.key is None and job.state in BEFORE_AN_ANSWER:
                msg = "The job was withdrawn before it was sent; nothing was paid."
                self._parts.submitter.stop(job, Stop.CANCELLED, errors.TransportError(msg, job_id=job.id))
            raise

    @property
    def prices(self) -> Prices:
        """The price estimates; ``map()`` and its modules are imported on first use."""
        if self._prices is None:
            from kie_async._io.mapping.budgeting import Prices

            self._prices = Prices(self._parts.journal)
        return self._prices

    def map_run(self, rows: Iterable[RowInput] | AsyncIterable[RowInput], options: MapOptions) -> MapRun:
        """Return the run of a table; see ``KieClient.map``."""
        from kie_async._io.mapping.map_run import MapRun

        return MapRun(
            rows,
            options,
            journal=self._parts.journal,
            registry=self._parts.registry,
            runtime=self._parts.runtime,
            submitter=self._parts.submitter,
            supervisor=self.supervisor,
            intake=self.intake,
            waiting=self.waiting,
            prices=self.prices,
        )

    def remind(self) -> None:
        """Say once what is there to be recovered: whoever calls ``recover()`` before all else knows."""
        shown = ", ".join(f"{count} {state}" for state, count in sorted(self.orphans.items()))
        self.orphans = {}
        _log.warning("The journal has unfinished jobs that nobody works on (%s); recover() goes on with them.", shown)

    async def spent(self, rows: Iterable[RowInput] | AsyncIterable[RowInput], price: float | None) -> float:
        """Return what the rows of a table have cost, or may have cost; see ``KieClient.spent``."""
        from kie_async._io.mapping.budgeting import PriorSpend
        from kie_async._io.mapping.row_source import RowSource

        source = RowSource(rows)
        spend = PriorSpend(
            journal=self._parts.journal,
            registry=self._parts.registry,
            intake=self.intake,
            prices=self.prices,
            price=price,
        )
        try:
            return await spend.total(source)
        finally:
            await source.close()

    async def recover(self) -> list[str]:
        """Go on with everything that is unfinished; see ``KieClient.recover``."""
        self.orphans = {}
        return await self._recovery.recover()

    async def credits(self) -> float:
        """The account's balance; see ``KieClient.credits``."""
        answer = await self._parts.transport.ask("GET", "/api/v1/chat/credit")
        envelope = read_envelope(answer.body)
        if envelope is not None and envelope.code == _SUCCESS and (balance := read_credit(envelope)) is not None:
            return balance
        head = answer.body[:256].decode("utf-8", "replace")
        reply = Reply(sent=True, status=answer.status, envelope=envelope, head=head)
        raise answer_error(reply, what="the question for the balance")

    def statistics(self) -> Statistics:
        """A snapshot; see ``KieClient.statistics``."""
        parts = self._parts
        return Statistics(
            jobs=len(parts.registry),
            submitting=parts.submitter.owners,
            waiting_for_slot=parts.admission.slots.waiting,
            waiting_for_token=parts.admission.waiting,
            sending=parts.submitter.sending,
            in_flight=parts.admission.slots.taken,
            tokens_in_use=parts.admission.bucket.leased,
            watched=parts.poller.watched,
            confirming=self._confirmations.pending,
            waiters=sum(job.waiters for job in parts.registry),
            loop_tasks=self.supervisor.children,
            polls=parts.poller.polls,
            callbacks=self.receiver.callbacks,
            confirmations=self._confirmations.polls,
            duplicate_records=parts.tracker.duplicate_records,
        )

    async def close(self, drain: float) -> None:
        """
        Stop taking jobs, let creates on the wire end within *drain* seconds, and end everything.
        """
        self._closing = True
        submitter = self._parts.submitter
        submitter.closing = True
        for job in self._parts.registry:
            submitter.stop(job, Stop.CLOSED, closed_error(job_id=job.id))
        with anyio.move_on_after(drain):
            await submitter.drained()
        await self.supervisor.end()

    async def _enter(self) -> None:
        async with AsyncExitStack() as stack:
            await self._parts.journal.open()
            stack.push_async_callback(self._parts.journal.close)
            stack.push_async_callback(self._parts.transport.close)
            await self._parts.transport.open()
            self._opened = stack.pop_all()
        if not self._settings.spent_until:  # what this very client has spent is known better than from the journal
            admission, wall = self._parts.admission, self._parts.runtime.wall()
            admission.restore_creates(
                await self._parts.journal.orphaned_send_times(since=wall - admission.bucket.window - SENT_WITHIN)
            )
        self.orphans = await self._parts.journal.count_orphans()

    def _ending(self) -> None:
        """Start nothing more, whoever has ended the root task: the client, or the loop."""
        self._closing = self._parts.submitter.closing = True
        self._timers.close()
        self._settings.spent_until[:] = self._parts.admission.token_return_times()

    async def _leave(self) -> None:
        """End what is left."""
        self._ending()
        self._parts.poller.close()
        await self._transitions.catch_up()
        for job in self._parts.registry:
            job.trouble = closed_error(job_id=job.own_id, task_id=job.task_id)
            job.publish()
            if job.row is not None and not self._parts.journal.durable:
                _log.warning(
                    "The client ends, and %s has not: state %s, task %s. job() goes on with a task.",
                    job.id,
                    job.state,
                    job.task_id,
                )
        await self._opened.aclose()

    def _report(self, name: EventName, job: LiveJob, **detail: JSON) -> None:
        if self._settings.on_event is None:
            return
        self._settings.on_event(Event(name=name, job_id=job.own_id, task_id=job.task_id, detail=detail))
