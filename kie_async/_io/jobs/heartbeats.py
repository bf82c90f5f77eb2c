"""The heartbeats of a client: what it reports to its journal, and what is due after each of them."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from kie_async import errors
from kie_async._core.fleet import polls_share, slots_share, stricter_worker
from kie_async._io.journals.journal import WorkerReport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kie_async._io.jobs.follower import JobFollower
    from kie_async._io.jobs.live_job import Registry
    from kie_async._io.journals.journal import Journal
    from kie_async._io.polling.poller import Poller
    from kie_async._io.runtime import Runtime, Supervisor
    from kie_async._io.submitting.admission import Admission
    from kie_async._io.timers import Timers
    from kie_async.policy import Limits
    from kie_async.statistics import WorkerInfo

__all__ = ["Heartbeats"]

_log = logging.getLogger("kie_async")

#: The number of intervals without a heartbeat after which a worker was away.
_AWAY_AFTER = 1.5


@attrs.define(eq=False, repr=False, kw_only=True)
class Heartbeats:
    """
    The heartbeats of a client with a journal that other workers may share.

    Args:
        journal: The journal.

        registry: The live jobs.

        supervisor: Runs the heartbeats.

        runtime: The clock.

        timers: Schedules them.

        limits: The account's limits, as they are configured here.

        admission: Has the jobs that want to be sent.

        poller: Polls tasks.

        follower: Adopts jobs.

        confirm: Called with the job and the task of each callback that is not confirmed yet.
    """

    journal: Journal
    registry: Registry
    supervisor: Supervisor
    runtime: Runtime
    timers: Timers
    limits: Limits
    admission: Admission
    poller: Poller
    follower: JobFollower
    confirm: Callable[[str, str], object]
    #: The workers that were alive at the latest heartbeat.
    workers: Sequence[WorkerInfo] = attrs.field(default=(), init=False)
    _recovers: bool = attrs.field(default=False, init=False)
    _adopts_key: bool = attrs.field(default=False, init=False)
    _warned_of: str | None = attrs.field(default=None, init=False)
    #: The name under which the jobs here are this worker's.
    _name: str = attrs.field(default="", init=False)
    #: The latest heartbeat by the journal's clock.
    _heartbeat_at: float = attrs.field(default=0.0, init=False)
    _last_at: float = attrs.field(default=0.0, init=False)
    _sending: bool = attrs.field(default=False, init=False)
    _failing: bool = attrs.field(default=False, init=False)

    @property
    def others(self) -> list[WorkerInfo]:
        """The other workers that were alive at the latest heartbeat."""
        return [worker for worker in self.workers if worker.name != self.journal.worker]

    async def read(self) -> Sequence[WorkerInfo]:
        """Send a heartbeat now, and return the workers that are alive, including this one."""
        self.workers = await self.journal.heartbeat(self._report())
        self._heartbeat_at = max(each.heartbeat_at for each in self.workers if each.name == self.journal.worker)
        return self.workers

    async def begin(self) -> None:
        """Send the first heartbeat, and schedule the next one; a journal in memory has no other workers."""
        if self.journal.durable:
            self._last_at, self._name = self.runtime.now(), self.journal.worker
            await self.read()
            self._share()
            self._schedule(self._last_at)

    def take_over_from_now(self, *, adopt_key: bool) -> None:
        """Take over at each heartbeat what workers have left that have ended; see ``KieClient.recover``."""
        self._recovers, self._adopts_key = True, self._adopts_key or adopt_key

    def _report(self) -> WorkerReport:
        slots = self.admission.slots
        states = Counter(str(job.state) for job in self.registry if job.state is not None and not job.remote)
        return WorkerReport(
            watched=self.poller.watchlist.watched,
            in_flight=slots.taken,
            wanting=slots.waiting + self.admission.waiting,
            jobs=states,
            slots=slots.limit,
            polls_per_second=self.poller.polls_per_second,
            recovers=self._recovers,
            limits=self.limits,
        )

    def _share(self) -> None:
        """Take this worker's part of the account's polls and slots."""
        name, workers = self.journal.worker, self.workers
        self.poller.watchlist.watched_elsewhere = sum(worker.watched for worker in self.others)
        self.poller.set_share(polls_share(workers, name, self.limits))
        self.admission.slots.set_limit(slots_share(workers, name, self.limits))
        stricter = stricter_worker(workers, self.limits)
        if stricter is not None and stricter.limits is not None and stricter.name != self._warned_of:
            self._warned_of = stricter.name
            _log.warning(
                "Worker %s limits the account to %g polls per second and %d tasks in flight, and this client to %g and"
                " %d: the strictest count for all. Limits are the account's: do not divide them among workers.",
                *(stricter.name, stricter.limits.polls_per_second, stricter.limits.in_flight),
                *(self.limits.polls_per_second, self.limits.in_flight),
            )

    async def _take_over(self) -> None:
        if self._recovers:
            await self.follower.take_over(found=lambda _: None, confirm=self.confirm, adopt_key=self._adopts_key)
        await self.follower.journal_watch.adopt_left(recovered=any(worker.recovers for worker in self.workers))

    def _schedule(self, begun_at: float) -> None:
        self.timers.at(begun_at + self.journal.heartbeat_interval, self._start)

    def _start(self) -> None:
        if self.supervisor.running and not self._sending:
            self.supervisor.start(self._send)
        else:  # it is not open yet, or the journal is slow; when it is closed, nothing is scheduled any more
            self._schedule(self.runtime.now())

    async def _send(self) -> None:
        journal, begun_at, before = self.journal, self.runtime.now(), self._heartbeat_at
        away = begun_at - self._last_at
        self._sending = True
        self._schedule(begun_at)
        try:
            await self.read()
            renamed = journal.worker != self._name
            if renamed or (journal.lease is not None and away > journal.lease):
                _log.warning(
                    "This worker was away for %.0f s (its event loop stood still, or it did not reach the journal), and"
                    " other workers may have taken over its jobs. It continues with those that are still its own.",
                    away,
                )
            # By the journal's clock, too: the loop's stands still while the machine sleeps.
            if renamed or max(away, self._heartbeat_at - before) > _AWAY_AFTER * journal.heartbeat_interval:
                await self.follower.enter_anew()
            self._last_at, self._name = begun_at, journal.worker
            self._share()
            await self._take_over()
            self._failing = False
        except errors.JournalError as error:
            if not self._failing:
                _log.error("The journal has not taken a heartbeat of this worker, which sends it again soon: %s", error)
            self._failing = True
        finally:
            self._sending = False
