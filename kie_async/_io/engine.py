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
from kie_async._core.outcomes import closed_error
from kie_async._core.polling import ByLag
from kie_async._core.signature import callback_secret
from kie_async._core.verdicts import Reply, Verdict, error_of_answer
from kie_async._core.wire import read_credit, read_envelope
from kie_async._io.agenda import Agenda
from kie_async._io.callbacks.confirmations import Confirmations
from kie_async._io.callbacks.receiver import Receiver
from kie_async._io.clock import Surroundings
from kie_async._io.creating.admission import SENT_WITHIN, Admission
from kie_async._io.creating.intake import Intake
from kie_async._io.creating.owner import Tools
from kie_async._io.creating.settler import Settler
from kie_async._io.creating.submitter import Submitter
from kie_async._io.files.uploads import Uploads
from kie_async._io.jobs.doubts import Doubts
from kie_async._io.jobs.live import BEFORE_AN_ANSWER, Stop
from kie_async._io.jobs.moves import Moves
from kie_async._io.jobs.outcomes import Outcomes
from kie_async._io.jobs.recovery import Recovery
from kie_async._io.jobs.registry import Registry
from kie_async._io.jobs.waiting import Waiting
from kie_async._io.mapping.prices import Prices
from kie_async._io.parts import Parts
from kie_async._io.root import Root
from kie_async._io.watching.net import Net
from kie_async._io.watching.poller import Poller
from kie_async._io.watching.tracker import Tracker
from kie_async.events import Event
from kie_async.statistics import Statistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping

    from kie_async._core.lifecycle import IntentState
    from kie_async._core.plan import Plan
    from kie_async._io.jobs.live import LiveJob
    from kie_async._io.journals.journal import Journal
    from kie_async._io.mapping.loop import Mapper
    from kie_async._io.mapping.reading import Given
    from kie_async._io.parts import Settings
    from kie_async.events import EventName
    from kie_async.records import JSON

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
        self._agenda = agenda = Agenda(loop)
        self.root = Root(loop, enter=self._enter, ending=self._ending, leave=self._leave)
        self._closing = False
        #: How many jobs of dead processes the journal has, by their states, until they are recovered or reminded of.
        self.orphans: Mapping[IntentState, int] = {}
        self._opened = AsyncExitStack()
        surroundings = Surroundings(loop)
        registry = Registry()
        transport = settings.transport()
        secret = callback_secret(settings.api_key)
        self._moves = moves = Moves(
            journal=journal, surroundings=surroundings, agenda=agenda, root=self.root, report=self._report
        )
        admission = Admission(
            settings.limits,
            patience={
                Verdict.MAINTENANCE: settings.retry.maintenance_patience,
                Verdict.RATE_LIMITED: settings.retry.max_age,
            },
            loop=loop,
            surroundings=surroundings,
            agenda=agenda,
        )
        admission.carry(settings.spent_until)
        poller = Poller(
            transport=transport,
            polls_per_second=settings.limits.polls_per_second,
            policy=settings.polling or ByLag(draw=surroundings.random.randrange, old_after=settings.retry.max_age),
            durations=settings.durations,
            loop=loop,
            agenda=agenda,
            root=self.root,
        )
        tracker = Tracker(
            moves=moves,
            slots=admission.slots,
            registry=registry,
            poller=poller,
            root=self.root,
            surroundings=surroundings,
            agenda=agenda,
            retry=settings.retry,
            report=self._report,
        )
        poller.on_look, poller.on_round_trip = tracker.on_look, admission.round_trip
        net = Net(poller=poller, registry=registry, surroundings=surroundings, agenda=agenda)
        poller.weigh, tracker.on_end = net.weigh, net.ended
        settler = Settler(moves=moves, surroundings=surroundings, report=self._report)
        submitter = Submitter(
            tools=Tools(
                transport=transport,
                admission=admission,
                moves=moves,
                settler=settler,
                surroundings=surroundings,
                retry=settings.retry,
                secret=secret,
                report=self._report,
                halt=lambda jobs, error: submitter.halt(jobs, error),  # noqa: PLW0108 (it is made of these tools)
            ),
            registry=registry,
            tracker=tracker,
            root=self.root,
            owns=journal.owns,
        )
        self._parts = parts = Parts(
            settings=settings,
            journal=journal,
            moves=moves,
            surroundings=surroundings,
            registry=registry,
            root=self.root,
            agenda=agenda,
            transport=transport,
            admission=admission,
            uploads=Uploads(transport, surroundings),
            poller=poller,
            net=net,
            tracker=tracker,
            settler=settler,
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
        self.doubts = Doubts(parts, self.waiting, self._recovery)
        self.prices = Prices(journal)

    @property
    def over(self) -> bool:
        """Whether it can do nothing any more."""
        return self._closing or self.root.task.done() or self.loop.is_closed()

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
                self._parts.submitter.stop(job, Stop.WITHDRAWN, errors.TransportError(msg, intent_id=job.id))
            raise

    def mapper(self, rows: Iterable[Given] | AsyncIterable[Given], plan: Plan) -> Mapper:
        """What does a table; see ``KieClient.map``."""
        from kie_async._io.mapping.loop import Mapper

        return Mapper(self._parts, intake=self.intake, waiting=self.waiting, prices=self.prices, rows=rows, plan=plan)

    def remind(self) -> None:
        """Say once what is there to be recovered: whoever calls ``recover()`` before all else knows."""
        shown = ", ".join(f"{count} {state}" for state, count in sorted(self.orphans.items()))
        self.orphans = {}
        _log.warning("The journal has unfinished jobs that nobody works on (%s); recover() goes on with them.", shown)

    async def spent(self, rows: Iterable[Given] | AsyncIterable[Given], price: float | None) -> float:
        """What the rows of a table have cost, or may have; see ``KieClient.spent``."""
        from kie_async._io.mapping.beforehand import Beforehand
        from kie_async._io.mapping.reading import Reader

        reader = Reader(rows)
        try:
            return await Beforehand(self._parts, intake=self.intake, prices=self.prices, price=price).cost(reader)
        finally:
            await reader.close()

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
        raise error_of_answer(reply, what="the question for the balance")

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
            tokens_lent=parts.admission.bucket.lent,
            watched=parts.poller.watched,
            confirming=self._confirmations.pending,
            waiters=sum(job.waiters for job in parts.registry),
            children=self.root.children,
            looks=parts.poller.looks,
            callbacks=self.receiver.callbacks,
            confirmations=self._confirmations.looks,
            late_records=parts.tracker.late_records,
        )

    async def close(self, drain: float) -> None:
        """
        Stop taking jobs, let creates on the wire end within *drain* seconds, and end everything.
        """
        self._closing = True
        submitter = self._parts.submitter
        submitter.closing = True
        for job in self._parts.registry:
            submitter.stop(job, Stop.CLOSED, closed_error(intent_id=job.id))
        with anyio.move_on_after(drain):
            await submitter.drained()
        await self.root.end()

    async def _enter(self) -> None:
        async with AsyncExitStack() as stack:
            await self._parts.journal.open()
            stack.push_async_callback(self._parts.journal.close)
            stack.push_async_callback(self._parts.transport.close)
            await self._parts.transport.open()
            self._opened = stack.pop_all()
        if not self._settings.spent_until:  # what this very client has spent is known better than from the journal
            admission, wall = self._parts.admission, self._parts.surroundings.wall()
            admission.count(
                await self._parts.journal.sent_by_the_dead(since=wall - admission.bucket.window - SENT_WITHIN)
            )
        self.orphans = await self._parts.journal.orphans()

    def _ending(self) -> None:
        """Start nothing more, whoever has ended the root task: the client, or the loop."""
        self._closing = self._parts.submitter.closing = True
        self._agenda.close()
        self._settings.spent_until[:] = self._parts.admission.spent_until()

    async def _leave(self) -> None:
        """End what is left."""
        self._ending()
        self._parts.poller.close()
        await self._moves.catch_up()
        for job in self._parts.registry:
            job.trouble = closed_error(intent_id=job.own_id, task_id=job.task_id)
            job.publish()
            if job.row is not None and not self._parts.journal.durable:
                _log.warning(
                    "The client ends, and %s has not: state %s, task %s. attach() goes on with a task.",
                    job.id,
                    job.state,
                    job.task_id,
                )
        await self._opened.aclose()

    def _report(self, name: EventName, job: LiveJob, **detail: JSON) -> None:
        if self._settings.on_event is None:
            return
        self._settings.on_event(Event(name=name, job_id=job.own_id, task_id=job.task_id, detail=detail))
